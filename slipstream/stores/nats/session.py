"""One nats-py client with the lane over it: dialled and owned, or borrowed."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client

from slipstream.errors import NotConnectedError
from slipstream.model import ConnectionEvent, ConnectionState
from slipstream.stores.nats.client import LaneClient, StoreClient, changed, hang_up
from slipstream.stores.nats.config import NatsConnectionConfig, redact_url
from slipstream.stores.nats.data_lane import DataLane
from slipstream.stores.nats.dial import dial
from slipstream.stores.nats.failover import Failover
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.quorum import Quorum
from slipstream.stores.nats.slow_lane import SlowLane
from slipstream.stores.nats.watchdog import Watchdog

_log = logging.getLogger(__name__)
_CLOSE_SECONDS = 0.5
_LOOK_SECONDS = 0.5


class Session:
    """The client, its lane, and what is known of the server. What becomes of one never touches another.

    Attributes:
        features: what the server can do, None where it was not learned yet or has no JetStream.
        quorum: which leaders of its streams can be believed.
        outdated: the features are of a server from before a reconnect, which may have been another one.
    """

    def __init__(self, client: Client, *, owned: StoreClient | None = None) -> None:
        self.client = client
        self.lane = DataLane(client) if isinstance(client, LaneClient) else SlowLane(client)
        self.features: ServerFeatures | None = None
        self.outdated = False
        self._owned = owned
        self._failover: Failover | None = None
        self._companion: asyncio.Task[None] | None = None
        self._is_lost = False
        self._attempts = 0
        self._server = client.connected_url
        self._emit: Callable[[ConnectionEvent], None] | None = None
        self._event = ConnectionEvent(state=ConnectionState.CONNECTED, server=self.where)
        self.quorum = Quorum(self._leave if owned is not None else None)
        self.lane.add_listener(self.quorum)

    @classmethod
    async def dial(cls, config: NatsConnectionConfig) -> Session:
        """Connect a client of our own. Raises: ConnectionFailedError, AuthenticationError."""
        session: Session | None = None
        failover = Failover(config.reconnect_max_wait)

        def on_lost(error: Exception | None) -> None:
            if session is not None:
                session._lost(error)

        def on_attempt(url: str) -> None:
            if session is not None:
                session._attempting(redact_url(url))

        async def on_reconnected() -> None:
            if session is not None:
                session._reconnected()

        async def on_lame_duck() -> None:
            if session is not None:
                await session._leave_lame_duck()

        async def on_closed() -> None:
            if session is not None:
                session._given_up()

        def on_error(error: Exception) -> None:
            if session is not None:
                session.lane.error(error)

        client = LaneClient() if _takes_data_lane(config) else StoreClient()
        client.on_lost = on_lost
        await dial(
            config,
            client=client,
            failover=failover,
            on_attempt=on_attempt,
            on_reconnected=on_reconnected,
            on_lame_duck=on_lame_duck,
            on_closed=on_closed,
            on_error=on_error,
        )
        session = cls(client, owned=client)
        session._failover = failover
        await session._open()
        watchdog = Watchdog(
            client,
            lambda: session.lane.is_connected,
            ping_interval=config.ping_interval,
            max_pings_out=config.max_pings_out,
            connect_timeout=config.connect_timeout,
            reconnect_max_wait=config.reconnect_max_wait,
        )
        session._companion = asyncio.create_task(watchdog.run(), name="slipstream-watchdog")
        return session

    @classmethod
    async def borrow(cls, client: Client) -> Session:
        """Use a client of somebody else's. Raises: NotConnectedError unless it is connected."""
        if not client.is_connected:
            raise NotConnectedError(
                message="the borrowed client is not connected: connect it yourself, slipstream never redials it"
            )
        session = cls(client)
        await session._open()
        session._companion = asyncio.create_task(session._look(), name="slipstream-borrowed-client")
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
        """The address of the server that it is or was last connected to, without secrets."""
        return redact_url(self._server.geturl()) if self._server is not None else "unknown"

    def report_to(self, emit: Callable[[ConnectionEvent], None]) -> None:
        """Tell these what becomes of the connection, beginning with the last that did."""
        self._emit = emit
        emit(self._event)

    async def aclose(self) -> None:
        """End the lane, and the client if it is our own. Bounded: the other end may be dead."""
        self._emit = None  # what ends now ends on purpose
        if self._companion is not None:
            self._companion.cancel()
            await asyncio.wait({self._companion})
        await self.quorum.aclose()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.lane.aclose()
        except TimeoutError:
            _log.debug("the server took no farewell")
        if self._owned is not None:
            await hang_up(self._owned)

    # What becomes of the connection.

    def _lost(self, error: Exception | None) -> None:
        """It ended, at once and once: what is under way is told before anybody waits for the socket to close."""
        if self._is_lost:
            return
        self._is_lost = True
        self._attempts = 0
        reason = "the server closed the connection" if error is None else str(error) or type(error).__name__
        _log.info("disconnected from %s: %s", self.where, reason)
        if self._failover is not None and self._server is not None:
            self._failover.lost(self._server.netloc, time.monotonic())
        self.lane.disconnected()
        self._tell(ConnectionState.DISCONNECTED, server=self.where, reason=reason)

    def _attempting(self, server: str) -> None:
        self._attempts += 1
        self._tell(ConnectionState.RECONNECTING, server=server, attempt=self._attempts)

    def _reconnected(self) -> None:
        self._is_lost = False
        self._server = self.client.connected_url or self._server
        self.outdated = True
        _log.info("reconnected to %s", self.where)
        self.lane.reconnected()
        self._tell(ConnectionState.CONNECTED, server=self.where)

    async def _leave_lame_duck(self) -> None:
        """Go while there is somewhere to go: the server's JetStream has ended already, and it will cut us off."""
        _log.info("%s is about to shut down", self.where)
        self._tell(ConnectionState.LAME_DUCK, server=self.where)
        await self._leave("the server is about to shut down: moving to another one")

    async def _leave(self, why: str) -> None:
        """Go to another server, and come back to this one when those have failed; stay where there is no other."""
        if self._owned is not None and len(self._owned.servers) > 1:
            await self._owned.redial(ConnectionError(why))

    def _given_up(self) -> None:
        """The client will not connect again: its owner closed it."""
        self._is_lost = True
        self.lane.closed()
        self._tell(ConnectionState.DISCONNECTED, server=self.where, reason="the client was closed")

    def _tell(self, state: ConnectionState, **parts: Any) -> None:
        self._event = ConnectionEvent(state=state, **parts)
        if self._emit is not None:
            self._emit(self._event)

    async def _look(self) -> None:
        """Notice what a borrowed client does not tell: its callbacks belong to its owner."""
        connected, reconnects, known_error = True, self.client.stats["reconnects"], self.client.last_error
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self.client.is_closed:
                break
            if (error := self.client.last_error) is not known_error:
                known_error = error
                if error is not None:
                    self.lane.error(error)
            now_connected, now_reconnects = self.client.is_connected, self.client.stats["reconnects"]
            if connected and (not now_connected or now_reconnects != reconnects):
                self._lost(ConnectionError("the borrowed client lost its connection"))
                connected = False
            if not connected and now_connected:
                self._reconnected()
                connected = True
            reconnects = now_reconnects
        self._given_up()


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
