"""The connection of `memory://` and `memory://name`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self, get_args

from slipstream.checks import drift
from slipstream.errors import NotConnectedError, UnsupportedError
from slipstream.events import ConnectionEvents
from slipstream.interfaces import Connection, KvStore, Reads
from slipstream.keys import check_bucket
from slipstream.model import ConnectionCapabilities, ConnectionEvent, ConnectionState, StoreConfig
from slipstream.stores.memory.server import BucketRef, MemoryServer, Session, shared_server
from slipstream.stores.memory.store import MemoryStore

_log = logging.getLogger(__name__)

_CAPABILITIES = ConnectionCapabilities(ttl=True, transactions=True, fencing=True)


class MemoryConnection(Connection):
    """Stores in the memory of this process, for one event loop at a time and no second thread."""

    def __init__(self, name: str | None = None, *, op_timeout: float = 30.0) -> None:
        """A connection that is not yet connected.

        Args:
            name: connections of one name share their stores, which live as long as the process; None keeps them to
                this connection.
            op_timeout: seconds, > 0, after which a read gives up waiting for its `min_version`.
        """
        if not op_timeout > 0:  # NaN too
            raise ValueError(f"op_timeout is more than 0 seconds, not {op_timeout}")
        server = MemoryServer() if name is None else shared_server(name)
        self._session = Session(server, op_timeout=op_timeout)
        self._events = ConnectionEvents()

    async def connect(self) -> None:
        await asyncio.sleep(0)
        connected = self._session.healthy
        self._session.open()
        if not connected:
            self._events.emit(ConnectionEvent(state=ConnectionState.CONNECTED))

    async def shutdown(self) -> None:
        self._session.close()
        self._events.close()

    def is_healthy(self) -> bool:
        return self._session.healthy

    def events(self) -> AsyncIterator[ConnectionEvent]:
        """Nothing but CONNECTED and CLOSED happens here."""
        return self._events.subscribe()

    async def store(self, config: str | StoreConfig, *, reads: Reads | None = None) -> KvStore:
        """`num_replicas`, `placement` and the like are kept in the configuration and have no effect; so has `reads`."""
        wanted = config if isinstance(config, StoreConfig) else StoreConfig(name=config)
        if reads is not None and reads not in get_args(Reads):
            raise ValueError(f"reads is one of {', '.join(get_args(Reads))}, not {reads!r}")
        if wanted.mirror is not None:
            raise UnsupportedError(store=wanted.name, message="memory:// has no mirrors")
        server = await self._server(wanted.name)
        bucket = server.find_or_create(wanted)
        for difference in bucket.unreported(drift(wanted, bucket.stream.config)):
            _log.warning(
                "store %r exists with %s = %r, %r was asked for; it is left as it is",
                wanted.name,
                difference.field,
                difference.actual,
                difference.wanted,
            )
        return MemoryStore(BucketRef(self._session, wanted))

    async def stores(self) -> list[str]:
        return (await self._server()).names()

    async def delete_store(self, name: str) -> None:
        (await self._server(check_bucket(name))).delete(name)

    @property
    def capabilities(self) -> ConnectionCapabilities:
        if not self._session.opened:
            raise NotConnectedError(message="not connected: connect() comes first")
        return _CAPABILITIES

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    async def _server(self, store: str | None = None) -> MemoryServer:
        await asyncio.sleep(0)  # as BucketRef.open
        self._session.check(store)
        return self._session.server
