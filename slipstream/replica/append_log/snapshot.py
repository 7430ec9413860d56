"""AppendLogSnapshot: reads at the speed of a dict, writes at that of the disk."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import ClassVar

from slipstream.errors import SnapshotError
from slipstream.model import KvEntry, WatchCursor
from slipstream.replica.append_log.compaction import CATCH_UP_BYTES, SLICE, Rewrite, is_due
from slipstream.replica.append_log.file import TEMPORARY, LogFile
from slipstream.replica.append_log.fold import Fold
from slipstream.replica.append_log.frame import HEADER_BYTES, pack_frame
from slipstream.replica.append_log.recovery import read_frames, read_header
from slipstream.replica.change import Change
from slipstream.replica.disk import DiskSnapshot
from slipstream.replica.folder import disk_errors

_logger = logging.getLogger(__name__)


class AppendLogSnapshot(DiskSnapshot):
    """A fold in memory, and on disk a log of what was applied to it; for folds that fit into memory.

    A torn tail is dropped when the log is opened; damage before it is SnapshotCorruptedError. A log that is mostly
    overwritten is compacted in the background, in small steps: it has at most about twice the bytes of its fold. The
    first `range` after many new keys sorts them: about half a second for a million.
    """

    _content: ClassVar[str] = "fold.log"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._fold = Fold()
        self._file: LogFile | None = None
        self._compacting = asyncio.Lock()
        self._compaction: asyncio.Task[None] | None = None
        self._retry_bytes = 0  # one that failed is not tried again before the log has so many
        self._closing = False

    def get(self, key: str) -> KvEntry | None:
        if self._closed:
            self._check_open()
        return self._fold.get(key)

    def __len__(self) -> int:
        return len(self._fold)

    async def compact(self) -> None:
        """Write the log anew without what is overwritten; returns when that is done.

        It happens by itself, too, when most of the log is overwritten. Batches can be applied and entries read
        meanwhile. Cancelled, the log is as it was, or compacted.

        Raises: SnapshotError, as for want of room for the second file; the log is as it was.
        """
        async with self._compacting:
            await self._rewrite()

    async def clear(self) -> None:
        await self._stop_compaction()
        async with self._compacting:
            await super().clear()

    async def close(self) -> None:
        self._closing = True
        await self._stop_compaction()
        async with self._compacting:
            await super().close()

    def _errors(self) -> AbstractContextManager[None]:
        return disk_errors(self._folder.path)

    def _page(self, prefix: str, after: str | None) -> list[KvEntry]:
        return self._fold.page(prefix, after)

    def _changed(self, change: Change) -> None:
        self._fold.take(change)
        log_bytes = self._log.end
        due = log_bytes >= self._retry_bytes and is_due(log_bytes=log_bytes, live_bytes=self._fold.live_bytes)
        if due and not self._closing and (self._compaction is None or self._compaction.done()):
            self._compaction = asyncio.create_task(self._compact_in_background())

    def _cleared(self) -> None:
        self._fold.clear()

    @property
    def _log(self) -> LogFile:
        assert self._file is not None  # opened by _disk_open, without which there is no store
        return self._file

    # ---- in the thread

    def _disk_open(self, path: Path) -> WatchCursor:
        path.with_name(TEMPORARY).unlink(missing_ok=True)  # of a compaction that a crash ended
        if not path.exists():
            return self._disk_begin(path)
        try:
            with path.open("rb") as file:
                header = read_header(file)
                if header is None:
                    return self._disk_begin(path)
                cursor, end = WatchCursor.none(), HEADER_BYTES
                for frame, end in read_frames(file, header):  # noqa: B007 - the last one's end counts
                    self._fold.take_frame(frame)
                    cursor = frame.cursor
                torn = path.stat().st_size - end
        except SnapshotError as error:
            raise type(error)(
                message=f"snapshot {path}: {error.message}; restore it, or remove it and read the bucket anew"
            ) from error
        if torn:
            _logger.warning("snapshot %s: dropped %d bytes of a write that did not end", path, torn)
        self._file = LogFile.reopen(path, header, end)
        return cursor

    def _disk_begin(self, path: Path) -> WatchCursor:
        file = LogFile.begin(path)
        try:
            file.publish(path)
        except BaseException:
            file.discard()
            raise
        old, self._file = self._file, file
        if old is not None:
            old.close()
        return WatchCursor.none()

    def _disk_apply(self, change: Change, cursor: WatchCursor) -> None:
        self._log.append(pack_frame(change, cursor, salt=self._log.header.salt))

    def _disk_clear(self) -> None:
        self._disk_begin(self._log.path)

    def _disk_close(self) -> None:
        if self._file is not None:
            self._file.close()

    # ---- compaction

    async def _rewrite(self) -> None:
        """Only one at a time: under `_compacting`."""
        rewrite: Rewrite | None = None

        def begin() -> None:
            nonlocal rewrite
            rewrite = Rewrite(self._log)

        def finish() -> None:
            assert rewrite is not None
            self._file = rewrite.finish(self._cursor)

        try:
            async with self._turn:
                self._check_open()
                keys = self._fold.keys()
                await self._run(begin)
            assert rewrite is not None
            for start in range(0, len(keys), SLICE):
                await self._run(partial(rewrite.add, self._fold.pick(keys[start : start + SLICE])))
            await self._run(rewrite.catch_up)
            while rewrite.behind > CATCH_UP_BYTES:
                await self._run(rewrite.catch_up)
            async with self._turn:
                await self._run(finish)
        except BaseException:
            if rewrite is not None:
                await self._run(rewrite.discard)
            raise

    async def _compact_in_background(self) -> None:
        try:
            await self.compact()
        except SnapshotError as error:
            # The fold is none the worse for it, only the log longer: its owner has nothing to handle.
            self._retry_bytes = 2 * self._log.end
            _logger.warning("the compaction failed, and is put off until the log is twice as long: %s", error)

    async def _stop_compaction(self) -> None:
        if self._compaction is not None:
            self._compaction.cancel()
            await asyncio.wait({self._compaction})
