"""The conformance suite of snapshot stores, on each of them."""

import sqlite3
from pathlib import Path

from rocksdict import Options, Rdict

from slipstream.model import WatchCursor
from slipstream.replica import AppendLogSnapshot, RocksSnapshot, SqliteSnapshot
from slipstream.replica.append_log.frame import SCHEMA as LOG_SCHEMA
from slipstream.replica.append_log.frame import FileHeader
from slipstream.replica.row import SCHEMA as ROW_SCHEMA
from slipstream.replica.row import Position
from slipstream.testing.snapshots import SnapshotConformance

NEWER = Position(cursor=WatchCursor.none(), count=0, schema=ROW_SCHEMA + 1).pack()


class TestAppendLog(SnapshotConformance):
    kind = AppendLogSnapshot
    rewriting = "compact"

    def tail(self, folder: Path) -> Path:
        return folder / "fold.log"

    def make_newer(self, folder: Path) -> None:
        log = folder / "fold.log"
        with log.open("r+b") as file:
            file.write(FileHeader(salt=0, schema=LOG_SCHEMA + 1).pack())


class TestSqlite(SnapshotConformance):
    kind = SqliteSnapshot

    def tail(self, folder: Path) -> Path:
        return folder / "fold.sqlite3-wal"

    def make_newer(self, folder: Path) -> None:
        db = sqlite3.connect(folder / "fold.sqlite3")
        with db:
            db.execute("UPDATE position SET raw = ?", (NEWER,))
        db.close()


class TestRocks(SnapshotConformance):
    kind = RocksSnapshot

    def tail(self, folder: Path) -> Path:
        return max((folder / "fold.rocks").glob("*.log"))

    def make_newer(self, folder: Path) -> None:
        with Rdict(str(folder / "fold.rocks"), Options(raw_mode=True)) as db:
            db[b"\x00position"] = NEWER
