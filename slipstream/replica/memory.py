"""A snapshot that lives as long as its process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Self

from slipstream.errors import SnapshotError
from slipstream.keys import check_prefix
from slipstream.model import KvEntry, KvUpdate, WatchCursor
from slipstream.replica.change import change_of
from slipstream.replica.order import KeyOrder
from slipstream.replica.snapshot import SnapshotStore

_PAGE = 256


class MemorySnapshot(SnapshotStore):
    """A dict: nothing is kept when the process ends, or once it is closed. The default of `Replica`."""

    def __init__(self) -> None:
        self._entries: dict[str, KvEntry] = {}
        self._order = KeyOrder()
        self._cursor = WatchCursor.none()
        self._closed = False

    @classmethod
    async def open(cls, path: str | os.PathLike[str] = "") -> tuple[Self, WatchCursor]:
        """A new one, whatever the path."""
        return cls(), WatchCursor.none()

    @property
    def cursor(self) -> WatchCursor:
        return self._cursor

    async def apply(self, batch: Sequence[KvUpdate], cursor: WatchCursor) -> None:
        self._check_open()
        change = change_of(batch)
        for key in change.removed:
            self._entries.pop(key, None)
        self._order.add(key for key in change.puts if key not in self._entries)
        self._entries.update(change.puts)
        self._cursor = cursor

    def get(self, key: str) -> KvEntry | None:
        self._check_open()
        return self._entries.get(key)

    def range(self, prefix: str = "") -> Iterator[KvEntry]:
        return self._pages(check_prefix(prefix))

    async def clear(self) -> None:
        self._check_open()
        self._entries.clear()
        self._order.clear()
        self._cursor = WatchCursor.none()

    async def close(self) -> None:
        self._closed = True

    def __len__(self) -> int:
        return len(self._entries)

    def _pages(self, prefix: str) -> Iterator[KvEntry]:
        after: str | None = None
        while True:
            self._check_open()
            page = self._order.page(self._entries, prefix=prefix, after=after, size=_PAGE)
            if not page:
                return
            # Picked before any is handed out: a key may go while the reader is at another one.
            yield from [self._entries[key] for key in page]
            after = page[-1]

    def _check_open(self) -> None:
        if self._closed:
            raise SnapshotError(message="the snapshot in memory is closed, and what it held is gone: take a new one")
