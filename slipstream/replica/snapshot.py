"""What keeps the fold of a replica: its entries, and the cursor up to which they are right."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from slipstream.model import KvEntry, KvUpdate, WatchCursor


class SnapshotStore(ABC):
    """Entries by key, with the cursor that says which updates are in them; one writer at a time."""

    @classmethod
    @abstractmethod
    async def open(cls, path: str | os.PathLike[str]) -> tuple[Self, WatchCursor]:
        """The snapshot in that place and its cursor, `WatchCursor.none()` for a new one.

        Raises: SnapshotError; SnapshotCorruptedError where it is damaged.
        """

    @property
    @abstractmethod
    def cursor(self) -> WatchCursor:
        """The cursor of the last `apply`."""

    @abstractmethod
    async def apply(self, batch: Sequence[KvUpdate], cursor: WatchCursor) -> None:
        """Take the updates and the cursor in, in one step, durable when it returns.

        A DELETE or PURGE removes the key, also one of an unknown version. The batch may be empty: the cursor alone.

        Raises: SnapshotError; then entries and cursor are as they were, and the call may be repeated.
        """

    @abstractmethod
    def get(self, key: str) -> KvEntry | None:
        """The entry; local, no waiting."""

    @abstractmethod
    def range(self, prefix: str = "") -> Iterator[KvEntry]:
        """The entries whose key begins with `prefix`, in key order; use it up before the next `apply`."""

    @abstractmethod
    async def clear(self) -> None:
        """Remove every entry and set the cursor to `WatchCursor.none()`, in one step. Raises as `apply`."""

    @abstractmethod
    async def close(self) -> None:
        """Free what it holds; safe to repeat."""

    @abstractmethod
    def __len__(self) -> int:
        """How many entries there are."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
