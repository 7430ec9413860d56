"""RocksSnapshot: a fold in RocksDB, for more than memory holds. Needs the extra `rocks`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import ClassVar, cast

from slipstream.errors import SnapshotCorruptedError, SnapshotError
from slipstream.model import KvEntry, WatchCursor
from slipstream.replica.change import Change
from slipstream.replica.disk import DiskSnapshot
from slipstream.replica.folder import disk_errors
from slipstream.replica.row import Position, pack_row, unpack_row

try:
    from rocksdict import DBRecoveryMode, Options, Rdict, WriteBatch, WriteOptions
except ImportError as missing:
    raise ImportError("RocksSnapshot needs rocksdict: pip install 'slipstream-kv[rocks]'") from missing

_PAGE = 256
_POSITION = b"\x00position"  # before every key, and no key of a bucket
_FIRST = b"\x01"


class RocksSnapshot(DiskSnapshot):
    """A fold in RocksDB; memory holds its caches. Entries carry a CRC over RocksDB's own checksums.

    `get` and `range` read on the event loop, some microseconds an entry that is cached. Damage is
    SnapshotCorruptedError where it is met: when the log of RocksDB is opened, or an entry is read.
    """

    _content: ClassVar[str] = "fold.rocks"
    _rocks: Rdict | None = None
    _path: Path
    _count = 0

    def get(self, key: str) -> KvEntry | None:
        self._check_open()
        with self._errors():
            row = self._db.get(key.encode())
            return None if row is None else unpack_row(key, row)

    def __len__(self) -> int:
        return self._count

    def _page(self, prefix: str, after: str | None) -> list[KvEntry]:
        with self._errors():
            start = prefix.encode() if after is None else after.encode() + b"\0"
            items = cast("Iterator[tuple[bytes, bytes]]", self._db.items(from_key=start or _FIRST))
            page = [unpack_row(key.decode(), row) for key, row in islice(items, _PAGE)]
        return [entry for entry in page if entry.key.startswith(prefix)]

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
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(_FIRST, b"\xff")
        self._disk_write(batch, Position(cursor=WatchCursor.none(), count=0))

    def _disk_write(self, batch: WriteBatch, position: Position) -> None:
        batch.put(_POSITION, position.pack())
        durable = WriteOptions()
        durable.sync = True
        try:
            self._db.write(batch, durable)
        except Exception:
            # RocksDB takes no more writes after one has failed, until it is opened again.
            self._db.close()
            self._disk_open(self._path)
            raise
        self._count = position.count

    def _disk_close(self) -> None:
        if self._rocks is not None:
            self._rocks.close()


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_paranoid_checks(True)
    # The default would end at the first damage in its log and take what comes before for all there was.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    return options


@contextmanager
def _rocks_errors(path: Path) -> Iterator[None]:
    try:
        with disk_errors(path):
            yield
    except SnapshotError:
        raise
    except Exception as error:  # noqa: BLE001 - rocksdict raises nothing more precise
        text = str(error)
        if text.startswith("Corruption"):
            raise SnapshotCorruptedError(
                message=f"snapshot {path} is damaged ({text}): restore it, or remove it and read the bucket anew"
            ) from error
        raise SnapshotError(message=f"snapshot {path}: {text}") from error
