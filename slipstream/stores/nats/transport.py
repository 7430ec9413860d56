"""The sockets under nats-py's client: its own, and the one of the data lane. Both keep to nats-py's `Transport`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Protocol
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport, Transport

from slipstream.stores.nats.lane import OnFrames
from slipstream.stores.nats.wire import WireError, WireReader, error_text

_log = logging.getLogger(__name__)
_PATIENCE = 0.5
"""Seconds that the other end has to take what is left when a connection is closed."""
_PORT = 4222


class Owner(Protocol):
    """What a lane's transport asks of the client that it belongs to.

    Attributes:
        routes: for each of our subscription ids what takes its messages.
        on_error_text: called with what the server says in an `-ERR`.
    """

    routes: dict[bytes, OnFrames]
    on_error_text: Callable[[str], None]

    @property
    def is_closed(self) -> bool: ...

    @property
    def is_reconnecting(self) -> bool: ...

    def transport_ended(self, transport: LaneTransport, error: Exception | None) -> None:
        """Called at once when a connection ends, for whatever reason."""


class StreamTransport(TcpTransport):
    """nats-py's transport, whose stream is told that it is encrypted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # nats-py's carries no annotations

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        assert self._io_writer is not None, "just connected"
        # start_tls does not introduce the two. The stream would neither hold the sender back, nor let TLS end without
        # the warning that "returning true from eof_received() has no effect when using ssl".
        transport = self._io_writer.transport
        transport.get_protocol().connection_made(transport)

    def __bool__(self) -> bool:
        return True  # nats-py would make one of its own


class LaneTransport(Transport, asyncio.Protocol):
    """One TCP or TLS connection: nats-py's part of the conversation is handed to it, ours never gets there.

    What is written in one turn of the loop leaves in one write. Nothing waits for a peer that may be gone.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._reader = WireReader(owner.routes)
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
        while self._full and not self._over and not self._owner.is_closed:
            await self._room.wait()
        if self._over and not self._owner.is_closed:
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
        if self._owner.is_reconnecting or self._io is None:
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
                    self._owner.on_error_text(text)
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
        self._owner.transport_ended(self, error)
