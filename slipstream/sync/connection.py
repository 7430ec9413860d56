"""Connections."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import ParamSpec, Self

from slipstream.connect import connect as connect_async
from slipstream.interfaces import Connection, Reads
from slipstream.model import ConnectionCapabilities, ConnectionEvent, StoreConfig
from slipstream.sync.portal import Portal, following, read, shared_portal
from slipstream.sync.store import SyncStore

P = ParamSpec("P")


class SyncConnection:
    """As `Connection`: `with slipstream.sync.connect(url) as conn`."""

    def __init__(self, connection: Connection, portal: Portal) -> None:
        self._connection = connection
        self._portal = portal

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def connect(self) -> None:
        """Connect; does nothing if connected. What is still connected when the program ends is shut down then."""
        self._portal.call(self._connection.connect())
        self._portal.opened(self._connection.shutdown)

    def shutdown(self) -> None:
        """Disconnect for good. Safe to repeat."""
        self._portal.call_at_end(self._connection.shutdown())
        self._portal.closed(self._connection.shutdown)

    def is_healthy(self) -> bool:
        """Connected as far as is known; no I/O."""
        return self._connection.is_healthy()

    def events(self) -> Iterator[ConnectionEvent]:
        """What becomes of the connection, kept from this call on; see `Connection.events`."""
        return self._taken(self._portal.call(read(self._connection.events)))

    def store(self, config: str | StoreConfig, *, reads: Reads | None = None) -> SyncStore:
        """The store of that name; the bucket is made if there is none."""
        return SyncStore(self._portal.call(self._connection.store(config, reads=reads)), self._portal)

    def stores(self) -> list[str]:
        """The names of all buckets, sorted."""
        return self._portal.call(self._connection.stores())

    def delete_store(self, name: str) -> None:
        """Delete the bucket and all it holds."""
        self._portal.call(self._connection.delete_store(name))

    @property
    def capabilities(self) -> ConnectionCapabilities:
        """What the server can do."""
        return self._connection.capabilities

    def _taken(self, events: AsyncIterator[ConnectionEvent]) -> Iterator[ConnectionEvent]:
        while (event := self._portal.call(following(events))) is not None:
            yield event


def _in_background(make: Callable[P, Connection]) -> Callable[P, SyncConnection]:
    """The same arguments for another result, so that no option is missing here."""

    @functools.wraps(make)
    def connect(*args: P.args, **kwargs: P.kwargs) -> SyncConnection:
        return SyncConnection(make(*args, **kwargs), shared_portal())

    return connect


connect = _in_background(connect_async)
