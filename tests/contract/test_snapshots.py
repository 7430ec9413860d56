"""The conformance suite of snapshot stores, on each of them."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Self

from rocksdict import Options, Rdict

from slipstream.model import KvUpdate, WatchCursor
from slipstream.replica import AppendLogSnapshot, MemorySnapshot, RocksSnapshot, SqliteSnapshot
from slipstream.replica.append_log.frame import SCHEMA as LOG_SCHEMA
from slipstream.replica.append_log.frame import FileHeader
from slipstream.replica.difference import put_of
from slipstream.replica.row import SCHEMA as ROW_SCHEMA
from slipstream.replica.row import Position
from slipstream.testing.snapshots import FoldConformance, SnapshotConformance

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


# By place: what the snapshots in memory held when they were closed.
LEFT: dict[str, tuple[list[KvUpdate], WatchCursor]] = {}


class RememberingSnapshot(MemorySnapshot):
    """Opened again it holds what it held when it was closed: the suite looks at a fold in that way, too."""

    place = ""

    @classmethod
    async def open(cls, path: str | os.PathLike[str] = "") -> tuple[Self, WatchCursor]:
        store, none = await super().open(path)
        store.place = str(path)
        await store.apply(*LEFT.pop(store.place, ([], none)))
        return store, store.cursor

    async def close(self) -> None:
        if self.place:
            LEFT[self.place] = ([put_of(entry) for entry in self.range()], self.cursor)
            self.place = ""
        await super().close()


class TestMemory(FoldConformance):
    """It has no folder to own and no disk to be damaged or full."""

    kind = RememberingSnapshot
