"""The rules of one bucket, with a time of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import AlreadyExistsError, RevisionMismatchError, StoreFullError, ValueTooLargeError
from slipstream.model import Operation, StoreConfig, VersionToken
from slipstream.stores.memory.record import RECORD_OVERHEAD, Write
from slipstream.stores.memory.stream import Stream

START = datetime(2026, 1, 1, tzinfo=UTC)


def make(**config: Any) -> Stream:
    return Stream(StoreConfig(name="bucket", **config), now=START)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def put(stream: Stream, key: str, value: bytes = b"v") -> int:
    return stream.write(Write(key=key, value=value))


def tombstone(stream: Stream, key: str, operation: Operation = Operation.DELETE) -> int:
    return stream.write(Write(key=key, operation=operation))


def seqs(stream: Stream) -> list[int]:
    return [record.seq for record in stream.after(0)]


def state(stream: Stream) -> list[tuple[int, str, Operation, bool]]:
    return [(record.seq, record.key, record.operation, record.expired) for record in stream.after(0)]


class TestRevisions:
    def test_a_bucket_never_written_has_none(self) -> None:
        stream = make()
        assert (stream.first_seq, stream.last_seq, stream.bytes, stream.key_count) == (1, 0, 0, 0)

    def test_overwriting_leaves_holes_and_moves_the_first_revision(self) -> None:
        stream = make()
        for key in ("a", "b", "a", "c"):
            put(stream, key)
        assert seqs(stream) == [2, 3, 4]
        assert (stream.first_seq, stream.last_seq) == (2, 4)
        put(stream, "c")
        assert seqs(stream) == [2, 3, 5]

    def test_of_an_emptied_bucket_the_first_revision_is_the_next_one(self) -> None:
        stream = make()
        tombstone(stream, "a")
        assert stream.purge_deletes(timedelta(0)) == 1
        assert (stream.first_seq, stream.last_seq) == (2, 1)

    def test_history_keeps_the_last_records_of_each_key(self) -> None:
        stream = make(max_history=3)
        put(stream, "other")
        for number in range(5):
            put(stream, "k", b"%d" % number)
        assert [record.value for record in stream.history("k")] == [b"2", b"3", b"4"]
        assert stream.record(3) is None
        assert seqs(stream) == [1, 4, 5, 6]

    def test_purge_drops_the_history_and_delete_does_not(self) -> None:
        stream = make(max_history=5)
        put(stream, "k")
        tombstone(stream, "k")
        assert [record.operation for record in stream.history("k")] == [Operation.PUT, Operation.DELETE]
        tombstone(stream, "k", Operation.PURGE)
        assert [record.operation for record in stream.history("k")] == [Operation.PURGE]


class TestConditions:
    def test_the_expected_revision_is_the_last_one_of_the_key_and_0_is_none(self) -> None:
        stream = make()
        assert stream.write(Write(key="k", value=b"1", expected=0)) == 1
        put(stream, "other")
        assert stream.write(Write(key="k", value=b"2", expected=1)) == 3
        for expected in (0, 1, 2, 4):
            with pytest.raises(RevisionMismatchError) as caught:
                stream.write(Write(key="k", value=b"3", expected=expected))
            assert caught.value.expected == VersionToken.from_u64(expected)
            assert caught.value.actual == VersionToken.from_u64(3)
        assert stream.last_seq == 3

    def test_of_a_key_without_a_record_the_actual_revision_is_0(self) -> None:
        with pytest.raises(RevisionMismatchError) as caught:
            make().write(Write(key="k", expected=7))
        assert caught.value.actual == VersionToken.from_u64(0)

    def test_create_passes_over_whatever_reads_as_absent(self) -> None:
        stream = make()
        create = Write(key="k", value=b"v", only_absent=True)
        stream.write(create)
        with pytest.raises(AlreadyExistsError):
            stream.write(create)
        for operation in (Operation.DELETE, Operation.PURGE):
            tombstone(stream, "k", operation)
            stream.write(create)
        put(stream, "k", b"")
        assert stream.write(create) == 7


class TestLimits:
    def test_max_value_size_counts_the_value_alone(self) -> None:
        stream = make(max_value_size=3)
        put(stream, "a-rather-long-key", b"123")
        with pytest.raises(ValueTooLargeError):
            put(stream, "k", b"1234")
        assert stream.last_seq == 1

    def test_a_full_bucket_refuses_and_changes_nothing(self) -> None:
        size = RECORD_OVERHEAD + 1 + 10
        stream = make(max_bytes=2 * size)
        put(stream, "a", b"x" * 10)
        put(stream, "b", b"x" * 10)
        with pytest.raises(StoreFullError):
            put(stream, "c", b"")
        with pytest.raises(StoreFullError):
            put(stream, "a", b"x" * 11)
        assert (stream.bytes, stream.last_seq) == (2 * size, 2)

    def test_a_full_bucket_takes_what_fits_in_the_place_of_what_it_displaces(self) -> None:
        size = RECORD_OVERHEAD + 1 + 10
        stream = make(max_bytes=2 * size)
        put(stream, "a", b"x" * 10)
        put(stream, "b", b"x" * 10)
        put(stream, "a", b"y" * 10)
        tombstone(stream, "b")
        assert stream.bytes == 2 * size - 10

    def test_a_history_that_is_not_full_displaces_nothing(self) -> None:
        size = RECORD_OVERHEAD + 1 + 1
        stream = make(max_bytes=2 * size, max_history=3)
        put(stream, "a")
        put(stream, "a")
        with pytest.raises(StoreFullError):
            put(stream, "a")
        tombstone(stream, "a", Operation.PURGE)
        assert seqs(stream) == [3]

    def test_discard_old_drops_the_oldest_records(self) -> None:
        size = RECORD_OVERHEAD + 1 + 1
        stream = make(max_bytes=3 * size, discard="old")
        for key in ("a", "b", "c", "d"):
            put(stream, key)
        assert seqs(stream) == [2, 3, 4]
        assert stream.last("a") is None
        assert stream.lost_seq == 1
        put(stream, "e", b"x" * (2 * size))
        assert seqs(stream) == [5]

    def test_not_even_discard_old_takes_what_is_larger_than_the_bucket(self) -> None:
        stream = make(max_bytes=100, discard="old")
        put(stream, "a")
        with pytest.raises(StoreFullError):
            put(stream, "b", b"x" * 100)
        assert seqs(stream) == [1]


class TestLost:
    def test_what_was_overwritten_or_purged_is_not_lost(self) -> None:
        stream = make(max_history=2)
        for _ in range(4):
            put(stream, "k")
        tombstone(stream, "k", Operation.PURGE)
        assert stream.lost_seq == 0

    def test_purge_deletes_removes_every_kind_of_tombstone_of_that_age(self) -> None:
        stream = make(max_history=2)
        put(stream, "deleted")
        tombstone(stream, "deleted")
        tombstone(stream, "purged", Operation.PURGE)
        put(stream, "empty", b"")
        put(stream, "live")
        stream.advance(at(10))
        tombstone(stream, "young")
        assert stream.purge_deletes(timedelta(seconds=10)) == 3
        assert state(stream) == [(5, "live", Operation.PUT, False), (6, "young", Operation.DELETE, False)]
        assert stream.lost_seq == 4
        assert stream.purge_deletes(timedelta.max) == 0
        assert stream.purge_deletes(timedelta(0)) == 1


class TestExpiry:
    def test_a_mark_takes_the_place_of_the_last_record_and_goes_without_one(self) -> None:
        stream = make(max_age=10, marker_ttl=5)
        put(stream, "k")
        assert stream.next_expiry == at(10)
        assert not stream.advance(at(9.9))
        assert stream.advance(at(10))
        assert state(stream) == [(2, "k", Operation.PURGE, True)]
        assert (stream.lost_seq, stream.next_expiry) == (0, at(15))
        assert stream.advance(at(15))
        assert (stream.first_seq, stream.last_seq, stream.lost_seq) == (3, 2, 2)
        assert stream.next_expiry is None

    def test_a_mark_is_no_older_than_any_value_may_be(self) -> None:
        stream = make(max_age=10, marker_ttl=3600)
        put(stream, "k")
        stream.advance(at(10))
        assert stream.next_expiry == at(20)

    def test_without_marks_it_is_gone_at_once(self) -> None:
        stream = make(max_age=10, marker_ttl=None)
        put(stream, "k")
        stream.advance(at(10))
        assert (seqs(stream), stream.last_seq, stream.lost_seq) == ([], 1, 1)

    @pytest.mark.parametrize("marked", [True, False])
    def test_only_the_last_record_of_a_key_leaves_a_mark_and_a_purge_leaves_none(self, marked: bool) -> None:
        stream = make(max_age=10, max_history=5)
        put(stream, "k")
        stream.advance(at(1))
        tombstone(stream, "k", Operation.DELETE if marked else Operation.PURGE)
        stream.advance(at(10))
        assert seqs(stream) == [2]
        stream.advance(at(11))
        assert state(stream) == ([(3, "k", Operation.PURGE, True)] if marked else [])

    def test_what_expired_unnoticed_is_done_as_of_its_time_and_in_that_order(self) -> None:
        stream = make(max_age=10, marker_ttl=3)
        put(stream, "a")
        stream.advance(at(2))
        put(stream, "b")
        stream.advance(at(14))
        assert state(stream) == [(4, "b", Operation.PURGE, True)]  # the mark of "a" was revision 3
        mark = stream.last("b")
        assert mark is not None
        assert mark.created == at(12)
        stream.advance(at(1000))
        assert (seqs(stream), stream.last_seq) == ([], 4)

    def test_a_newer_write_is_not_touched_by_the_time_of_the_old_one(self) -> None:
        stream = make(max_age=10)
        put(stream, "k")
        stream.advance(at(9))
        put(stream, "k")
        assert stream.next_expiry == at(19)
        assert not stream.advance(at(18))
        assert seqs(stream) == [2]

    def test_time_does_not_run_backwards(self) -> None:
        stream = make(max_age=10)
        stream.advance(at(5))
        stream.advance(START)
        put(stream, "k")
        assert stream.next_expiry == at(15)

    def test_overwritten_values_leave_no_appointments_behind(self) -> None:
        stream = make(max_age=10)
        put(stream, "stays")
        for _ in range(10_000):
            put(stream, "k")
            stream.advance(START)
        assert len(stream._due) < 100


KEYS = ("a", "b", "c")
STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KEYS), st.integers(0, 40)),
    st.tuples(st.sampled_from(["delete", "purge"]), st.sampled_from(KEYS), st.just(0)),
    st.tuples(st.just("sweep"), st.just(""), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.just(""), st.integers(0, 7)),
)
CONFIGS = st.fixed_dictionaries(
    {
        "max_history": st.integers(1, 3),
        "max_bytes": st.sampled_from([None, 150, 300]),
        "discard": st.sampled_from(["new", "old"]),
        "max_age": st.sampled_from([None, 5]),
        "marker_ttl": st.sampled_from([None, 1, 3600]),
    }
)


@given(config=CONFIGS, steps=st.lists(STEPS, max_size=60))
def test_whatever_happens_the_books_are_right(config: dict[str, Any], steps: list[tuple[str, str, int]]) -> None:
    stream = make(**config)
    elapsed = 0
    for kind, key, number in steps:
        before = (seqs(stream), stream.last_seq, stream.bytes)
        try:
            match kind:
                case "put":
                    put(stream, key, b"x" * number)
                case "delete":
                    tombstone(stream, key)
                case "purge":
                    tombstone(stream, key, Operation.PURGE)
                case "sweep":
                    stream.purge_deletes(timedelta(seconds=number))
                case "wait":
                    elapsed += number
                    stream.advance(at(elapsed))
        except StoreFullError:
            assert (seqs(stream), stream.last_seq, stream.bytes) == before
        held = list(stream.after(0))
        by_key = {name: [record for record in held if record.key == name] for name in KEYS}
        assert stream.bytes == sum(RECORD_OVERHEAD + len(record.key) + len(record.value) for record in held)
        assert stream.bytes <= (config["max_bytes"] or 10**9)
        assert stream.key_count == sum(bool(records) for records in by_key.values())
        assert stream.first_seq == (held[0].seq if held else stream.last_seq + 1)
        for name, records in by_key.items():
            assert stream.history(name) == records
            assert len(records) <= config["max_history"]
            assert stream.last(name) is (records[-1] if records else None)
            successors = [record.superseded_by for record in records]
            assert successors == [record.seq for record in records[1:]] + [None] * bool(records)
        assert all(record.expires is None or record.expires > at(elapsed) for record in held)


class TestCommits:
    def test_a_commit_is_marked_and_its_revisions_follow_one_another(self) -> None:
        stream = Stream(StoreConfig(name="b", marker_ttl=None), now=START)
        stream.write(Write(key="before", value=b"1"))
        writes = [Write(key=key, value=b"1") for key in ("a", "b", "c")]
        assert stream.write_all(writes, transaction="id") == [2, 3, 4]
        updates = [record.to_update() for record in stream.after(0)]
        assert [(update.transaction, update.commit) for update in updates] == [
            (None, False),
            ("id", False),
            ("id", False),
            ("id", True),
        ]

    def test_a_commit_that_does_not_fit_is_refused_as_a_whole(self) -> None:
        stream = Stream(StoreConfig(name="b", max_bytes=300), now=START)
        writes = [Write(key=key, value=bytes(100)) for key in ("a", "b", "c")]
        with pytest.raises(StoreFullError):
            stream.write_all(writes, transaction="id")
        assert (stream.last_seq, stream.bytes) == (0, 0)
        assert stream.write_all(writes[:2], transaction="id") == [1, 2]
