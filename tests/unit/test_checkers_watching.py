"""The check of watches: it accepts what follows a bucket, and finds every violation that was planted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from slipstream import KvUpdate, Operation, VersionToken
from slipstream.testing.checkers import (
    Action,
    Kind,
    Ledger,
    Outcome,
    Violation,
    WatchViolated,
    check_watch,
    watch_violations,
)

End = dict[str, tuple[int, bytes]]


def seen(revision: int, key: str, value: str = "") -> KvUpdate:
    """An update; a tombstone without a value."""
    operation = Operation.PUT if value else Operation.DELETE
    return KvUpdate(operation=operation, key=key, value=value.encode(), version=VersionToken.from_u64(revision))


def written(*updates: KvUpdate) -> Ledger:
    ledger = Ledger()
    for update in updates:
        assert update.revision is not None
        ledger.acknowledge(update.revision, update.key, update.value)
    return ledger


def bucket(*updates: KvUpdate) -> End:
    """The last records after these writes."""
    return {update.key: (update.revision or 0, update.value) for update in updates}


def kinds(
    updates: Sequence[KvUpdate], ledger: Ledger, end: End, *, prefix: str = "", after: int = 0
) -> list[Violation]:
    findings = watch_violations(updates, ledger, end, prefix=prefix, after=after)
    return [finding.violation for finding in findings]


A1, B2, A3, B4 = seen(1, "a", "one"), seen(2, "b", "two"), seen(3, "a", "three"), seen(4, "b")
ALL = written(A1, B2, A3, B4)
END = bucket(A1, B2, A3, B4)


class TestFine:
    @pytest.mark.parametrize(
        "updates",
        [[A1, B2, A3, B4], [B2, A3, B4], [A3, B4], [A1, A3, B4]],
        ids=["each one", "one skipped", "the last ones", "another one skipped"],
    )
    def test_each_last_update_and_any_before_it(self, updates: list[KvUpdate]) -> None:
        check_watch(updates, ALL, END)

    def test_a_cursor_leaves_out_what_came_before(self) -> None:
        check_watch([A3, B4], ALL, END, after=2)
        check_watch([B4], ALL, END, after=3)
        check_watch([], ALL, END, after=4)

    def test_a_prefix_leaves_out_other_keys(self) -> None:
        check_watch([A3], ALL, END, prefix="a")

    def test_tombstones_may_have_been_removed_meanwhile(self) -> None:
        check_watch([A3, B4], ALL, bucket(A3))

    def test_whoever_begins_with_the_current_state_need_not_hear_of_what_was_deleted_before(self) -> None:
        check_watch([A3], written(A3), END)

    def test_what_may_have_been_stored(self) -> None:
        ledger = written(A1)
        ledger.allow("a", b"maybe")
        ledger.allow("a")
        check_watch([A1], ledger, bucket(A1))
        check_watch([A1, seen(2, "a", "maybe"), seen(5, "a")], ledger, bucket(seen(5, "a")))


class TestPlanted:
    def test_out_of_order(self) -> None:
        assert kinds([A1, A3, B2, B4], ALL, END) == [Violation.OUT_OF_ORDER]

    def test_a_repeat(self) -> None:
        assert kinds([A1, B2, B2, A3, B4], ALL, END) == [Violation.REPEATED]
        assert kinds([A1, B2, A3, A1, B4], ALL, END)[0] is Violation.REPEATED

    def test_a_repeat_of_what_may_have_been_stored_is_no_phantom(self) -> None:
        ledger = written(A1)
        ledger.allow("a", b"maybe")
        maybe = seen(2, "a", "maybe")
        assert kinds([A1, maybe, maybe], ledger, bucket(maybe)) == [Violation.REPEATED]

    def test_a_phantom(self) -> None:
        phantom = seen(5, "c", "never written")
        assert kinds([A3, B4, phantom], ALL, bucket(A3, B4, phantom)) == [Violation.PHANTOM]

    @pytest.mark.parametrize("other", [seen(3, "a", "other"), seen(3, "c", "three"), seen(3, "a")])
    def test_something_else_than_what_was_written(self, other: KvUpdate) -> None:
        assert kinds([A1, B2, other, B4], ALL, END)[0] is Violation.PHANTOM

    def test_a_possible_write_at_the_revision_of_another(self) -> None:
        ledger = written(A1, B2)
        ledger.allow("a", b"maybe")
        assert Violation.PHANTOM in kinds([seen(1, "a", "maybe"), B2], ledger, bucket(A1, B2))

    def test_a_write_of_unknown_outcome_that_was_stored_twice(self) -> None:
        ledger = written(A1)
        ledger.allow("a", b"maybe")
        twice = [A1, seen(2, "a", "maybe"), seen(3, "a", "maybe")]
        assert kinds(twice, ledger, bucket(*twice)) == [Violation.PHANTOM]

    def test_a_lost_last_update(self) -> None:
        assert kinds([A1, B2, B4], ALL, END) == [Violation.LOST, Violation.WRONG_END]

    def test_a_key_that_was_never_delivered(self) -> None:
        assert kinds([B2, B4], ALL, END) == [Violation.LOST, Violation.LOST, Violation.WRONG_END]

    def test_a_lost_delete(self) -> None:
        ledger = written(A1, B2)
        ledger.allow("b")
        assert kinds([A1, B2], ledger, bucket(A1, B2, B4)) == [Violation.WRONG_END]
        assert kinds([A1, B2], ledger, bucket(A1)) == [Violation.WRONG_END]

    def test_a_lost_delete_of_what_was_known_at_the_cursor(self) -> None:
        ledger = written(A1, B2, A3)
        ledger.allow("b")
        assert kinds([A3], ledger, END, after=2) == [Violation.WRONG_END]

    def test_a_newer_update_of_another_key_excuses_nothing(self) -> None:
        assert Violation.LOST in kinds([A1, B2, B4], written(A1, B2, A3, B4), END)

    def test_what_nobody_acknowledged_but_is_there(self) -> None:
        ledger = written(A1)
        ledger.allow("a", b"maybe")
        assert kinds([A1], ledger, bucket(seen(2, "a", "maybe"))) == [Violation.WRONG_END]

    @pytest.mark.parametrize("where", [{"after": 1}, {"prefix": "b"}], ids=["before the cursor", "outside the prefix"])
    def test_what_was_not_asked_for(self, where: dict[str, object]) -> None:
        findings = watch_violations([A1, B2, A3, B4], ALL, END, **where)  # type: ignore[arg-type]
        assert {finding.violation for finding in findings} == {Violation.UNWANTED}

    def test_no_revision(self) -> None:
        nameless = replace(A3, version=VersionToken.unknown())
        assert kinds([nameless, A3, B4], ALL, END) == [Violation.UNNUMBERED]

    def test_all_of_it_is_told(self) -> None:
        with pytest.raises(
            WatchViolated, match=r"(?s)2 violations:.*delivered after a newer.*never delivered"
        ) as caught:
            check_watch([B2, A1, B4], written(A1, B2, seen(3, "c", "lost"), B4), bucket(A1, B2, B4))
        assert len(caught.value.findings) == 2


class TestLedger:
    def test_of_a_history(self) -> None:
        def action(kind: Kind, outcome: Outcome, value: bytes = b"v", revision: int | None = None) -> Action:
            return Action(
                client="c",
                kind=kind,
                key="k",
                value=value,
                invoked=0,
                returned=math.inf,
                outcome=outcome,
                revision=revision,
            )

        ledger = Ledger.of(
            [
                action(Kind.PUT, Outcome.DONE, b"put", 1),
                action(Kind.UPDATE, Outcome.DONE, b"updated", 2),
                action(Kind.DELETE, Outcome.DONE, b""),
                action(Kind.CREATE, Outcome.UNKNOWN, b"unknown"),
                action(Kind.PUT, Outcome.REFUSED, b"refused"),
                action(Kind.GET, Outcome.DONE, b"seen", 9),
            ]
        )
        assert ledger.acknowledged == {1: ("k", b"put"), 2: ("k", b"updated")}
        assert ledger.possible == {("k", b""): 1, ("k", b"unknown"): 1}

    def test_a_revision_belongs_to_one_write(self) -> None:
        ledger = written(A1)
        ledger.acknowledge(1, "a", b"one")
        with pytest.raises(AssertionError, match="revision 1 was given to two writes"):
            ledger.acknowledge(1, "b", b"two")


# A bucket that is written, and watches of it that skip what is overwritten, as they may.

writes = st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=20)


def all_updates(steps: Sequence[tuple[str, bool]]) -> list[KvUpdate]:
    return [seen(revision, key, f"v{revision}" if put else "") for revision, (key, put) in enumerate(steps, 1)]


def followed(updates: Sequence[KvUpdate], skips: Sequence[bool]) -> list[KvUpdate]:
    """All updates but some of those that a newer one of their key follows."""
    last = {update.key: update.revision for update in updates}
    return [
        update for update, skip in zip(updates, skips, strict=True) if not skip or last[update.key] == update.revision
    ]


@settings(deadline=None)
@given(writes, st.data())
def test_a_watch_that_skips_only_what_was_overwritten_is_accepted(
    steps: list[tuple[str, bool]], data: st.DataObject
) -> None:
    updates = all_updates(steps)
    after = data.draw(st.integers(0, len(updates)), label="after")
    skips = data.draw(st.lists(st.booleans(), min_size=len(updates), max_size=len(updates)), label="skips")
    delivered = [update for update in followed(updates, skips) if (update.revision or 0) > after]
    check_watch(delivered, written(*updates), bucket(*updates), after=after)


@settings(deadline=None)
@given(writes.filter(bool), st.data())
def test_a_watch_without_the_last_update_of_a_key_is_found(steps: list[tuple[str, bool]], data: st.DataObject) -> None:
    updates = all_updates(steps)
    key = data.draw(st.sampled_from(sorted({update.key for update in updates})), label="key")
    last = max(update.revision or 0 for update in updates if update.key == key)
    delivered = [update for update in updates if update.revision != last]
    event("a tombstone is lost" if not updates[last - 1].value else "a value is lost")
    assert Violation.LOST in kinds(delivered, written(*updates), bucket(*updates))


@settings(deadline=None)
@given(writes.filter(lambda steps: len(steps) > 1), st.data())
def test_two_updates_in_the_wrong_order_are_found(steps: list[tuple[str, bool]], data: st.DataObject) -> None:
    updates = all_updates(steps)
    first = data.draw(st.integers(0, len(updates) - 2), label="first")
    updates[first], updates[first + 1] = updates[first + 1], updates[first]
    assert Violation.OUT_OF_ORDER in kinds(updates, written(*updates), bucket(*sorted(updates, key=_revision)))


def _revision(update: KvUpdate) -> int:
    return update.revision or 0
