"""L2: what a snapshot store is: the fold of a bucket on disk, and how far it has come."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from slipstream.model import KvEntry, KvUpdate, WatchCursor


class SnapshotStore(ABC):
    """A fold of a bucket (last value of each live key) kept with its cursor, both moved in one atomic step.

    Whenever it is opened, also after a crash, the fold is what `apply` made of every batch up to the cursor, and of
    none beyond it. One store owns its folder; tasks may share the store: what they apply is done one after the other.

    Raises, all of it: SnapshotError when the disk refuses, or once the store is closed; SnapshotCorruptedError when
    what was written is not what is read.
    """

    @classmethod
    @abstractmethod
    async def open(cls, path: str | os.PathLike[str]) -> tuple[Self, WatchCursor]:
        """The store in the folder `path`, made if it is not there, and its cursor: `none()` for a new one.

        What a crash left half written is dropped. Cancelled, nothing stays open.

        Raises: SnapshotError if the folder is open already, in whichever process, cannot be written, or holds
            something else or a newer format; SnapshotCorruptedError if it is damaged: restore it, or remove the
            folder and let the bucket be read anew.
        """

    @abstractmethod
    async def apply(self, batch: Sequence[KvUpdate], cursor: WatchCursor) -> None:
        """Take in the batch and move to `cursor`: both durable when it returns.

        Of several updates of a key the last one counts; a DELETE or PURGE removes the key, whatever its version. An
        empty batch moves the cursor alone. Cancelled, it first finishes what it has begun: the batch is in whole or
        not at all, as `cursor` tells.

        Raises: SnapshotError; fold and cursor are as they were, and the same call may be repeated.
        """

    @abstractmethod
    def get(self, key: str) -> KvEntry | None:
        """The entry, or None if the key is absent. Local, and no waiting."""

    @abstractmethod
    def range(self, prefix: str = "") -> Iterator[KvEntry]:
        """The entries whose key begins with `prefix`, in key order (by code point).

        A batch may be applied between two steps: every key that lives throughout is there once, with a value that was
        current meanwhile. It is no copy of one moment.

        Raises: InvalidKeyError at once.
        """

    @abstractmethod
    async def clear(self) -> None:
        """Empty the fold and set the cursor to `none()`, in one step: for a bucket that was made again.

        Raises and cancels as `apply`.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of the folder; safe to repeat. Cancelled, it has closed all the same."""

    @property
    @abstractmethod
    def cursor(self) -> WatchCursor:
        """The position after the last update that is in the fold."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of keys."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
