"""RocksSnapshot: a fold in RocksDB, for more than memory holds. Needs the extra `rocks`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import ClassVar

from slipstream.errors import SnapshotCorruptedError, SnapshotError
from slipstream.model import KvEntry, WatchCursor
from slipstream.replica.change import Change
from slipstream.replica.disk import DiskSnapshot
from slipstream.replica.folder import NO_ROOM, disk_errors
from slipstream.replica.row import Position, pack_row, unpack_row

try:
    from rocksdict import AccessType, DbClosedError, DBRecoveryMode, Options, Rdict, WriteBatch, WriteOptions
except ImportError as missing:
    raise ImportError("RocksSnapshot needs rocksdict: pip install 'slipstream-kv[rocks]'") from missing

_PAGE = 256
_POSITION = b"\x00position"  # before every key, and no key of a bucket
_FIRST = b"\x01"
_NO_ROOM = tuple(os.strerror(number) for number in NO_ROOM)


class RocksSnapshot(DiskSnapshot):
    """A fold in RocksDB; memory holds its caches. Entries carry a CRC over RocksDB's own checksums.

    `get` and `range` read on the event loop, some microseconds an entry that is cached. Damage is
    SnapshotCorruptedError where it is met; in RocksDB's own log it cannot be told from a torn tail, and the fold is
    what it was before, with the cursor of that time.
    """

    _content: ClassVar[str] = "fold.rocks"
    _rocks: Rdict | None = None
    _path: Path
    _count = 0
    _failed = False

    def get(self, key: str) -> KvEntry | None:
        self._check_open()
        with self._errors():
            row = self._db.get(key.encode())
            return None if row is None else unpack_row(key, row)

    def __len__(self) -> int:
        return self._count

    def _page(self, prefix: str, after: str | None) -> list[KvEntry]:
        with self._errors():
            return list(islice(self._from(prefix, after), _PAGE))

    def _from(self, prefix: str, after: str | None) -> Iterator[KvEntry]:
        rows = self._db.iter()
        rows.seek((prefix.encode() or _FIRST) if after is None else after.encode() + b"\0")
        while rows.valid() and (key := rows.key().decode()).startswith(prefix):
            yield unpack_row(key, rows.value())
            rows.next()
        rows.status()  # raises where it is damage that the rows ended at; `items()` would end without a word

    def _errors(self) -> AbstractContextManager[None]:
        return _rocks_errors(self._folder.path)

    @property
    def _db(self) -> Rdict:
        assert self._rocks is not None  # opened by _disk_open, without which there is no store
        return self._rocks

    # ---- in the thread

    def _disk_open(self, path: Path) -> WatchCursor:
        self._path = path
        self._rocks = Rdict(str(path), _options())
        raw = self._db.get(_POSITION)
        if raw is None:
            if next(iter(self._db.keys()), None) is not None:
                raise SnapshotCorruptedError(message=f"snapshot {path} has lost its cursor: remove it")
            return WatchCursor.none()
        position = Position.unpack(raw)
        self._count = position.count
        return position.cursor

    def _disk_apply(self, change: Change, cursor: WatchCursor) -> None:
        self._disk_reopen()
        batch = WriteBatch(raw_mode=True)
        count = self._count
        for key in change.removed:
            raw = key.encode()
            count -= raw in self._db
            batch.delete(raw)
        for key, entry in change.puts.items():
            raw = key.encode()
            count += raw not in self._db
            batch.put(raw, pack_row(entry))
        self._disk_write(batch, Position(cursor=cursor, count=count))

    def _disk_clear(self) -> None:
        self._disk_reopen()
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(_FIRST, b"\xff")
        self._disk_write(batch, Position(cursor=WatchCursor.none(), count=0))

    def _disk_write(self, batch: WriteBatch, position: Position) -> None:
        batch.put(_POSITION, position.pack())
        durable = WriteOptions()
        durable.sync = True
        self._failed = True
        self._db.write(batch, durable)
        self._failed = False
        self._count = position.count

    def _disk_reopen(self) -> None:
        """After a write that failed RocksDB takes no more of them, until it is opened again."""
        if not self._failed:
            return
        with suppress(Exception):  # closed it is; what it raises is that same failure once more
            self._db.close()
        try:
            self._disk_open(self._path)
        except BaseException:
            # Opening writes, too. What is there can be read meanwhile.
            self._rocks = Rdict(str(self._path), _options(), access_type=AccessType.read_only())
            raise
        self._failed = False

    def _disk_close(self) -> None:
        if self._rocks is not None:
            self._rocks.close()


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_paranoid_checks(True)
    # The stricter ones refuse a tail of zeros, which is what some file systems leave of a write that a crash ended.
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    return options


@contextmanager
def _rocks_errors(path: Path) -> Iterator[None]:
    try:
        with disk_errors(path):
            yield
    except Exception as error:
        if type(error) not in (Exception, DbClosedError):
            raise
        text = str(error)
        if text.startswith("Corruption"):
            raise SnapshotCorruptedError(
                message=f"snapshot {path} is damaged ({text}): restore it, or remove it and read the bucket anew"
            ) from error
        advice = ": free some room, then try again" if any(reason in text for reason in _NO_ROOM) else ""
        raise SnapshotError(message=f"snapshot {path}: {text}{advice}") from error
