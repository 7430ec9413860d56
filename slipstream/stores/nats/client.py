"""nats-py's client, set up to be let go of, and with a transport of ours under it for the data lane.

The one module that reaches inside of nats-py: `INSIDES` names what it uses, `changed` says what is not there any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import Client, Srv, __version__
from nats.aio.transport import Transport
from nats.protocol.parser import PERMISSIONS_ERR, STALE_CONNECTION

from slipstream.stores.nats.lane import OnFrames
from slipstream.stores.nats.transport import LaneTransport, StreamTransport

_log = logging.getLogger(__name__)
_PATIENCE = 0.5
"""Seconds that the other end has to take what is left when a client is closed."""

TESTED = ("2.16.",)
"""The versions of nats-py that the data lane was tested with."""
INSIDES: dict[str, type] = {
    "_transport": type(None),
    "_reconnection_task": type(None),
    "_reading_task": type(None),
    "_ping_interval_task": type(None),
    "_flusher_task": type(None),
    "_status": int,
    "_pongs_received": int,
    "_current_server": type(None),
    "_server_pool": list,
    "_pending": list,
    "_pending_data_size": int,
}
"""Attributes of a new client, and what they hold."""
_LEFT_TO_NATS_PY = (PERMISSIONS_ERR, STALE_CONNECTION)
CALLS: dict[str, list[str]] = {
    "_connect_to_server": ["self", "s"],
    "_process_op_err": ["self", "e"],
    "_process_err": ["self", "err_msg"],
    "_attempt_reconnect": ["self"],
    "_send_ping": ["self", "future"],
    "force_reconnect": ["self"],
    "_process_info": ["self", "info", "initial_connection"],
    "new_inbox": ["self"],
    "close": ["self"],
}
PROPERTIES = ("is_closed", "is_connected", "is_draining", "is_reconnecting", "max_payload")
TRANSPORT = frozenset(
    {"__bool__", "at_eof", "close", "connect", "connect_tls", "drain", "read", "readline", "wait_closed", "write"}
    | {"writelines"}
)
"""What nats-py asks of a transport."""


def changed() -> list[str]:
    """What of nats-py is not as the data lane knows it; empty where it can be used."""
    found = []
    if not __version__.startswith(TESTED):
        found.append(f"nats-py {__version__} is not one of {', '.join(f'{version}x' for version in TESTED)}")
    client = Client()
    for name, kind in INSIDES.items():
        if not hasattr(client, name):
            found.append(f"Client.{name} is gone")
        elif type(getattr(client, name)) is not kind:
            found.append(f"Client.{name} is a {type(getattr(client, name)).__name__}, not a {kind.__name__}")
    for name, parameters in CALLS.items():
        method = getattr(Client, name, None)
        if method is None:
            found.append(f"Client.{name}() is gone")
        elif list(inspect.signature(method).parameters) != parameters:
            found.append(f"Client.{name} is called as {inspect.signature(method)}")
    found += [
        f"Client.{name} is no property" for name in PROPERTIES if not isinstance(getattr(Client, name, None), property)
    ]
    if Transport.__abstractmethods__ != TRANSPORT:
        found.append(f"Transport differs in {', '.join(sorted(Transport.__abstractmethods__ ^ TRANSPORT))}")
    return found


class StoreClient(Client):
    """nats-py's client, but one that lets go of lost connections, never gives up, and insists on TLS.

    Attributes:
        wants_certificate: the server that was tried last asks for one of the client.
        on_lost: called at once when a connection ends, with the reason if there is one; more than once for some.
        on_attempt: called with the server before each attempt to connect to one.
        attempts: how often a connection was tried.
    """

    wants_certificate = False

    def __init__(self) -> None:
        super().__init__()
        self.on_lost: Callable[[Exception | None], None] = _nothing
        self.on_attempt: Callable[[ParseResult], None] = _nothing
        self.attempts = 0
        self._redialler: asyncio.Task[None] | None = None

    @property
    def pongs(self) -> int:
        """How many pings have been answered."""
        return self._pongs_received

    @property
    def is_redialling(self) -> bool:
        """A task is at work to connect again."""
        return self._reconnection_task is not None and not self._reconnection_task.done()

    async def ping(self) -> None:
        """Send a ping; its answer counts in `pongs`."""
        await self._send_ping()

    async def redial(self, why: Exception) -> None:
        """Drop the connection and connect again, whatever nats-py believes about it."""
        if self.is_closed:
            return
        self.on_lost(why)
        _let_go(self)
        # nats-py would do nothing where it takes itself to be reconnecting already: the task may be dead.
        self._status = Client.CONNECTED
        await self.force_reconnect()

    async def _process_op_err(self, e: Exception) -> None:
        # nats-py waits for the lost socket to take what is buffered: for ever, where the other end only stopped
        # reading. And it would send what it still holds on the next connection, long after its deadline.
        if not self.is_closed and not self.is_reconnecting:
            self.on_lost(e)
            _let_go(self)
        await super()._process_op_err(e)

    async def _process_err(self, err_msg: str) -> None:
        # Where the server says why it ends a connection (credentials that have expired, for one), nats-py closes for
        # good. It is a lost connection like any other: the next one may read renewed credentials.
        if any(known in err_msg for known in _LEFT_TO_NATS_PY):
            await super()._process_err(err_msg)
            return
        said = err_msg.strip("' ")
        await self._process_op_err(nats.errors.Error(f"the server said: {said}"))

    async def _attempt_reconnect(self) -> None:
        # One at a time: nats-py cancels the one before and goes on at once, and wait_for may swallow that (3.11). Two
        # of them would take each other's sockets away.
        while (before := self._redialler) is not None and not before.done():
            before.cancel()
            await asyncio.wait({before}, timeout=_PATIENCE)
        self._redialler = asyncio.current_task()
        if self.is_connected:  # the one before got through after all, and what it made is dropped now
            self.on_lost(None)
        await super()._attempt_reconnect()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # nats-py encrypts where the server demands it. Whoever sits between could claim that it does not, and be told
        # the password: what was asked for with tls:// or tls= is insisted on.
        if initial_connection:
            self.wants_certificate = bool(info.get("tls_verify"))
            if self._insists_on_tls() and not (info.get("tls_required") or self.options["tls_handshake_first"]):
                if not info.get("tls_available"):
                    raise ConnectionRefusedError("the server has no TLS: nothing was sent; without it, use nats://")
                info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    def _insists_on_tls(self) -> bool:
        server = self._current_server
        if "tls" in self.options or server is None:
            return "tls" in self.options
        # A server that another one told of has no scheme that anybody chose.
        trusted = self._server_pool if server.discovered else [server]
        return any(one.uri.scheme == "tls" for one in trusted)

    async def _connect_to_server(self, s: Srv) -> None:
        self.attempts += 1
        self.on_attempt(s.uri)
        # An attempt that failed late leaves tasks behind that would read from this one's socket.
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        self._renew_transport(s)
        async with asyncio.timeout(self.options["connect_timeout"]):  # a WebSocket's own bound is minutes
            await super()._connect_to_server(s)

    def _renew_transport(self, server: Srv) -> None:
        # nats-py forgets the socket of an attempt to reconnect that failed, and leaves it open.
        _drop_socket(self)
        if server.uri.scheme not in ("ws", "wss"):
            self._transport = StreamTransport()


class LaneClient(StoreClient):
    """A client whose connections hand the messages of our subscriptions over as they are received.

    Attributes:
        routes: for each of our subscription ids what takes its messages.
        on_error_text: called with what the server says in an `-ERR`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.routes: dict[bytes, OnFrames] = {}
        self.on_error_text: Callable[[str], None] = _nothing

    def _renew_transport(self, server: Srv) -> None:
        _let_go(self)
        # A new one for every connection: what the last one left half read or unsent ends with it.
        self._transport = LaneTransport(self)

    def transport_ended(self, transport: LaneTransport, error: Exception | None) -> None:
        if self._transport is transport:
            self.on_lost(error)

    def send(self, command: bytes) -> None:
        """Send it with whatever else is sent in this turn of the loop; dropped if the connection is gone."""
        transport = self._transport
        if transport is not None:
            transport.write(command)


async def hang_up(client: StoreClient) -> None:
    """Close a client that `dial` gave. Bounded: what the other end does not take any more is dropped."""
    closing = asyncio.create_task(_close(client), name="slipstream-close")
    try:
        await asyncio.wait({closing}, timeout=2 * _PATIENCE)
    finally:
        if not closing.done():
            _let_go(client)  # nats-py waits for the socket: that ends now, also where this wait was cancelled
    await asyncio.wait({closing}, timeout=_PATIENCE)
    if not closing.done():
        closing.cancel()
    elif closing.exception() is not None:
        _log.debug("closing the client: %s", closing.exception())
    for reconnecting in (client._reconnection_task, client._redialler):
        while reconnecting is not None and not reconnecting.done():
            reconnecting.cancel()  # again: wait_for swallows the one that meets the end of what it waits for (3.11)
            await asyncio.wait({reconnecting}, timeout=_PATIENCE)


async def _close(client: Client) -> None:
    if not (client.is_connected and await _drained(client)):
        _let_go(client)
    await client.close()


async def _drained(client: Client) -> bool:
    """The other end takes what is written."""
    transport: Any = client._transport
    try:
        async with asyncio.timeout(_PATIENCE):
            await transport.drain()
    except (TimeoutError, OSError):
        return False
    return True


def _let_go(client: Client) -> None:
    """Drop the socket, and what waits to be sent."""
    client._pending.clear()
    client._pending_data_size = 0
    _drop_socket(client)


def _drop_socket(client: Client) -> None:
    transport = client._transport
    if isinstance(transport, LaneTransport):
        transport.abort()
        return
    writer = getattr(transport, "_io_writer", None)  # a WebSocket has none, and bounds its own end
    if writer is not None:
        # What asyncio raises where a transport has closed already, after handing over its buffer.
        with contextlib.suppress(AttributeError):
            writer.transport.abort()


def _nothing(*_: object) -> None:
    return None
