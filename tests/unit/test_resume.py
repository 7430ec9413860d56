"""Resuming, gaps and the end of the initial state: every decision, on both sides of its edge."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from slipstream.model import WatchCursor
from slipstream.resume import (
    BucketView,
    Retention,
    cursor_expiry,
    gap_is_benign,
    initial_state_complete,
    only_overwritten,
    resume_expiry,
)

LIFE_1 = datetime(2026, 1, 1, tzinfo=UTC)
LIFE_2 = LIFE_1 + timedelta(microseconds=1)
KEEPS = Retention()
EVICTS = Retention(evicts=True)


def cursor(revision: int | None, incarnation: datetime | None = LIFE_1) -> WatchCursor:
    return WatchCursor.none() if revision is None else WatchCursor(revision=revision, incarnation=incarnation)


def view(first: int, last: int, *, keys: int = 3, incarnation: datetime | None = LIFE_1) -> BucketView:
    return BucketView(first_revision=first, last_revision=last, keys=keys, incarnation=incarnation)


class TestCursorExpiry:
    @pytest.mark.parametrize(
        ("revision", "first", "last", "expected"),
        [
            # The front: what comes next is `revision + 1`, and it has to be there.
            (4, 5, 9, None),
            (3, 5, 9, "compacted"),
            (5, 5, 9, None),
            (0, 1, 9, None),
            (0, 2, 9, "compacted"),
            # The end.
            (9, 5, 9, None),
            (10, 5, 9, "rolled_back"),
            # A bucket in which nothing is left begins after its end.
            (9, 10, 9, None),
            (8, 10, 9, "compacted"),
            (10, 10, 9, "rolled_back"),
            # A bucket that was never written; the server calls its first revision 0 or 1.
            (0, 0, 0, None),
            (0, 1, 0, None),
            (1, 0, 0, "rolled_back"),
            (1, 1, 0, "rolled_back"),
        ],
    )
    def test_both_ends(self, revision: int, first: int, last: int, expected: str | None) -> None:
        reason = cursor_expiry(cursor(revision), first_revision=first, last_revision=last, incarnation=LIFE_1)
        assert reason == expected

    @pytest.mark.parametrize(
        ("of_cursor", "of_bucket", "expected"),
        [
            (LIFE_1, LIFE_1, None),
            (LIFE_1, LIFE_2, "recreated"),
            (LIFE_2, LIFE_1, "recreated"),
            (None, LIFE_1, None),
            (LIFE_1, None, None),
            (None, None, None),
        ],
    )
    def test_the_incarnation(
        self, of_cursor: datetime | None, of_bucket: datetime | None, expected: str | None
    ) -> None:
        reason = cursor_expiry(cursor(7, of_cursor), first_revision=5, last_revision=9, incarnation=of_bucket)
        assert reason == expected

    @pytest.mark.parametrize("revision", [1, 99], ids=["compacted too", "rolled back too"])
    def test_a_bucket_made_again_is_called_that_before_anything_else(self, revision: int) -> None:
        reason = cursor_expiry(cursor(revision), first_revision=5, last_revision=9, incarnation=LIFE_2)
        assert reason == "recreated"

    @given(st.integers(0, 100), st.integers(0, 100))
    def test_the_cursor_before_everything_never_expires(self, first: int, last: int) -> None:
        assert cursor_expiry(cursor(None), first_revision=first, last_revision=last, incarnation=LIFE_1) is None


class TestOnlyOverwritten:
    @pytest.mark.parametrize(
        ("retention", "keys_seen", "keys_now", "away", "expected"),
        [
            (KEEPS, 3, 3, 1e9, True),
            (KEEPS, 3, 4, 1e9, True),
            (KEEPS, 3, 2, 0.0, False),
            (KEEPS, 0, 0, 0.0, True),
            (EVICTS, 3, 3, 0.0, False),
            (Retention(marker_seconds=60), 3, 3, 59.999, True),
            (Retention(marker_seconds=60), 3, 3, 60.0, False),
            (Retention(marker_seconds=60), 3, 2, 0.0, False),
            (Retention(evicts=True, marker_seconds=60), 3, 3, 0.0, False),
        ],
    )
    def test_each_condition(
        self, retention: Retention, keys_seen: int, keys_now: int, away: float, expected: bool
    ) -> None:
        seen, now = view(1, 5, keys=keys_seen), view(4, 9, keys=keys_now)
        assert only_overwritten(seen=seen, now=now, retention=retention, away=away) is expected


class TestResumeExpiry:
    @pytest.mark.parametrize(
        ("revision", "first", "expected"),
        [(5, 6, None), (5, 7, None), (5, 9, None)],
        ids=["nothing is gone", "one is gone", "all are gone"],
    )
    def test_a_running_watch_goes_on_where_values_were_only_overwritten(
        self, revision: int, first: int, expected: str | None
    ) -> None:
        reason = resume_expiry(cursor(revision), seen=view(1, 5), now=view(first, 9), retention=KEEPS, away=10.0)
        assert reason == expected

    @pytest.mark.parametrize(("first", "expected"), [(6, None), (7, "compacted")])
    @pytest.mark.parametrize(
        ("retention", "keys", "away"),
        [(EVICTS, 3, 0.0), (KEEPS, 2, 0.0), (Retention(marker_seconds=60), 3, 60.0)],
        ids=["limits evict", "a key vanished", "marks have gone"],
    )
    def test_it_does_not_where_something_else_may_have_removed_them(
        self, retention: Retention, keys: int, away: float, first: int, expected: str | None
    ) -> None:
        now = view(first, 9, keys=keys)
        assert resume_expiry(cursor(5), seen=view(1, 5), now=now, retention=retention, away=away) == expected

    @pytest.mark.parametrize(
        ("now", "expected"),
        [
            (view(1, 4), "rolled_back"),
            (view(1, 9, incarnation=LIFE_2), "recreated"),
            (view(9, 9, incarnation=LIFE_2), "recreated"),
        ],
    )
    def test_another_bucket_is_not_excused(self, now: BucketView, expected: str) -> None:
        assert resume_expiry(cursor(5), seen=view(1, 5), now=now, retention=KEEPS, away=0.0) == expected


class TestGap:
    @pytest.mark.parametrize(
        ("retention", "first", "expected"),
        [
            (EVICTS, 5, True),
            (EVICTS, 6, True),
            (EVICTS, 7, False),
            (EVICTS, 100, False),
            (KEEPS, 7, True),
            (KEEPS, 100, True),
        ],
    )
    def test_the_front_has_passed_the_position_or_not(self, retention: Retention, first: int, expected: bool) -> None:
        assert gap_is_benign(position=5, first_revision=first, retention=retention) is expected


class TestInitialState:
    @pytest.mark.parametrize(
        ("tails", "expected"),
        [
            ([], True),
            ([None], True),
            ([None, None], True),
            ([7], False),
            ([None, 7], False),
            ([7, None], False),
            ([0], False),
        ],
    )
    def test_complete_when_no_filter_has_anything_beyond(self, tails: list[int | None], expected: bool) -> None:
        assert initial_state_complete(tails) is expected
        assert initial_state_complete(iter(tails)) is expected


# The same decisions against a bucket that is really written, overwritten, evicted and made again.


@dataclass(kw_only=True)
class Bucket:
    """One value per key, as JetStream keeps it with a history of one."""

    incarnation: datetime = LIFE_1
    last: int = 0
    records: dict[int, str] = field(default_factory=dict)
    evicted: list[int] = field(default_factory=list)
    overwritten: list[int] = field(default_factory=list)

    @property
    def view(self) -> BucketView:
        return BucketView(
            first_revision=min(self.records, default=self.last + 1),
            last_revision=self.last,
            keys=len(self.records),
            incarnation=self.incarnation,
        )

    def put(self, key: str) -> None:
        self.last += 1
        before = [revision for revision, owner in self.records.items() if owner == key]
        for revision in before:
            del self.records[revision]
        self.overwritten += before
        self.records[self.last] = key

    def evict(self) -> None:
        if self.records:
            oldest = min(self.records)
            del self.records[oldest]
            self.evicted.append(oldest)

    def make_again(self) -> None:
        self.incarnation += timedelta(seconds=1)
        self.last, self.records = 0, {}
        self.evicted, self.overwritten = [], []

    def do(self, step: str) -> None:
        match step:
            case "evict":
                self.evict()
            case "make again":
                self.make_again()
            case key:
                self.put(key)


puts = st.sampled_from("abcd")
evictions = st.just("evict")
history = st.lists(puts, max_size=8)


def verdict(position: WatchCursor, now: BucketView) -> str | None:
    return cursor_expiry(
        position, first_revision=now.first_revision, last_revision=now.last_revision, incarnation=now.incarnation
    )


@given(history, st.lists(puts | evictions | st.just("make again"), max_size=12), st.data())
def test_a_cursor_that_may_be_resumed_misses_nothing(before: list[str], after: list[str], data: st.DataObject) -> None:
    bucket = Bucket()
    for step in before:
        bucket.do(step)
    position = cursor(data.draw(st.integers(0, bucket.last), label="position"))
    for step in after:
        bucket.do(step)
    reason = verdict(position, bucket.view)
    event(f"verdict {reason}")
    if reason is None:
        assert bucket.incarnation == position.incarnation
        assert not [revision for revision in bucket.evicted if revision > (position.revision or 0)]


@given(history, st.lists(puts, max_size=12), st.data())
def test_a_cursor_expires_only_if_something_after_it_is_gone(
    before: list[str], after: list[str], data: st.DataObject
) -> None:
    bucket = Bucket()
    for step in before:
        bucket.do(step)
    position = cursor(data.draw(st.integers(0, bucket.last), label="position"))
    for step in after:
        bucket.do(step)
    gone = [revision for revision in bucket.overwritten if revision > (position.revision or 0)]
    reason = verdict(position, bucket.view)
    event(f"verdict {reason}")
    if not gone:
        assert reason is None
    assert reason in (None, "compacted")


@given(history, history, st.data())
def test_a_cursor_of_another_life_is_never_resumed(before: list[str], after: list[str], data: st.DataObject) -> None:
    bucket = Bucket()
    for step in before:
        bucket.do(step)
    position = cursor(data.draw(st.integers(0, bucket.last), label="position"))
    bucket.make_again()
    for step in after:
        bucket.do(step)
    assert verdict(position, bucket.view) == "recreated"


@given(history, st.lists(puts, max_size=12))
def test_a_running_watch_survives_any_amount_of_overwriting(before: list[str], after: list[str]) -> None:
    bucket = Bucket()
    for step in before:
        bucket.do(step)
    seen = bucket.view
    for step in after:
        bucket.do(step)
    assert resume_expiry(cursor(seen.last_revision), seen=seen, now=bucket.view, retention=KEEPS, away=1e9) is None


@given(history, st.lists(puts | evictions, max_size=12))
def test_a_running_watch_is_not_resumed_over_an_eviction(before: list[str], after: list[str]) -> None:
    bucket = Bucket()
    for step in before:
        bucket.do(step)
    seen = bucket.view
    for step in after:
        bucket.do(step)
    reason = resume_expiry(cursor(seen.last_revision), seen=seen, now=bucket.view, retention=EVICTS, away=0.0)
    event(f"verdict {reason}")
    if any(revision > seen.last_revision for revision in bucket.evicted):
        assert reason == "compacted"


@given(history, st.lists(puts | evictions, max_size=12), st.data())
def test_a_gap_is_benign_only_if_nothing_in_it_was_evicted(
    before: list[str], after: list[str], data: st.DataObject
) -> None:
    bucket = Bucket()
    for step in before:
        bucket.do(step)
    position = data.draw(st.integers(0, bucket.last), label="position")
    for step in after:
        bucket.do(step)
    benign = gap_is_benign(position=position, first_revision=bucket.view.first_revision, retention=EVICTS)
    event(f"benign {benign}")
    if benign:
        assert not [revision for revision in bucket.evicted if revision > position]


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.booleans(), st.none() | st.floats(0, 100))
def test_a_running_watch_is_never_treated_worse_than_a_cursor_from_outside(
    revision: int, first: int, last: int, evicts: bool, marker_seconds: float | None
) -> None:
    now = view(first, last)
    reason = resume_expiry(
        cursor(revision),
        seen=replace(now, last_revision=revision),
        now=now,
        retention=Retention(evicts=evicts, marker_seconds=marker_seconds),
        away=50.0,
    )
    assert reason in (None, verdict(cursor(revision), now))
