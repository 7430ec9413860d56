"""The snapshot file: round trip, damage, replacement."""

from __future__ import annotations

import json
import stat
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.errors import SnapshotCorruptedError, SnapshotError
from slipstream.follow.snapshot import JsonLinesSnapshot, Snapshot
from slipstream.model import KvEntry, VersionToken, WatchCursor

NOW = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
ENTRIES = st.builds(
    KvEntry,
    key=st.text("abc.-", min_size=1),
    value=st.binary(),
    version=st.integers(0, 2**64 - 1).map(VersionToken.from_u64) | st.just(VersionToken.unknown()),
    created=st.none() | st.just(NOW),
)


def snapshot(*entries: KvEntry) -> Snapshot:
    cursor = WatchCursor(revision=7, incarnation=NOW)
    return Snapshot(prefixes=("a.", "b."), cursor=cursor, saved=NOW, entries=entries)


def entry(value: bytes = b"value") -> KvEntry:
    return KvEntry(key="a.b", value=value, version=VersionToken.from_u64(5), created=NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "state.jsonl"


@given(st.lists(ENTRIES))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # each replaces the file
def test_round_trip(path: Path, entries: list[KvEntry]) -> None:
    saved = snapshot(*entries)
    JsonLinesSnapshot(path).save(saved)
    assert JsonLinesSnapshot(path).load() == saved


def test_nothing_was_saved(path: Path) -> None:
    assert JsonLinesSnapshot(path).load() is None


def test_it_replaces_the_old_one_and_leaves_nothing_beside_it(path: Path) -> None:
    JsonLinesSnapshot(path).save(snapshot(entry(b"old")))
    JsonLinesSnapshot(path).save(snapshot(entry(b"new")))
    loaded = JsonLinesSnapshot(path).load()
    assert loaded is not None
    assert [one.value for one in loaded.entries] == [b"new"]
    assert list(path.parent.iterdir()) == [path]


def test_only_the_owner_may_read_it(path: Path) -> None:
    JsonLinesSnapshot(path).save(snapshot())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_damaged_byte_and_every_torn_tail_is_noticed(path: Path) -> None:
    JsonLinesSnapshot(path).save(snapshot(entry(), entry(b"second")))
    whole = path.read_bytes()
    for position in range(len(whole) - 1):
        for damaged in (
            whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :],
            whole[:position],
        ):
            path.write_bytes(damaged)
            with pytest.raises(SnapshotCorruptedError, match="delete it to begin anew"):
                JsonLinesSnapshot(path).load()


def test_another_format_version_is_named(path: Path) -> None:
    JsonLinesSnapshot(path).save(snapshot())
    head = path.read_bytes().split(b"\n")[0].replace(b'"version":1', b'"version":2') + b"\n"
    path.write_bytes(head + json.dumps({"entries": 0, "crc32": zlib.crc32(head)}).encode() + b"\n")
    with pytest.raises(SnapshotError, match="format version 2"):
        JsonLinesSnapshot(path).load()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SnapshotError, match="cannot be written"):
        JsonLinesSnapshot(tmp_path / "file" / "state.jsonl").save(snapshot())
    with pytest.raises(SnapshotError, match="cannot be read"):
        JsonLinesSnapshot(tmp_path).load()
