"""Folding updates into entries: what changes, in which order, what replaces what, and the bound."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.errors import StoreFullError
from slipstream.follow.state import ENTRY_BYTES, Change, State, commits
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


def put(key: str, value: bytes, revision: int) -> KvUpdate:
    return KvUpdate(operation=Operation.PUT, key=key, value=value, version=VersionToken.from_u64(revision))


def gone(key: str, revision: int) -> KvUpdate:
    return KvUpdate(operation=Operation.DELETE, key=key, version=VersionToken.from_u64(revision))


def shown(changes: list[Change]) -> list[tuple[Any, ...]]:
    def value(entry: KvEntry | None) -> bytes | None:
        return None if entry is None else entry.value

    return [(change.key, value(change.old), value(change.new)) for change in changes]


def values(state: State) -> dict[str, bytes]:
    return {key: entry.value for key, entry in state.entries.items()}


def test_changes_tell_old_and_new_also_within_one_batch() -> None:
    state = State()
    changes = state.apply([put("a", b"1", 1), put("a", b"2", 2), gone("a", 3), put("b", b"1", 4)])
    assert shown(changes) == [("a", None, b"1"), ("a", b"1", b"2"), ("a", b"2", None), ("b", None, b"1")]
    assert values(state) == {"b": b"1"}


def test_a_tombstone_of_an_absent_key_changes_nothing() -> None:
    assert State().apply([gone("a", 1)]) == []


def test_a_staged_state_is_not_seen_before_it_is_settled() -> None:
    state = State()
    state.apply([put("a", b"1", 1), put("b", b"1", 2)])
    state.begin()
    assert state.apply([put("b", b"2", 5), put("c", b"1", 6)]) == []
    assert values(state) == {"a": b"1", "b": b"1"}
    changes = state.settle()
    assert shown(changes) == [("a", b"1", None), ("b", b"1", b"2"), ("c", None, b"1")]
    assert [change.synthetic for change in changes] == [True, False, False]
    assert values(state) == {"b": b"2", "c": b"1"}
    assert not state.staging


def test_what_is_as_it_was_is_no_change() -> None:
    state = State()
    state.apply([put("a", b"1", 1)])
    state.begin()
    state.apply([put("a", b"1", 1)])
    assert state.settle() == []


@pytest.mark.parametrize("again", [put("a", b"2", 1), put("a", b"1", 2)], ids=["value", "revision"])
def test_another_value_or_another_revision_is_a_change(again: KvUpdate) -> None:
    state = State()
    state.apply([put("a", b"1", 1)])
    state.begin()
    state.apply([again])
    assert len(state.settle()) == 1


def test_beginning_again_forgets_what_was_staged() -> None:
    state = State()
    state.begin()
    state.apply([put("a", b"1", 1)])
    state.begin()
    state.apply([put("b", b"1", 1)])
    state.settle()
    assert values(state) == {"b": b"1"}
    assert state.bytes == ENTRY_BYTES + 2


def test_settling_nothing_changes_nothing() -> None:
    state = State()
    state.apply([put("a", b"1", 1)])
    assert state.settle() == []
    assert values(state) == {"a": b"1"}


@pytest.mark.parametrize("staged", [False, True])
def test_the_bound_is_inclusive_and_a_batch_beyond_it_is_not_applied(staged: bool) -> None:
    state = State(max_bytes=2 * (ENTRY_BYTES + 2))
    if staged:
        state.begin()
    state.apply([put("a", b"1", 1), put("b", b"1", 2), gone("b", 3), put("c", b"1", 4)])
    with pytest.raises(StoreFullError, match="max_bytes=804"):
        state.apply([put("a", b"", 5), put("d", b"1", 6)])
    if not staged:
        assert values(state) == {"a": b"1", "c": b"1"}


def test_a_bound_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        State(max_bytes=0)


UPDATES = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.binary(min_size=1, max_size=3)), max_size=30)


@UNHURRIED
@given(UPDATES, UPDATES, st.integers(1, 5))
def test_the_changes_lead_from_the_old_state_to_the_new(
    before: list[tuple[str, bytes | None]], after: list[tuple[str, bytes | None]], size: int
) -> None:
    state = State()
    mirror: dict[str, bytes] = {}
    wanted: dict[str, bytes] = {}
    revision = 0

    def fold(changes: list[Change]) -> None:
        for key, old, new in shown(changes):
            assert mirror.get(key) == old
            mirror.pop(key, None)
            if new is not None:
                mirror[key] = new

    for staged, updates in [(False, before), (True, after)]:
        if staged:
            state.begin()
            wanted = {}
        batch = []
        for key, value in updates:
            revision += 1
            batch.append(gone(key, revision) if value is None else put(key, value, revision))
            wanted.pop(key, None)
            if value is not None:
                wanted[key] = value
        for start in range(0, len(batch), size):
            fold(state.apply(batch[start : start + size]))
        fold(state.settle())
        assert values(state) == mirror == wanted
        assert state.bytes == sum(len(key) + len(value) + ENTRY_BYTES for key, value in wanted.items())


def test_commits_are_told_apart() -> None:
    def of(key: str, transaction: str | None = None, *, commit: bool = False) -> KvUpdate:
        return KvUpdate(operation=Operation.DELETE, key=key, transaction=transaction, commit=commit)

    updates = [
        of("a"), of("b"), of("c", "1"), of("d", "1", commit=True), of("e", "2"), of("f", "3"), of("g", "3"), of("h"),
        of("i", "4", commit=True), of("j", "4"),
    ]  # fmt: skip
    groups = ["".join(update.key for update in group) for group in commits(updates)]
    assert groups == ["a", "b", "cd", "e", "fg", "h", "i", "j"]
    assert list(commits([])) == []
