"""What a commit consists of: the queue, its limits, and which error says that a condition does not hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.commits import MAX_OPERATIONS, Condition, Fence, Last, Queue, QueuedWrite, bulk_error, check_all
from slipstream.errors import AlreadyExistsError, BulkWriteError, FencedError, KvError, RevisionMismatchError
from slipstream.model import VersionToken

LIVE = Last(7, absent=False)
GONE = Last(7, absent=True)
NEVER = Last(0, absent=True)


@pytest.mark.parametrize(
    ("condition", "last", "error"),
    [
        (Condition(revision=7), LIVE, None),
        (Condition(revision=7), GONE, None),
        (Condition(revision=0), NEVER, None),
        (Condition(revision=6), LIVE, RevisionMismatchError),
        (Condition(revision=7), NEVER, RevisionMismatchError),
        (Condition(revision=0), GONE, RevisionMismatchError),
        (Condition(revision=None, wanted_by="create"), NEVER, None),
        (Condition(revision=None, wanted_by="create"), GONE, None),
        (Condition(revision=None, wanted_by="create"), LIVE, AlreadyExistsError),
        (Condition(revision=None, wanted_by="require"), GONE, None),
        (Condition(revision=None, wanted_by="require"), LIVE, RevisionMismatchError),
        (Condition(revision=6, wanted_by="fence"), LIVE, FencedError),
        (Condition(revision=7, wanted_by="fence"), LIVE, None),
    ],
)
def test_a_condition_holds_or_says_what_it_found(condition: Condition, last: Last, error: type[KvError] | None) -> None:
    if error is None:
        condition.check("k", last, store="s")
        return
    with pytest.raises(error) as caught:
        condition.check("k", last, store="s")
    assert type(caught.value) is error
    assert (caught.value.store, caught.value.key) == ("s", "k")
    if isinstance(caught.value, RevisionMismatchError):
        assert caught.value.actual == VersionToken.from_u64(last.revision)


def test_all_conditions_of_a_key_have_to_hold() -> None:
    conditions = [Condition(revision=7), Condition(revision=None, wanted_by="create")]
    check_all("k", conditions, GONE, store="s")
    with pytest.raises(AlreadyExistsError):
        check_all("k", conditions, LIVE, store="s")


def test_a_fence_alone_makes_a_queue_no_less_empty() -> None:
    queue = Queue("s", fence=Fence(key="fence", revision=1))
    assert queue.is_empty
    queue.require("fence", Condition(revision=1, wanted_by="require"))
    assert not queue.is_empty


def test_what_was_refused_leaves_nothing_behind() -> None:
    queue = Queue("s")
    for number in range(MAX_OPERATIONS):
        queue.write(QueuedWrite(key=f"k.{number}"))
    with pytest.raises(ValueError, match="1000"):
        queue.write(QueuedWrite(key="more"), Condition(revision=1))
    assert "more" not in queue.writes
    assert "more" not in queue.conditions
    for number in range(MAX_OPERATIONS):
        queue.require(f"other.{number}", Condition(revision=1))  # each rides on a write
    with pytest.raises(ValueError, match="1000"):
        queue.require("more", Condition(revision=1))
    with pytest.raises(ValueError, match="1000"):
        queue.require_unchanged("more.", 1)
    assert "more" not in queue.conditions
    assert "more." not in queue.unchanged
    queue.require("other.1", Condition(revision=1))  # a key that has its guard already needs no other


def test_the_older_revision_of_a_prefix_counts() -> None:
    queue = Queue("s")
    for revision in (5, 3, 9):
        queue.require_unchanged("node.", revision)
    assert queue.unchanged == {"node.": 3}


@given(
    st.lists(st.sampled_from([f"k.{number}" for number in range(6)]), unique=True),
    st.lists(st.sampled_from([f"k.{number}" for number in range(6)])),
    st.lists(st.sampled_from(["", "a.", "b."])),
)
def test_the_count_of_messages_is_that_of_writes_and_guards_laid_side_by_side(
    written: list[str], required: list[str], prefixes: list[str]
) -> None:
    queue = Queue("s")
    for key in written:
        queue.write(QueuedWrite(key=key))
    for key in required:
        queue.require(key, Condition(revision=1))
    for prefix in prefixes:
        queue.require_unchanged(prefix, 1)
    free = [key for key in written if key not in required]
    extra = {key for key in required if key not in written} | {f"prefix {prefix}" for prefix in prefixes}
    assert queue.messages == len(written) + max(0, len(extra) - len(free))


def test_a_bulk_write_that_the_fence_stopped_at_once_is_fenced() -> None:
    fenced = FencedError(store="s", key="fence")
    unknown = FencedError(store="s", key="fence", outcome_unknown=True)
    version = VersionToken.from_u64(1)
    assert bulk_error(store="s", versions={}, errors={"a": fenced, "b": fenced}) is fenced
    for versions, errors in (
        ({"a": version}, {"b": fenced}),
        ({}, {"a": fenced, "b": KvError()}),
        ({}, {"a": unknown}),
    ):
        error = bulk_error(store="s", versions=versions, errors=errors)
        assert isinstance(error, BulkWriteError)
        assert error.outcome_unknown == (unknown in errors.values())
