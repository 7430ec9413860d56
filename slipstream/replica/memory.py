"""A snapshot that lives as long as its process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Self

from slipstream.model import KvEntry, KvUpdate, WatchCursor
from slipstream.replica.snapshot import SnapshotStore


class MemorySnapshot(SnapshotStore):
    """A dict: nothing is kept when the process ends. The default of `Replica`."""

    def __init__(self) -> None:
        self._entries: dict[str, KvEntry] = {}
        self._cursor = WatchCursor.none()

    @classmethod
    async def open(cls, path: str | os.PathLike[str] = "") -> tuple[Self, WatchCursor]:
        """A new one, whatever the path."""
        return cls(), WatchCursor.none()

    @property
    def cursor(self) -> WatchCursor:
        return self._cursor

    async def apply(self, batch: Sequence[KvUpdate], cursor: WatchCursor) -> None:
        for update in batch:
            entry = update.entry
            if entry is None:
                self._entries.pop(update.key, None)
            else:
                self._entries[update.key] = entry
        self._cursor = cursor

    def get(self, key: str) -> KvEntry | None:
        return self._entries.get(key)

    def range(self, prefix: str = "") -> Iterator[KvEntry]:
        entries = self._entries
        return iter([entries[key] for key in sorted(key for key in entries if key.startswith(prefix))])

    async def clear(self) -> None:
        self._entries.clear()
        self._cursor = WatchCursor.none()

    async def close(self) -> None:
        """Nothing to free: its entries stay readable."""

    def __len__(self) -> int:
        return len(self._entries)
