"""The format of the log: what is packed comes out again, and nothing else passes for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import InvalidKeyError, SnapshotCorruptedError, SnapshotError
from slipstream.model import KvEntry, VersionToken, WatchCursor
from slipstream.replica.append_log.frame import (
    HEAD_BYTES,
    HEADER_BYTES,
    SCHEMA,
    FileHeader,
    Frame,
    entry_bytes,
    pack_frame,
    payload_is_sound,
    unpack_head,
)
from slipstream.replica.append_log.recovery import read_frames, read_header
from slipstream.replica.change import Change

SALT = 0x5EED
LIFE = datetime(2026, 1, 1, tzinfo=UTC)
MOMENTS = st.datetimes(min_value=datetime(1900, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
CURSORS = st.one_of(
    st.just(WatchCursor.none()),
    st.integers(0, 2**64 - 1).map(WatchCursor.from_u64),
    st.builds(WatchCursor, revision=st.integers(0, 2**64 - 1), incarnation=st.just(LIFE)),
)
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=30)
ENTRIES = st.builds(
    KvEntry,
    key=KEYS,
    value=st.binary(max_size=300),
    version=st.binary(max_size=10).map(VersionToken.from_bytes),
    created=st.none() | MOMENTS,
)
CHANGES = st.builds(
    lambda entries, removed: Change(puts={entry.key: entry for entry in entries}, removed=removed),
    st.lists(ENTRIES, max_size=20),
    st.lists(KEYS, max_size=10),
)


def change(*values: bytes) -> Change:
    entries = [
        KvEntry(key=f"k.{n}", value=value, version=VersionToken.from_u64(n), created=LIFE + timedelta(seconds=n))
        for n, value in enumerate(values)
    ]
    return Change(puts={entry.key: entry for entry in entries}, removed=["gone.1", "gone.2"])


def unpacked(raw: bytes, *, salt: int = SALT) -> Frame:
    head = unpack_head(raw, salt=salt)
    assert head is not None
    assert payload_is_sound(raw[HEAD_BYTES:], head, salt=salt)
    return Frame(raw[HEAD_BYTES:])


def log(*frames: bytes, base: int = 0) -> bytes:
    """A file of these frames, of which so many are what a compaction wrote."""
    base_end = HEADER_BYTES + sum(map(len, frames[:base])) if base else 0
    return FileHeader(salt=SALT, base_end=base_end).pack() + b"".join(frames)


def cursors_in(content: bytes) -> list[WatchCursor]:
    file = BytesIO(content)
    header = read_header(file)
    return [] if header is None else [frame.cursor for frame, _ in read_frames(file, header)]


FRAMES = [
    pack_frame(change(b"a" * n, b"bc" * n), WatchCursor(revision=n, incarnation=LIFE), salt=SALT) for n in (1, 2, 3)
]
CURSORS_OF = [WatchCursor(revision=n, incarnation=LIFE) for n in (1, 2, 3)]


class TestFrame:
    @given(CHANGES, CURSORS)
    def test_what_is_packed_comes_out_again(self, packed: Change, cursor: WatchCursor) -> None:
        frame = unpacked(pack_frame(packed, cursor, salt=SALT))
        assert (frame.cursor, frame.removed) == (cursor, packed.removed)
        assert {key: frame.entry(index) for index, key in enumerate(frame.keys)} == packed.puts
        sizes = [frame.entry_bytes(index) for index in range(len(frame.keys))]
        assert sizes == [entry_bytes(entry) for entry in packed.puts.values()] or not all(map(str.isascii, frame.keys))
        assert frame.put_bytes() == sum(sizes)

    @pytest.mark.parametrize("key", ["", "a\n", "\n", "a\nb"])
    def test_a_key_that_would_break_the_columns_is_refused(self, key: str) -> None:
        entry = KvEntry(key=key, value=b"v", version=VersionToken.unknown())
        for broken in (Change(puts={"a": entry, key: entry}, removed=[]), Change(puts={}, removed=["a", key])):
            with pytest.raises(InvalidKeyError) as caught:
                pack_frame(broken, WatchCursor.none(), salt=SALT)
            assert caught.value.key == key

    def test_another_salt_is_another_file(self) -> None:
        assert unpack_head(FRAMES[0], salt=SALT + 1) is None

    def test_every_flipped_bit_shows(self) -> None:
        for at in range(len(FRAMES[0]) * 8):
            raw = flipped(FRAMES[0], at // 8, at % 8)
            head = unpack_head(raw, salt=SALT)
            assert head is None or not payload_is_sound(raw[HEAD_BYTES:], head, salt=SALT)

    def test_columns_that_do_not_fit_make_no_frame(self) -> None:
        payload = FRAMES[0][HEAD_BYTES:]
        for broken in (payload[:-1], payload + b"\0"):
            with pytest.raises(ValueError, match="fit"):
                Frame(broken)


class TestHeader:
    @given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
    def test_it_comes_out_again(self, salt: int, base_end: int) -> None:
        header = FileHeader(salt=salt, base_end=base_end)
        assert len(header.pack()) == HEADER_BYTES
        assert FileHeader.unpack(header.pack()) == header

    def test_another_schema_says_what_to_do(self) -> None:
        with pytest.raises(SnapshotError, match=f"schema {SCHEMA + 1}, this release reads {SCHEMA}") as caught:
            read_header(BytesIO(FileHeader(salt=1, schema=SCHEMA + 1).pack()))
        assert type(caught.value) is SnapshotError

    @pytest.mark.parametrize("content", [b"PK\x03\x04", b"some text that is no log", b"x" * 1000])
    def test_another_format_is_refused(self, content: bytes) -> None:
        with pytest.raises(SnapshotError):
            read_header(BytesIO(content))

    def test_a_torn_one_is_none(self) -> None:
        header = log()
        for length in range(HEADER_BYTES):
            assert read_header(BytesIO(header[:length])) is None
            assert read_header(BytesIO(header[:length] + bytes(HEADER_BYTES + 50 - length))) is None

    def test_a_damaged_one_with_data_after_it_is_damage(self) -> None:
        for at in range(8, HEADER_BYTES):
            with pytest.raises(SnapshotCorruptedError):
                read_header(BytesIO(flipped(log(FRAMES[0]), at)))


class TestRecovery:
    def test_whole(self) -> None:
        assert cursors_in(log(*FRAMES)) == CURSORS_OF
        assert cursors_in(log()) == []

    def test_a_torn_tail_ends_it_at_every_byte(self) -> None:
        whole = log(*FRAMES)
        ends = [HEADER_BYTES + sum(map(len, FRAMES[:count])) for count in range(4)]
        for length in range(HEADER_BYTES, len(whole) + 1):
            count = max(number for number, end in enumerate(ends) if end <= length)
            assert cursors_in(whole[:length]) == CURSORS_OF[:count]
            zeroed = whole[:length] + bytes(len(whole) - length)
            # A last byte that was zero anyway is no damage.
            assert cursors_in(zeroed) == CURSORS_OF[: 3 if zeroed == whole else count]

    def test_zeros_behind_the_end_are_no_damage(self) -> None:
        for count in (1, HEAD_BYTES, 5000, 3 << 20):
            assert cursors_in(log(*FRAMES) + bytes(count)) == CURSORS_OF

    def test_every_flipped_bit_before_the_last_frame_is_damage(self) -> None:
        whole = log(*FRAMES)
        for at in range(HEADER_BYTES, len(whole) - len(FRAMES[-1])):
            with pytest.raises(SnapshotCorruptedError):
                cursors_in(flipped(whole, at))

    def test_damage_is_found_far_from_the_next_sound_frame(self) -> None:
        # Wherever in a chunk, or across two, the head of the next frame lies.
        overhead = len(pack_frame(change(b""), CURSORS_OF[0], salt=SALT))
        for size in range((1 << 20) - overhead - HEAD_BYTES - 2, (1 << 20) - overhead + 3):
            large = pack_frame(change(bytes(size)), CURSORS_OF[0], salt=SALT)
            with pytest.raises(SnapshotCorruptedError):
                cursors_in(flipped(log(large, FRAMES[1]), HEADER_BYTES + 5))

    def test_a_flipped_bit_in_the_last_frame_cannot_be_told_from_a_torn_one(self) -> None:
        whole = log(*FRAMES)
        for at in range(len(whole) - len(FRAMES[-1]), len(whole)):
            assert cursors_in(flipped(whole, at)) == CURSORS_OF[:2]

    def test_a_value_that_looks_like_a_frame_is_none(self) -> None:
        stranger = pack_frame(change(b"x"), CURSORS_OF[2], salt=SALT + 1)
        frame = pack_frame(change(stranger), CURSORS_OF[1], salt=SALT)
        whole = log(FRAMES[0], frame)
        for length in range(len(whole) - len(frame), len(whole)):
            assert cursors_in(whole[:length]) == CURSORS_OF[:1]

    def test_nothing_may_be_missing_of_what_a_compaction_wrote(self) -> None:
        whole = log(*FRAMES, base=2)
        base_end = len(whole) - len(FRAMES[-1])
        assert cursors_in(whole) == CURSORS_OF
        assert cursors_in(whole[:base_end]) == CURSORS_OF[:2]
        for length in range(HEADER_BYTES, base_end):
            with pytest.raises(SnapshotCorruptedError):
                cursors_in(whole[:length])


def flipped(raw: bytes, at: int, bit: int = 3) -> bytes:
    return raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :]
