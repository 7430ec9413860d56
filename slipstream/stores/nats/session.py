"""One nats-py client with the lane over it: dialled and owned, or borrowed."""

from __future__ import annotations

import asyncio
import logging

from nats.aio.client import Client

from slipstream.errors import NotConnectedError
from slipstream.stores.nats.config import NatsConnectionConfig, redact_url
from slipstream.stores.nats.dial import dial
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.slow_lane import SlowLane

_log = logging.getLogger(__name__)
_CLOSE_SECONDS = 1.0
_LOOK_SECONDS = 0.5


class Session:
    """The client, its lane, and what is known of the server. Events of one session never touch another's."""

    def __init__(self, client: Client, *, owned: bool) -> None:
        self.client = client
        self.lane = SlowLane(client)
        self.features: ServerFeatures | None = None
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
                session.features = None  # it may be another server
                session.lane.reconnected()

        async def on_closed() -> None:
            if session is not None:
                session.lane.closed()

        def on_error(error: Exception) -> None:
            if session is not None:
                session.lane.error(error)

        client = await dial(
            config,
            on_disconnected=on_disconnected,
            on_reconnected=on_reconnected,
            on_closed=on_closed,
            on_error=on_error,
        )
        session = cls(client, owned=True)
        try:
            await session.lane.open()
        except BaseException:
            await session.aclose()
            raise
        return session

    @classmethod
    async def borrow(cls, client: Client) -> Session:
        """Use a client of somebody else's. Raises: NotConnectedError unless it is connected."""
        if not client.is_connected:
            raise NotConnectedError(
                message="the borrowed client is not connected: connect it yourself, slipstream never redials it"
            )
        session = cls(client, owned=False)
        await session.lane.open()
        session._looker = asyncio.create_task(session._look(), name="slipstream-borrowed-client")
        return session

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
        await self.lane.aclose()
        if not self._owned:
            return
        closing = asyncio.create_task(self.client.close(), name="slipstream-close")
        try:
            done, _ = await asyncio.wait({closing}, timeout=_CLOSE_SECONDS)
        finally:
            if not closing.done():
                closing.cancel()
        if done and closing.exception() is not None:
            _log.debug("closing the client: %s", closing.exception())

    async def _look(self) -> None:
        """Notice what a borrowed client does not tell: its callbacks belong to its owner."""
        connected, reconnects = True, self.client.stats["reconnects"]
        while not self.client.is_closed:
            await asyncio.sleep(_LOOK_SECONDS)
            now_connected, now_reconnects = self.client.is_connected, self.client.stats["reconnects"]
            if connected and (not now_connected or now_reconnects != reconnects):
                self.lane.disconnected()
                connected = False
            if not connected and now_connected:
                self.lane.reconnected()
                connected = True
            reconnects = now_reconnects
        self.lane.closed()
