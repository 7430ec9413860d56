"""Rows and positions: what is packed comes out again, and nothing else passes for it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import SnapshotCorruptedError, SnapshotError
from slipstream.model import KvEntry, VersionToken, WatchCursor
from slipstream.replica.row import SCHEMA, Position, pack_row, unpack_row

LIFE = datetime(2026, 1, 1, tzinfo=UTC)
ENTRY = KvEntry(key="node.a", value=b"value", version=VersionToken.from_u64(7), created=LIFE)
ENTRIES = st.builds(
    KvEntry,
    key=st.text(max_size=30),
    value=st.binary(max_size=300),
    version=st.binary(max_size=10).map(VersionToken.from_bytes),
    created=st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(ENTRIES)
def test_an_entry_comes_out_again(entry: KvEntry) -> None:
    assert unpack_row(entry.key, pack_row(entry)) == entry


def test_every_flipped_bit_shows() -> None:
    for raw, unpack in (
        (pack_row(ENTRY), lambda raw: unpack_row("node.a", raw)),
        (Position(cursor=WatchCursor(revision=5, incarnation=LIFE), count=9).pack(), Position.unpack),
    ):
        unpack(raw)
        for at in range(len(raw) * 8):
            flipped = raw[: at // 8] + bytes([raw[at // 8] ^ (1 << at % 8)]) + raw[at // 8 + 1 :]
            with pytest.raises(SnapshotCorruptedError):
                unpack(flipped)
        for length in range(len(raw)):
            with pytest.raises(SnapshotCorruptedError):
                unpack(raw[:length])


def test_the_row_of_another_key_is_damage() -> None:
    with pytest.raises(SnapshotCorruptedError) as caught:
        unpack_row("node.b", pack_row(ENTRY))
    assert caught.value.key == "node.b"


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_position_comes_out_again(revision: int, count: int) -> None:
    for cursor in (
        WatchCursor.none(),
        WatchCursor.from_u64(revision),
        WatchCursor(revision=revision, incarnation=LIFE),
    ):
        position = Position(cursor=cursor, count=count)
        assert Position.unpack(position.pack()) == position


def test_another_schema_says_what_to_do() -> None:
    with pytest.raises(SnapshotError, match=f"schema {SCHEMA + 1}, this release reads {SCHEMA}") as caught:
        Position.unpack(Position(cursor=WatchCursor.none(), count=0, schema=SCHEMA + 1).pack())
    assert type(caught.value) is SnapshotError
