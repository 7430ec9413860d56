"""nats-py's client, set up to be let go of, and with a transport of ours under it for the data lane.

The one module that reaches inside of nats-py: `INSIDES` names what it uses, `changed` says what is not there any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import ParseResult

from nats.aio.client import Client, Srv, __version__
from nats.aio.transport import Transport

from slipstream.stores.nats.lane import OnFrames
from slipstream.stores.nats.wire import WireError, WireReader, error_text

_log = logging.getLogger(__name__)
_PATIENCE = 0.5
"""Seconds that the other end has to take what is left when a client is closed."""
_PORT = 4222

TESTED = ("2.16.",)
"""The versions of nats-py that the data lane was tested with."""
INSIDES: dict[str, type] = {
    "_transport": type(None),
    "_reconnection_task": type(None),
    "_current_server": type(None),
    "_server_pool": list,
    "_pending": list,
    "_pending_data_size": int,
}
"""Attributes of a new client, and what they hold."""
CALLS: dict[str, list[str]] = {
    "_connect_to_server": ["self", "s"],
    "_process_op_err": ["self", "e"],
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
    """nats-py's client, but one that lets go of lost connections and insists on TLS.

    Attributes:
        wants_certificate: the server that was tried last asks for one of the client.
    """

    wants_certificate = False

    async def _process_op_err(self, e: Exception) -> None:
        # nats-py waits for the lost socket to take what is buffered: for ever, where the other end only stopped
        # reading. And it would send what it still holds on the next connection, long after its deadline.
        if not self.is_closed and not self.is_reconnecting:
            _let_go(self)
        await super()._process_op_err(e)

    async def leave(self, why: str) -> None:
        """Go to another server, and come back to this one when those have failed; stay where there is no other."""
        server = self._current_server
        if server is not None and len(self._server_pool) > 1:
            _log.warning("going to another server: %s", why)
            server.reconnects += 1  # as if it had failed: see `dial`
            await self._process_op_err(ConnectionAbortedError(why))

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
        # nats-py forgets the socket of an attempt to reconnect that failed, and leaves it open.
        _drop_socket(self)
        await super()._connect_to_server(s)


class LaneClient(StoreClient):
    """A client whose connections hand the messages of our subscriptions over as they are received.

    Attributes:
        routes: for each of our subscription ids what takes its messages.
        on_lost: called at once when a connection ends, for whatever reason.
        on_error_text: called with what the server says in an `-ERR`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.routes: dict[bytes, OnFrames] = {}
        self.on_lost: Callable[[], None] = _nothing
        self.on_error_text: Callable[[str], None] = _nothing

    async def _connect_to_server(self, s: Srv) -> None:
        _let_go(self)
        # A new one for every connection: what the last one left half read or unsent ends with it.
        self._transport = LaneTransport(self)
        await super(StoreClient, self)._connect_to_server(s)

    def send(self, command: bytes) -> None:
        """Send it with whatever else is sent in this turn of the loop; dropped if the connection is gone."""
        transport = self._transport
        if transport is not None:
            transport.write(command)


class LaneTransport(Transport, asyncio.Protocol):
    """One TCP or TLS connection: nats-py's part of the conversation is handed to it, ours never gets there.

    What is written in one turn of the loop leaves in one write. Nothing waits for a peer that may be gone.
    """

    def __init__(self, client: LaneClient) -> None:
        self._client = client
        self._reader = WireReader(client.routes)
        self._greeting: bytearray | None = bytearray()
        self._others: list[bytes] = []
        self._out: list[bytes] = []
        self._io: asyncio.Transport | None = None
        self._over = False
        self._error: Exception | None = None
        self._full = False
        self._moved = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = asyncio.Event()

    # What nats-py asks for.

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        assert uri.hostname is not None, "checked with the configuration"
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(connect_timeout):
            await loop.create_connection(lambda: self, uri.hostname, uri.port or _PORT)

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        self._flush()
        assert self._io is not None, "connect comes first"
        hostname = uri if isinstance(uri, str) else uri.hostname
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(connect_timeout):
            self._io = await loop.start_tls(self._io, self, ssl_context, server_hostname=hostname)

    def write(self, payload: bytes) -> None:
        if not self._over:
            if not self._out:
                asyncio.get_running_loop().call_soon(self._flush)
            self._out.append(payload)

    def writelines(self, payload: list[bytes]) -> None:
        for part in payload:
            self.write(part)

    async def drain(self) -> None:
        self._flush()
        while self._full and not self._over and not self._client.is_closed:
            await self._room.wait()
        if self._over and not self._client.is_closed:
            raise ConnectionResetError("the connection is gone")

    async def readline(self) -> bytes:
        """A line of the greeting. What comes after it goes through `read`."""
        assert self._greeting is not None, "the greeting is over"
        while b"\n" not in self._greeting and not self._over:
            self._moved.clear()
            await self._moved.wait()
        if self._error is not None:
            raise self._error
        line, newline, rest = self._greeting.partition(b"\n")
        self._greeting = rest
        return bytes(line + newline)

    async def read(self, buffer_size: int) -> bytes:
        """Whole operations that are not ours; empty at the end."""
        if self._greeting is not None:
            early, self._greeting = bytes(self._greeting), None
            self.data_received(early)
        while not self._others and not self._over:
            self._moved.clear()
            await self._moved.wait()
        if not self._others and self._error is not None:
            raise self._error
        taken = b"".join(self._others)
        self._others.clear()
        return taken

    def at_eof(self) -> bool:
        return self._over and not self._others and self._error is None

    def close(self) -> None:
        # Reconnecting means that this connection is lost: nobody takes what is left.
        if self._client.is_reconnecting or self._io is None:
            self.abort()
        else:
            self._flush()
            self._end(None)
            self._io.close()

    async def wait_closed(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._ended.wait()
        except TimeoutError:
            _log.debug("the other end did not take the last bytes")
        finally:
            self.abort()

    def __bool__(self) -> bool:
        return True

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._io = transport
        if self._over:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if self._greeting is not None:
            self._greeting += data
            self._moved.set()
            return
        try:
            others = self._reader.feed(data)
        except WireError as error:
            self.abort(ConnectionError(f"not the NATS protocol: {error}"))
            return
        if others:
            for operation in others:
                text = error_text(operation)
                if text is not None:
                    self._client.on_error_text(text)
            self._others += others
            self._moved.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        self._ended.set()

    def pause_writing(self) -> None:
        self._full = True
        self._room.clear()

    def resume_writing(self) -> None:
        self._full = False
        self._room.set()

    # Inside.

    def abort(self, error: Exception | None = None) -> None:
        """End it now; what was not sent is dropped. Safe to repeat."""
        self._end(error)
        if self._io is None:
            self._ended.set()
            return
        # What asyncio raises where a transport has closed already, after handing over its buffer.
        with contextlib.suppress(AttributeError):
            self._io.abort()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._io is not None and not self._over:
            self._io.write(out[0] if len(out) == 1 else b"".join(out))

    def _end(self, error: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        self._error = error
        self._out = []
        self._moved.set()
        self._room.set()
        if self._client._transport is self:
            self._client.on_lost()


async def hang_up(client: Client) -> None:
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
    reconnecting = client._reconnection_task
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
