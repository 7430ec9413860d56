"""SqliteSnapshot and RocksSnapshot beyond the conformance suite: what their databases would not tell by themselves."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.errors import SnapshotCorruptedError, SnapshotError
from slipstream.model import Operation, WatchCursor
from slipstream.replica import RocksSnapshot, SqliteSnapshot
from slipstream.replica.disk import DiskSnapshot
from slipstream.testing.snapshots.base import apply_numbers, put, removal

KINDS = pytest.mark.parametrize("kind", [SqliteSnapshot, RocksSnapshot])


async def filled(folder: Path) -> Path:
    """The file of a closed SqliteSnapshot of 500 keys."""
    store, _ = await SqliteSnapshot.open(folder)
    async with store:
        await store.apply([put(f"key.{n:04}", b"value", n) for n in range(500)], WatchCursor.from_u64(500))
    return folder / "fold.sqlite3"


async def test_a_damaged_key_is_found_when_it_is_opened(tmp_path: Path) -> None:
    # In the table and in the index: from the index alone the key would read as absent.
    file = await filled(tmp_path)
    content = file.read_bytes()
    places = [at for at in range(len(content)) if content.startswith(b"key.0123", at)]
    assert len(places) == 2
    for at in places:
        file.write_bytes(content[: at + 5] + b"9" + content[at + 6 :])
        with pytest.raises(SnapshotCorruptedError):
            await SqliteSnapshot.open(tmp_path)


async def test_a_damaged_value_is_found_where_it_is_read(tmp_path: Path) -> None:
    file = await filled(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"value", b"volue", 1))
    store, _ = await SqliteSnapshot.open(tmp_path)
    async with store:
        with pytest.raises(SnapshotCorruptedError, match="damaged") as caught:
            list(store.range())
        assert caught.value.key is not None
        with pytest.raises(SnapshotCorruptedError):
            store.get(caught.value.key)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("DELETE FROM entry WHERE key = 'key.0123'", "499 of 500"),
        ("DELETE FROM position", "cursor"),
        ("UPDATE position SET raw = x'00'", "cursor"),
    ],
)
async def test_what_is_missing_is_found_when_it_is_opened(tmp_path: Path, statement: str, text: str) -> None:
    file = await filled(tmp_path)
    db = sqlite3.connect(file)
    with db:
        db.execute(statement)
    db.close()
    with pytest.raises(SnapshotCorruptedError, match=text):
        await SqliteSnapshot.open(tmp_path)


async def test_a_database_of_somebody_else_is_refused_and_unharmed(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "fold.sqlite3")
    with db:
        db.execute("CREATE TABLE mine (x)")
    with pytest.raises(SnapshotError, match="no snapshot of slipstream"):
        await SqliteSnapshot.open(tmp_path)
    assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("mine",)]
    db.close()


async def test_a_file_that_is_no_database_is_damage(tmp_path: Path) -> None:
    (tmp_path / "fold.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(SnapshotCorruptedError, match="restore it, or remove it"):
        await SqliteSnapshot.open(tmp_path)


@KINDS
async def test_a_batch_that_fails_half_way_leaves_nothing(tmp_path: Path, kind: type[DiskSnapshot]) -> None:
    store, _ = await kind.open(tmp_path)
    async with store:
        await apply_numbers(store, 1, 2)
        before = list(store.range()), store.cursor, len(store)
        gone = before[0][0].key
        with pytest.raises(ValueError, match="surrogates"):
            await store.apply(
                [removal(Operation.DELETE, gone), removal(Operation.DELETE, "\ud800")], WatchCursor.from_u64(9**9)
            )
        assert (list(store.range()), store.cursor, len(store)) == before
        await apply_numbers(store, 3, 3)


def test_without_rocksdict_the_others_work_and_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['rocksdict'] = None\n"
        "import slipstream; slipstream.AppendLogSnapshot, slipstream.SqliteSnapshot\n"
        "slipstream.RocksSnapshot"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'slipstream-kv[rocks]'")
