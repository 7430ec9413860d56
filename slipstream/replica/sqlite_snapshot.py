"""SqliteSnapshot: a fold in a file of SQLite, read where it lies."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ClassVar

from slipstream.errors import SnapshotCorruptedError, SnapshotError
from slipstream.model import KvEntry, WatchCursor
from slipstream.replica.change import Change
from slipstream.replica.disk import DiskSnapshot
from slipstream.replica.folder import disk_errors
from slipstream.replica.row import Position, pack_row, unpack_row

_PAGE = 256
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SETTINGS = (
    "PRAGMA journal_mode = WAL",  # a commit is one append, and readers do not wait for it
    "PRAGMA synchronous = FULL",  # with WAL, NORMAL would lose the last commits with the power
    "PRAGMA fullfsync = ON",  # macOS; nothing elsewhere
    "PRAGMA checkpoint_fullfsync = ON",
    # Keys come in any order, so that a batch touches about as many pages as it has keys. Measured with 200,000 of them:
    # 87,000 a second with the defaults, 140,000 with pages kept and written back less often.
    "PRAGMA cache_size = -65536",  # KiB
    "PRAGMA wal_autocheckpoint = 10000",  # pages of 4 KiB
)
_ONE = "SELECT key, row FROM entry WHERE key = ?"
_FROM = "SELECT key, row FROM entry WHERE key >= ? ORDER BY key LIMIT ?"
_AFTER = "SELECT key, row FROM entry WHERE key > ? ORDER BY key LIMIT ?"
_EMPTY = Position(cursor=WatchCursor.none(), count=0)


class SqliteSnapshot(DiskSnapshot):
    """A fold in one file of SQLite; memory holds what SQLite caches. Entries carry a CRC, which SQLite has not.

    `get` and `range` read the file on the event loop, some microseconds an entry. Opening checks the
    whole file: some 1.5 s for a million keys. A damaged value is SnapshotCorruptedError where it is read.
    Damage in the -wal file that a crash leaves cannot be told from a torn tail: the fold is what it was before, with
    the cursor of that time.
    """

    _content: ClassVar[str] = "fold.sqlite3"
    _writer: sqlite3.Connection | None = None
    _reader: sqlite3.Connection | None = None
    _count = 0

    def get(self, key: str) -> KvEntry | None:
        self._check_open()
        with self._errors():
            found = self._select(_ONE, key)
        return found[0] if found else None

    def __len__(self) -> int:
        return self._count

    def _page(self, prefix: str, after: str | None) -> list[KvEntry]:
        # In SQLite, too, text is ordered by its bytes in UTF-8, which is the order of code points.
        start, query = (prefix, _FROM) if after is None else (after, _AFTER)
        with self._errors():
            found = self._select(query, start, _PAGE)
        return [entry for entry in found if entry.key.startswith(prefix)]

    def _select(self, query: str, *values: str | int) -> list[KvEntry]:
        assert self._reader is not None  # opened by _disk_open, without which there is no store
        return [unpack_row(*row) for row in self._reader.execute(query, values)]

    def _errors(self) -> AbstractContextManager[None]:
        return _sqlite_errors(self._folder.path)

    # ---- in the thread

    def _disk_open(self, path: Path) -> WatchCursor:
        self._writer = writer = _connect(path)
        for setting in _SETTINGS:
            writer.execute(setting)
        tables = {name for (name,) in writer.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if not tables:
            self._disk_create(writer)
        elif tables != {"entry", "position"}:
            raise SnapshotError(message=f"snapshot {path} is no snapshot of slipstream: take another folder")
        position = self._disk_verify(writer)
        self._reader = _connect(path)
        self._reader.execute("PRAGMA query_only = ON")
        self._count = position.count
        return position.cursor

    def _disk_create(self, db: sqlite3.Connection) -> None:
        with _transaction(db):
            db.execute("CREATE TABLE entry (key TEXT PRIMARY KEY, row BLOB NOT NULL)")
            db.execute("CREATE TABLE position (id INTEGER PRIMARY KEY, raw BLOB NOT NULL)")
            _move(db, _EMPTY)

    def _disk_verify(self, db: sqlite3.Connection) -> Position:
        raw = db.execute("SELECT raw FROM position").fetchall()
        if len(raw) != 1:
            raise SnapshotCorruptedError(message="the snapshot has lost its cursor")
        position = Position.unpack(raw[0][0])
        # Not quick_check: it would not see a key that is damaged in the index alone, which then reads as absent.
        (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        (count,) = db.execute("SELECT count(*) FROM entry").fetchone()
        if verdict != "ok" or count != position.count:
            raise SnapshotCorruptedError(
                message=f"{count} of {position.count} entries are there, SQLite says: {verdict}"
            )
        return position

    def _disk_apply(self, change: Change, cursor: WatchCursor) -> None:
        assert self._writer is not None
        db = self._writer
        rows = [(pack_row(entry), key) for key, entry in change.puts.items()]
        with _transaction(db):
            gone = db.executemany("DELETE FROM entry WHERE key = ?", [(key,) for key in change.removed]).rowcount
            new = db.executemany("INSERT OR IGNORE INTO entry (row, key) VALUES (?, ?)", rows).rowcount
            if new < len(rows):
                db.executemany("UPDATE entry SET row = ? WHERE key = ?", rows)
            count = self._count + max(new, 0) - max(gone, 0)  # -1 where there was nothing to execute
            _move(db, Position(cursor=cursor, count=count))
        self._count = count

    def _disk_clear(self) -> None:
        assert self._writer is not None
        with _transaction(self._writer):
            self._writer.execute("DELETE FROM entry")
            _move(self._writer, _EMPTY)
        self._count = 0

    def _disk_close(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    # Without isolation_level: the module would begin transactions by itself. One thread at a time uses a connection.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def _move(db: sqlite3.Connection, position: Position) -> None:
    db.execute("INSERT OR REPLACE INTO position VALUES (1, ?)", (position.pack(),))


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # some errors have ended it already
            db.execute("ROLLBACK")
        raise


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        with disk_errors(path):
            yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest is a subdivision of it
        if code in _DAMAGE:
            raise SnapshotCorruptedError(
                message=f"snapshot {path} is damaged ({error}): restore it, or remove it and read the bucket anew"
            ) from error
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise SnapshotError(message=f"snapshot {path}: the disk refuses ({error}): free some room") from error
        raise SnapshotError(message=f"snapshot {path}: {error}") from error
