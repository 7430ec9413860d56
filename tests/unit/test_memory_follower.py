"""Promise 1 on the model: whoever takes everything has the state of the bucket, or is told of a gap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from slipstream.errors import CursorExpiredError
from slipstream.model import Operation, StoreConfig
from slipstream.stores.memory.follower import Follower
from slipstream.stores.memory.record import RECORD_OVERHEAD, Write
from slipstream.stores.memory.stream import Stream

START = datetime(2026, 1, 1, tzinfo=UTC)
ALL = ("",)


def make(**config: Any) -> Stream:
    return Stream(StoreConfig(name="bucket", **config), now=START)


def put(stream: Stream, *keys: str) -> None:
    for key in keys:
        stream.write(Write(key=key, value=b"v%d" % (stream.last_seq + 1)))


def delete(stream: Stream, key: str) -> None:
    stream.write(Write(key=key, operation=Operation.DELETE))


def take_all(follower: Follower) -> list[int]:
    taken = []
    while (record := follower.take()) is not None:
        taken.append(record.seq)
    return taken


def test_from_the_beginning_comes_the_last_record_of_each_key_then_every_later_one() -> None:
    stream = make(max_history=5)
    put(stream, "a", "b", "a", "c")
    follower = Follower(stream, ALL)
    put(stream, "b", "b")
    assert take_all(follower) == [2, 3, 4, 5, 6]


def test_with_a_position_comes_every_record_after_it() -> None:
    stream = make(max_history=5)
    put(stream, "a", "a", "a", "b")
    assert take_all(Follower(stream, ALL, after=1)) == [2, 3, 4]
    assert take_all(Follower(stream, ALL, after=4)) == []


def test_overlapping_prefixes_give_a_record_once_and_no_prefix_gives_none() -> None:
    stream = make()
    put(stream, "node", "node.a", "nodes.b", "other")
    assert take_all(Follower(stream, ("node", "node.", "nodes", "node"))) == [1, 2, 3]
    nothing = Follower(stream, ())
    assert take_all(nothing) == []
    assert nothing.hydrated


def test_the_position_moves_over_what_does_not_match() -> None:
    stream = make()
    follower = Follower(stream, ("a",))
    put(stream, "b", "b", "a", "b")
    assert follower.peek() is not None
    assert follower.position == 2
    assert take_all(follower) == [3]
    assert follower.position == 4


class TestHydrated:
    def test_at_once_where_nothing_matches(self) -> None:
        stream = make()
        put(stream, "b")
        assert Follower(stream, ("a",)).hydrated

    def test_with_the_last_record_that_was_there(self) -> None:
        stream = make()
        put(stream, "a", "b")
        follower = Follower(stream, ALL)
        put(stream, "c")
        follower.take()
        assert not follower.hydrated
        follower.take()
        assert follower.hydrated

    def test_not_before_the_successor_of_what_was_displaced(self) -> None:
        stream = make()
        put(stream, "a", "b")
        follower = Follower(stream, ALL)
        put(stream, "c", "a")  # 3, 4: "a" has not been taken at its old revision
        assert [record.seq for record in follower.pending()] == [2, 3, 4]
        follower.take()
        follower.take()
        assert not follower.hydrated
        follower.take()
        assert follower.hydrated

    def test_although_a_writer_is_always_ahead(self) -> None:
        stream = make()
        put(stream, "a", "b", "c")
        follower = Follower(stream, ALL)
        for _ in range(3):
            assert not follower.hydrated
            follower.take()
            put(stream, "new", "newer")
        assert follower.hydrated
        assert follower.peek() is not None

    def test_what_vanished_without_a_trace_is_not_waited_for(self) -> None:
        stream = make(max_age=1, marker_ttl=None)
        put(stream, "a")
        follower = Follower(stream, ALL)
        stream.advance(START + timedelta(seconds=1))
        assert follower.hydrated
        follower.check()


class TestGap:
    def test_a_tombstone_removed_before_its_turn_ends_it_after_what_came_before(self) -> None:
        stream = make()
        put(stream, "a")
        follower = Follower(stream, ALL)
        assert take_all(follower) == [1]
        put(stream, "b")
        delete(stream, "a")
        put(stream, "c")
        stream.purge_deletes(timedelta(0))
        follower.check()
        assert take_all(follower) == [2]
        with pytest.raises(CursorExpiredError) as caught:
            follower.check()
        assert (caught.value.reason, caught.value.first_revision) == ("compacted", 2)
        assert caught.value.cursor is not None
        assert (caught.value.cursor.revision, caught.value.cursor.incarnation) == (2, START)

    def test_the_position_does_not_move_over_it(self) -> None:
        stream = make()
        follower = Follower(stream, ALL, after=0)
        delete(stream, "a")
        stream.purge_deletes(timedelta(0))
        put(stream, "b")
        assert follower.peek() is None
        assert follower.position == 0

    def test_of_several_the_first_one_counts_whichever_was_noticed_first(self) -> None:
        stream = make()
        put(stream, "b", "a")
        follower = Follower(stream, ALL)
        assert take_all(follower) == [1, 2]
        delete(stream, "a")
        put(stream, "c")
        delete(stream, "b")
        stream.purge_deletes(timedelta(0))
        assert follower.peek() is None
        assert follower.position == 2

    def test_what_was_evicted_before_its_turn_is_one(self) -> None:
        stream = make(max_bytes=2 * (RECORD_OVERHEAD + 3), discard="old")
        follower = Follower(stream, ALL)
        put(stream, "a", "b", "c")
        with pytest.raises(CursorExpiredError):
            follower.check()

    def test_other_keys_and_what_has_been_taken_are_none(self) -> None:
        stream = make()
        follower = Follower(stream, ("a",))
        delete(stream, "a")
        assert take_all(follower) == [1]
        delete(stream, "b")
        stream.purge_deletes(timedelta(0))
        put(stream, "a")
        assert take_all(follower) == [3]

    def test_a_key_of_the_initial_state_that_was_never_heard_of_is_none(self) -> None:
        stream = make(max_bytes=2 * (RECORD_OVERHEAD + 3), discard="old")
        put(stream, "a", "b")
        follower = Follower(stream, ALL)
        put(stream, "c")
        assert take_all(follower) == [2, 3]
        follower.check()

    def test_a_scan_does_not_mind(self) -> None:
        stream = make()
        put(stream, "a", "b")
        follower = Follower(stream, ALL, gaps=False)
        delete(stream, "a")
        stream.purge_deletes(timedelta(0))
        assert take_all(follower) == [2]
        follower.check()
        assert follower.hydrated


STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(["a", "ab", "b"])),
    st.tuples(st.just("empty"), st.sampled_from(["a", "ab", "b"])),
    st.tuples(st.sampled_from(["delete", "purge"]), st.sampled_from(["a", "ab", "b"])),
    st.tuples(st.just("sweep"), st.just("")),
    st.tuples(st.just("wait"), st.just("")),
    st.tuples(st.just("take"), st.just("")),
    st.tuples(st.just("resume"), st.just("")),
)


class Fold:
    """The state as someone has it who follows the keys that begin with `prefix`."""

    def __init__(self, stream: Stream, prefix: str) -> None:
        self.stream = stream
        self.prefix = prefix
        self.follower = Follower(stream, (prefix,))
        self.initial = self.follower
        self.values: dict[str, bytes] = {}
        self.taken: list[int] = []
        self.throughout = set(self.expected())

    def expected(self) -> dict[str, bytes]:
        return {record.key: record.value for record in self.stream.live(self.prefix)}

    def take(self) -> bool:
        record = self.follower.take()
        if record is None:
            self.follower.check()
            return False
        self.taken.append(record.seq)
        self.values.pop(record.key, None)
        if not record.absent:
            self.values[record.key] = record.value
        return True

    def resume(self) -> None:
        if self.taken and self.stream.lost_seq <= self.follower.position:
            self.follower = Follower(self.stream, (self.prefix,), after=self.follower.position)

    def check_hydrated(self) -> None:
        self.throughout &= set(self.expected())
        if self.follower is self.initial and self.follower.hydrated:
            assert self.throughout <= set(self.values)


def run(fold: Fold, steps: list[tuple[str, str]]) -> None:
    stream, elapsed = fold.stream, 0
    for kind, key in steps:
        match kind:
            case "put":
                put(stream, key)
            case "empty":
                stream.write(Write(key=key))
            case "delete":
                delete(stream, key)
            case "purge":
                stream.write(Write(key=key, operation=Operation.PURGE))
            case "sweep":
                stream.purge_deletes(timedelta(0))
            case "wait":
                elapsed += 2
                stream.advance(START + timedelta(seconds=elapsed))
            case "take":
                fold.take()
            case "resume":
                fold.resume()
        fold.check_hydrated()
    while fold.take():
        fold.check_hydrated()


@given(
    prefix=st.sampled_from(["", "a", "ab", "nothing"]),
    max_history=st.integers(1, 3),
    max_age=st.sampled_from([None, 3]),
    marker_ttl=st.sampled_from([1, 3600]),
    before=st.lists(st.sampled_from(["a", "ab", "b"]), max_size=5),
    steps=st.lists(STEPS, max_size=40),
)
def test_the_fold_is_the_state_or_there_is_a_gap(
    prefix: str,
    max_history: int,
    max_age: int | None,
    marker_ttl: int,
    before: list[str],
    steps: list[tuple[str, str]],
) -> None:
    stream = make(max_history=max_history, max_age=max_age, marker_ttl=marker_ttl)
    put(stream, *before)
    fold = Fold(stream, prefix)
    try:
        run(fold, steps)
    except CursorExpiredError:
        event("gap")
        assert stream.lost_seq > fold.follower.position
    else:
        event("no gap")
        assert fold.values == fold.expected()
        assert fold.follower.hydrated
        assert fold.follower.position == stream.last_seq
    assert fold.taken == sorted(set(fold.taken))


@given(
    before=st.lists(st.sampled_from(["a", "ab", "b", "c", "d"]), max_size=8),
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "take"]), st.sampled_from(["a", "ab", "b", "c", "d"])), max_size=40
    ),
)
def test_under_eviction_every_live_key_is_known_or_there_is_a_gap(
    before: list[str], steps: list[tuple[str, str]]
) -> None:
    stream = make(max_bytes=3 * (RECORD_OVERHEAD + 4), discard="old")
    put(stream, *before)
    fold = Fold(stream, "")
    try:
        run(fold, steps)
    except CursorExpiredError:
        assert stream.lost_seq > fold.follower.position
    else:
        assert fold.expected().items() <= fold.values.items()
