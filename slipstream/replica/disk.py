"""What the snapshot stores on disk share: an owned folder, a thread, one change at a time, and the end of it."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from slipstream.errors import SnapshotError
from slipstream.keys import check_prefix
from slipstream.model import KvEntry, KvUpdate, WatchCursor
from slipstream.replica.change import Change, change_of
from slipstream.replica.folder import Folder
from slipstream.replica.snapshot import SnapshotStore
from slipstream.replica.worker import Worker

T = TypeVar("T")


class DiskSnapshot(SnapshotStore):
    """A store in a folder. A kind of it says what is done in the thread; all else is here.

    Methods named `_disk_...` run in the thread, one at a time; the others on the event loop.
    """

    _content: ClassVar[str]
    """The file or folder that this kind keeps; see `folder.CONTENTS`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = Folder(Path(path).absolute())
        self._worker = Worker("slipstream-snapshot")
        self._turn = asyncio.Lock()
        self._cursor = WatchCursor.none()
        self._closed = False

    @abstractmethod
    def _errors(self) -> AbstractContextManager[None]:
        """What this kind's storage raises, as SnapshotErrors."""

    @abstractmethod
    def _disk_open(self, path: Path) -> WatchCursor:
        """Open what is at the path, or make it."""

    @abstractmethod
    def _disk_apply(self, change: Change, cursor: WatchCursor) -> None:
        """Store the change and the cursor durably, or neither of them."""

    @abstractmethod
    def _disk_clear(self) -> None:
        """Remove everything durably, or nothing."""

    @abstractmethod
    def _disk_close(self) -> None:
        """Close what is open, also half opened; called once."""

    @abstractmethod
    def _page(self, prefix: str, after: str | None) -> list[KvEntry]:
        """Some entries under the prefix from the next key after `after` on, in key order; empty for no more."""

    def _changed(self, change: Change) -> None:
        """The change is on disk."""

    def _cleared(self) -> None:
        """Everything is removed from disk."""

    @classmethod
    async def open(cls, path: str | os.PathLike[str]) -> tuple[Self, WatchCursor]:
        store = cls(path)
        try:
            await store._run(store._begin, then=store._moved)
        except BaseException:
            await store.close()
            raise
        return store, store.cursor

    async def apply(self, batch: Sequence[KvUpdate], cursor: WatchCursor) -> None:
        def write() -> Change:
            change = change_of(batch)
            self._disk_apply(change, cursor)
            return change

        def show(change: Change) -> None:
            self._changed(change)
            self._moved(cursor)

        async with self._turn:
            self._check_open()
            await self._run(write, then=show)

    async def clear(self) -> None:
        def show(_: None) -> None:
            self._cleared()
            self._moved(WatchCursor.none())

        async with self._turn:
            self._check_open()
            await self._run(self._disk_clear, then=show)

    async def close(self) -> None:
        async with self._turn:
            if not self._closed:
                self._closed = True
                try:
                    await self._run(self._end)
                finally:
                    self._worker.close()

    @property
    def cursor(self) -> WatchCursor:
        return self._cursor

    def range(self, prefix: str = "") -> Iterator[KvEntry]:
        return self._pages(check_prefix(prefix))

    async def _run(self, step: Callable[[], T], *, then: Callable[[T], None] | None = None) -> T:
        """`Worker.run`, with this kind's errors."""

        def guarded() -> T:
            with self._errors():
                return step()

        return await self._worker.run(guarded, then=then)

    def _pages(self, prefix: str) -> Iterator[KvEntry]:
        after: str | None = None
        while True:
            self._check_open()
            page = self._page(prefix, after)
            if not page:
                return
            yield from page
            after = page[-1].key

    def _check_open(self) -> None:
        if self._closed:
            raise SnapshotError(message=f"snapshot {self._folder.path} is closed: open it again")

    def _moved(self, cursor: WatchCursor) -> None:
        self._cursor = cursor

    def _begin(self) -> WatchCursor:
        return self._disk_open(self._folder.take(self._content))

    def _end(self) -> None:
        try:
            self._disk_close()
        finally:
            self._folder.release()
