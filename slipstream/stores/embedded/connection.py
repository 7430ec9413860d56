"""The connection of `embedded://`: a server of its own or shared, and a connection to it that does the work."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from slipstream.errors import NotConnectedError
from slipstream.events import ConnectionEvents
from slipstream.interfaces import Connection, KvStore, Reads
from slipstream.model import ConnectionCapabilities, ConnectionEvent, ConnectionState, StoreConfig
from slipstream.stores.embedded.server import EmbeddedServer, to_its_end


class EmbeddedConnection(Connection):
    """A connection to the private nats-server of a folder, which runs while anyone uses the folder.

    Args:
        directory: where the server keeps its data; connections that name it share the server, in whichever process.
            None is a temporary folder of this connection alone, removed at the end.
        dial: makes the connection to a URL, which holds the server's token.
        start_timeout: seconds within which the server must be found or started.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        *,
        dial: Callable[[str], Connection],
        start_timeout: float = 10.0,
    ) -> None:
        if not start_timeout > 0:  # NaN too
            raise ValueError(f"start_timeout is more than 0 seconds, not {start_timeout}")
        self._directory = directory
        self._dial = dial
        self._start_timeout = start_timeout
        self._attempt: _Attempt | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._closing = asyncio.Lock()
        self._events = ConnectionEvents()

    async def connect(self) -> None:
        """Find or start the server and connect to it. Failed or cancelled, it leaves neither process nor lock.

        Raises: ConnectionFailedError, also without a nats-server binary; NotConnectedError after `shutdown`.
        """
        if self._closed:
            raise NotConnectedError(message="this connection was shut down: make a new one")
        if self._connection is not None:
            return
        if self._attempt is None:
            self._attempt = _Attempt(asyncio.create_task(self._open(), name="slipstream-embedded-open"))
        attempt = self._attempt
        attempt.waiting += 1
        try:
            await asyncio.wait([attempt.task])
        except asyncio.CancelledError:
            if attempt.waiting == 1 and self._connection is None:  # nobody else wants it
                self._forget(attempt)
                await to_its_end(attempt.undo())
            raise
        finally:
            attempt.waiting -= 1
        if self._closed:
            raise NotConnectedError(message="the connection was shut down while it was being opened")
        try:
            self._connection = attempt.task.result().connection
        except BaseException:
            self._forget(attempt)  # the next connect() tries again
            raise

    async def shutdown(self) -> None:
        """Disconnect for good; the last user of the folder waits for the server's end, within 5 s."""
        self._closed = True
        try:
            await to_its_end(self._shutdown())
        finally:
            self._events.close()

    def is_healthy(self) -> bool:
        return self._connection is not None and self._connection.is_healthy()

    def events(self) -> AsyncIterator[ConnectionEvent]:
        return self._events.subscribe()

    @property
    def connection(self) -> Connection:
        """That to the server of the folder, which does the work. Raises: NotConnectedError before `connect`."""
        return self._connected()

    @property
    def capabilities(self) -> ConnectionCapabilities:
        return self._connected().capabilities

    async def store(self, config: str | StoreConfig, *, reads: Reads | None = None) -> KvStore:
        return await self._connected().store(config, reads=reads)

    async def stores(self) -> list[str]:
        return await self._connected().stores()

    async def delete_store(self, name: str) -> None:
        await self._connected().delete_store(name)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    def __repr__(self) -> str:
        where = "a temporary folder" if self._directory is None else repr(os.fspath(self._directory))
        state = "shut down" if self._closed else "healthy" if self.is_healthy() else "not connected"
        return f"EmbeddedConnection({where}, {state})"

    async def _open(self) -> _Link:
        server = EmbeddedServer(self._directory, start_timeout=self._start_timeout)
        connection = None
        try:
            await server.join()
            connection = self._dial(server.url)
            await connection.connect()
        except BaseException:
            if connection is not None:
                await to_its_end(connection.shutdown())
            await to_its_end(server.leave())
            raise
        companions = [
            asyncio.create_task(server.keep(), name="slipstream-embedded-keep"),
            asyncio.create_task(self._relay(connection.events()), name="slipstream-embedded-events"),
        ]
        return _Link(server, connection, companions)

    async def _relay(self, events: AsyncIterator[ConnectionEvent]) -> None:
        async for event in events:
            if event.state is not ConnectionState.CLOSED:  # that is ours to say, once the server has been left
                self._events.emit(event)

    async def _shutdown(self) -> None:
        async with self._closing:
            attempt = self._attempt
            if attempt is not None:
                self._forget(attempt)
                await attempt.undo()

    def _forget(self, attempt: _Attempt) -> None:
        if self._attempt is attempt:
            self._attempt = None

    def _connected(self) -> Connection:
        if self._closed:
            raise NotConnectedError(message="the connection was shut down")
        if self._connection is None:
            raise NotConnectedError(message="not connected yet: await connect(), or use `async with`")
        return self._connection


@dataclass(frozen=True)
class _Link:
    """What a successful attempt opened."""

    server: EmbeddedServer
    connection: Connection
    companions: list[asyncio.Task[None]]

    async def close(self) -> None:
        try:
            await self.connection.shutdown()
        finally:
            for task in self.companions:
                task.cancel()
            await asyncio.wait(self.companions)
            await self.server.leave()


@dataclass(eq=False)
class _Attempt:
    """Opening the connection, once for all who wait for it."""

    task: asyncio.Task[_Link]
    waiting: int = 0

    async def undo(self) -> None:
        """End it and close what it opened; what it raised is for those who wait for it."""
        self.task.cancel()
        await asyncio.wait([self.task])
        if not self.task.cancelled() and self.task.exception() is None:
            await self.task.result().close()
