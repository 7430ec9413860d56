"""One nats-py client with the lane over it: dialled and owned, or borrowed."""

from __future__ import annotations

import asyncio
import functools
import logging

from nats.aio.client import Client

from slipstream.errors import NotConnectedError
from slipstream.stores.nats.client import LaneClient, StoreClient, changed, hang_up
from slipstream.stores.nats.config import NatsConnectionConfig, redact_url
from slipstream.stores.nats.data_lane import DataLane
from slipstream.stores.nats.dial import dial
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.quorum import Quorum
from slipstream.stores.nats.slow_lane import SlowLane

_log = logging.getLogger(__name__)
_CLOSE_SECONDS = 0.5
_LOOK_SECONDS = 0.5


class Session:
    """The client, its lane, and what is known of the server. Events of one session never touch another's.

    Attributes:
        features: what the server can do, None where it was not learned yet or has no JetStream.
        quorum: which leaders of its streams can be believed.
        outdated: the features are of a server from before a reconnect, which may have been another one.
    """

    def __init__(self, client: Client, *, owned: bool) -> None:
        self.client = client
        self.lane = DataLane(client) if isinstance(client, LaneClient) else SlowLane(client)
        self.features: ServerFeatures | None = None
        self.outdated = False
        self.quorum = Quorum(client.leave if owned and isinstance(client, StoreClient) else None)
        self.lane.add_listener(self.quorum)
        self._owned = owned
        self._looker: asyncio.Task[None] | None = None

    @classmethod
    async def dial(cls, config: NatsConnectionConfig) -> Session:
        """Connect a client of our own. Raises: ConnectionFailedError, AuthenticationError."""
        session: Session | None = None

        async def on_disconnected() -> None:
            if session is not None:
                _log.info("disconnected from %s", config.safe_url)
                session.lane.disconnected()

        async def on_reconnected() -> None:
            if session is not None:
                _log.info("reconnected to %s", session.where)
                session._reconnected()

        async def on_closed() -> None:
            if session is not None:
                session.lane.closed()

        def on_error(error: Exception) -> None:
            if session is not None:
                session.lane.error(error)

        client = await dial(
            config,
            client=LaneClient() if _takes_data_lane(config) else StoreClient(),
            on_disconnected=on_disconnected,
            on_reconnected=on_reconnected,
            on_closed=on_closed,
            on_error=on_error,
        )
        session = cls(client, owned=True)
        await session._open()
        return session

    @classmethod
    async def borrow(cls, client: Client) -> Session:
        """Use a client of somebody else's. Raises: NotConnectedError unless it is connected."""
        if not client.is_connected:
            raise NotConnectedError(
                message="the borrowed client is not connected: connect it yourself, slipstream never redials it"
            )
        session = cls(client, owned=False)
        await session._open()
        session._looker = asyncio.create_task(session._look(), name="slipstream-borrowed-client")
        return session

    async def _open(self) -> None:
        try:
            await self.lane.open()
        except BaseException:
            await self.aclose()
            raise

    @property
    def is_closed(self) -> bool:
        return self.client.is_closed

    @property
    def server_version(self) -> tuple[int, int, int]:
        version = self.client.connected_server_version
        return version.major, version.minor, version.patch

    @property
    def where(self) -> str:
        """The server's address, without secrets."""
        url = self.client.connected_url
        return redact_url(url.geturl()) if url is not None else "unknown"

    async def aclose(self) -> None:
        """End the lane, and the client if it is our own. Bounded: the other end may be dead."""
        if self._looker is not None:
            self._looker.cancel()
            await asyncio.wait({self._looker})
        await self.quorum.aclose()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.lane.aclose()
        except TimeoutError:
            _log.debug("the server took no farewell")
        if self._owned:
            await hang_up(self.client)

    def _reconnected(self) -> None:
        self.outdated = True
        self.lane.reconnected()

    async def _look(self) -> None:
        """Notice what a borrowed client does not tell: its callbacks belong to its owner."""
        connected, reconnects, known_error = True, self.client.stats["reconnects"], self.client.last_error
        while not self.client.is_closed:
            await asyncio.sleep(_LOOK_SECONDS)
            if (error := self.client.last_error) is not known_error:
                known_error = error
                if error is not None:
                    self.lane.error(error)
            now_connected, now_reconnects = self.client.is_connected, self.client.stats["reconnects"]
            if connected and (not now_connected or now_reconnects != reconnects):
                self.lane.disconnected()
                connected = False
            if not connected and now_connected:
                self._reconnected()
                connected = True
            reconnects = now_reconnects
        self.lane.closed()


def _takes_data_lane(config: NatsConnectionConfig) -> bool:
    # A WebSocket has frames, closes and pings of its own: those stay nats-py's.
    if config.lane == "slow" or config.servers[0].startswith("ws"):
        return False
    return not _changed()


@functools.cache
def _changed() -> list[str]:
    """What stands against the data lane, said once."""
    differences = changed()
    if differences:
        _log.warning("the slow lane is used: %s", "; ".join(differences))
    return differences
