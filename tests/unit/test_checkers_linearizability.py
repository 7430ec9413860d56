"""The search for an order: it accepts what has one, and finds every violation that was planted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from random import Random

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from slipstream.testing.checkers import Action, Kind, NotLinearizable, Outcome, Undecided, check_linearizable, linearize
from slipstream.testing.checkers.linearizability import Register, step


def act(
    kind: Kind,
    value: str = "",
    at: tuple[float, float] = (0, 1),
    *,
    revision: int | None = None,
    expected: int | None = None,
    conflict: bool = False,
    key: str = "k",
) -> Action:
    return Action(
        client="c",
        kind=kind,
        key=key,
        value=value.encode(),
        expected=expected,
        invoked=at[0],
        returned=at[1],
        outcome=Outcome.REFUSED if conflict else Outcome.DONE,
        revision=revision,
        conflict=conflict,
    )


def unknown(action: Action) -> Action:
    return replace(action, outcome=Outcome.UNKNOWN, revision=None, returned=math.inf)


def put(value: str, at: tuple[float, float], revision: int) -> Action:
    return act(Kind.PUT, value, at, revision=revision)


def get(value: str, at: tuple[float, float], revision: int | None = None) -> Action:
    return act(Kind.GET, value, at, revision=revision)


def create(value: str, at: tuple[float, float], revision: int | None = None, *, conflict: bool = False) -> Action:
    return act(Kind.CREATE, value, at, revision=revision, conflict=conflict)


def update(
    value: str, at: tuple[float, float], expected: int, revision: int | None = None, *, conflict: bool = False
) -> Action:
    return act(Kind.UPDATE, value, at, expected=expected, revision=revision, conflict=conflict)


def delete(at: tuple[float, float]) -> Action:
    return act(Kind.DELETE, "", at)


FINE = {
    "nothing at all": [],
    "one after the other": [put("a", (0, 1), 1), get("a", (2, 3), 1), put("b", (4, 5), 2), get("b", (6, 7), 2)],
    "a read beside a write sees the old value": [put("a", (0, 1), 1), put("b", (2, 9), 2), get("a", (3, 4), 1)],
    "a read beside a write sees the new value": [put("a", (0, 1), 1), put("b", (2, 9), 2), get("b", (3, 4), 2)],
    "a write that ended in the moment in which a read began": [
        put("a", (0, 1), 1),
        put("b", (2, 3), 2),
        get("a", (3, 4), 1),
    ],
    "two writers, the later one first": [put("b", (0, 9), 2), put("a", (1, 8), 1), get("b", (10, 11), 2)],
    "a deleted key is made again": [put("a", (0, 1), 1), delete((2, 3)), get("", (4, 5)), create("b", (6, 7), 3)],
    "an empty value is absent": [put("a", (0, 1), 1), put("", (2, 3), 2), get("", (4, 5)), create("b", (6, 7), 3)],
    "one of two wins": [
        put("a", (0, 1), 1),
        update("b", (2, 9), 1, 2),
        update("c", (2, 9), 1, conflict=True),
        create("d", (2, 9), conflict=True),
    ],
    "a conflict with a key that is gone": [put("a", (0, 1), 1), delete((2, 3)), update("b", (4, 5), 1, conflict=True)],
    "an unknown write that was stored": [unknown(put("a", (0, 1), 1)), get("a", (2, 3), 7), update("b", (4, 5), 7, 8)],
    "an unknown write that was not": [put("a", (0, 1), 1), unknown(put("b", (2, 3), 2)), get("a", (4, 5), 1)],
    "an unknown write that came late": [
        unknown(put("b", (0, 1), 2)),
        put("a", (2, 3), 1),
        get("a", (4, 5), 1),
        get("b", (6, 7), 2),
    ],
    "an unknown write explains a conflict": [
        put("a", (0, 1), 1),
        unknown(update("b", (2, 3), 1)),
        update("c", (4, 5), 1, conflict=True),
        get("b", (6, 7), 2),
    ],
    "an unknown delete explains an absence": [put("a", (0, 1), 1), unknown(delete((2, 3))), get("", (4, 5))],
    "a refused read or write tells nothing": [
        put("a", (0, 1), 1),
        replace(put("b", (2, 3), 2), outcome=Outcome.REFUSED, revision=None),
        replace(get("b", (2, 3)), outcome=Outcome.REFUSED),
        get("a", (4, 5), 1),
    ],
}

PLANTED = {
    "a stale read": [put("a", (0, 1), 1), put("b", (2, 3), 2), get("a", (4, 5), 1)],
    "a lost write": [put("a", (0, 1), 1), get("", (2, 3))],
    "a value that nobody wrote": [put("a", (0, 1), 1), get("b", (2, 3), 1)],
    "a value from the future": [get("a", (0, 1), 1), put("a", (2, 3), 1)],
    "a refused write that is read": [
        put("a", (0, 1), 1),
        update("b", (2, 3), 9, conflict=True),
        get("b", (4, 5), 2),
    ],
    "two updates of one revision": [put("a", (0, 1), 1), update("b", (2, 9), 1, 2), update("c", (2, 9), 1, 3)],
    "two creations": [create("a", (0, 9), 1), create("b", (0, 9), 2)],
    "a creation over a live value": [put("a", (0, 1), 1), create("b", (2, 3), 2)],
    "a conflict without a reason": [put("a", (0, 1), 1), update("b", (2, 3), 1, conflict=True)],
    "a creation refused for nothing": [put("a", (0, 1), 1), delete((2, 3)), create("b", (4, 5), conflict=True)],
    "an update of a key that is gone": [put("a", (0, 1), 1), delete((2, 3)), update("b", (4, 5), 1, 3)],
    "a deleted value that comes back": [put("a", (0, 1), 1), delete((2, 3)), get("a", (4, 5), 1)],
    "a read that goes back and forth": [
        put("a", (0, 1), 1),
        put("b", (2, 9), 2),
        get("b", (3, 4), 2),
        get("a", (5, 6), 1),
    ],
    "revisions that run backwards": [put("a", (0, 1), 2), put("b", (2, 3), 1)],
    "a read of the right value at the wrong revision": [put("a", (0, 1), 1), get("a", (2, 3), 2)],
    "an unknown write that was stored twice": [
        unknown(put("a", (0, 1), 1)),
        get("a", (2, 3), 1),
        put("b", (4, 5), 2),
        get("a", (6, 7), 3),
    ],
    "an unknown write that was stored and undone": [
        put("a", (0, 1), 1),
        unknown(put("b", (2, 3), 2)),
        get("b", (4, 5), 2),
        get("a", (6, 7), 1),
    ],
    "an unknown write with two revisions": [
        unknown(put("a", (0, 1), 1)),
        get("a", (2, 3), 4),
        get("a", (4, 5), 5),
    ],
    "an unknown update whose condition never held": [
        put("a", (0, 1), 5),
        unknown(update("b", (2, 3), 4)),
        get("b", (4, 5), 6),
    ],
    "an update at a revision before the one that it expected": [
        unknown(put("a", (0, 1), 1)),
        update("b", (2, 3), 7, 5),
    ],
    "an unknown write from before another one's revision": [
        put("a", (0, 1), 5),
        unknown(put("b", (2, 3), 2)),
        get("b", (4, 5), 4),
    ],
}


@pytest.mark.parametrize("actions", FINE.values(), ids=FINE)
def test_what_has_an_order_is_accepted(actions: list[Action]) -> None:
    check_linearizable(actions)
    check_linearizable(reversed(actions))


@pytest.mark.parametrize("actions", PLANTED.values(), ids=PLANTED)
def test_what_has_none_is_found(actions: list[Action]) -> None:
    assert linearize(actions) is None
    with pytest.raises(NotLinearizable, match="'k'"):
        check_linearizable(reversed(actions))


def test_keys_are_independent() -> None:
    right = [replace(action, key="right") for action in FINE["one after the other"]]
    wrong = [replace(action, key="wrong") for action in PLANTED["a stale read"]]
    check_linearizable(right)
    with pytest.raises(NotLinearizable, match="'wrong'"):
        check_linearizable([*right, *wrong])


def test_the_report_says_what_could_not_be_placed() -> None:
    with pytest.raises(NotLinearizable) as caught:
        check_linearizable(PLANTED["a stale read"])
    assert "after 2 of 3 the key holds b'b' at 2, and none of these fits" in str(caught.value)
    assert "get k b'a' -> done at 1" in str(caught.value)
    assert "put" not in str(caught.value)


def test_the_order_is_told() -> None:
    first, second, seen = put("b", (0, 9), 2), put("a", (1, 8), 1), get("b", (10, 11), 2)
    assert linearize([first, second, seen]) == [second, first, seen]


def test_a_search_that_takes_too_long_is_given_up() -> None:
    doubts = [unknown(put(f"{number}", (number, number + 1), 1)) for number in range(12)]
    with pytest.raises(Undecided, match="gave up after 1000 steps"):
        check_linearizable([*doubts, get("never", (99, 100), 1)], limit=1000)


def test_nothing_is_looked_at_twice() -> None:
    # 8! orders of the same reads lead to 2**8 sets of them.
    reads = [get("", (0, 9)) for _ in range(8)]
    assert linearize([*reads, get("never written", (0, 9), 1)], limit=5000) is None


def test_a_long_history_is_quickly_searched() -> None:
    actions = []
    for number in range(1, 2001):
        actions += [put(f"{number}", (number, number + 5.5), number), get(f"{number}", (number, number + 5.5), number)]
    assert linearize(actions, limit=100_000) is not None


# Histories of a real register, with the operations' times drawn around the moments in which they took effect.


@dataclass
class Plan:
    """One operation, before it is known how it ends."""

    kind: Kind
    early: float
    late: float
    doubtful: bool
    stored: bool
    stale: bool


plans = st.lists(
    st.builds(
        Plan,
        kind=st.sampled_from(Kind),
        early=st.floats(0, 4),
        late=st.floats(0, 4),
        doubtful=st.integers(0, 4).map(lambda number: number == 0),
        stored=st.booleans(),
        stale=st.booleans(),
    ),
    max_size=24,
)


def played(planned: Sequence[Plan]) -> list[Action]:
    """The plans carried out one by one on one register, each at the moment of its number."""
    value, revision, last = "", 0, 0
    known = 0  # a revision that somebody may have read
    actions = []
    for moment, plan in enumerate(planned):
        at = (moment - plan.early, moment + plan.late)
        expected = known if plan.kind is Kind.UPDATE and plan.stale else revision
        fits = {Kind.CREATE: not value, Kind.UPDATE: expected == revision}.get(plan.kind, True)
        action = act(
            plan.kind,
            value if plan.kind is Kind.GET else "" if plan.kind is Kind.DELETE else f"v{moment}",
            at,
            expected=expected if plan.kind is Kind.UPDATE else None,
            conflict=not fits,
        )
        if plan.kind is Kind.GET:
            actions.append(replace(action, revision=revision if value else None))
            known = revision
            continue
        if plan.doubtful:
            actions.append(unknown(replace(action, conflict=False)))
            fits = fits and plan.stored
        elif fits:
            actions.append(replace(action, revision=None if plan.kind is Kind.DELETE else last + 1))
        else:
            actions.append(action)
        if fits:
            last += 1
            value, revision = action.value.decode(), last
    return actions


@settings(deadline=None)
@given(plans, st.randoms(use_true_random=False))
def test_histories_of_a_register_are_accepted(planned: list[Plan], random: Random) -> None:
    actions = played(planned)
    event(f"{sum(action.outcome is Outcome.UNKNOWN for action in actions)} unknown")
    random.shuffle(actions)
    assert linearize(actions) is not None


small_actions = st.lists(
    st.builds(
        act,
        kind=st.sampled_from(Kind),
        value=st.sampled_from(["", "a", "b"]),
        at=st.tuples(st.integers(0, 4), st.integers(0, 4)).map(lambda pair: (float(min(pair)), float(max(pair)))),
        revision=st.none() | st.integers(1, 4),
        expected=st.integers(0, 3),
        conflict=st.booleans(),
    ).map(lambda action: action if action.kind is not Kind.DELETE else replace(action, value=b"", revision=None)),
    max_size=5,
)


def by_trying_all(actions: Sequence[Action]) -> bool:
    """Whether any order explains them, found without any cleverness."""
    needed = [action for action in actions if action.outcome is not Outcome.UNKNOWN]
    doubtful = [action for action in actions if action.outcome is Outcome.UNKNOWN]
    for count in range(len(doubtful) + 1):
        for stored in combinations(doubtful, count):
            for order in permutations([*needed, *stored]):
                if all(not later.returned < earlier.invoked for earlier, later in combinations(order, 2)):
                    state: Register | None = Register()
                    for action in order:
                        state = None if state is None else step(state, action)
                    if state is not None:
                        return True
    return False


@settings(max_examples=300, deadline=None)
@given(small_actions, st.lists(st.booleans(), min_size=5, max_size=5))
def test_the_search_finds_what_trying_all_orders_finds(actions: list[Action], doubts: list[bool]) -> None:
    mixed = [
        unknown(replace(action, conflict=False)) if doubt and action.kind is not Kind.GET else action
        for action, doubt in zip(actions, doubts, strict=False)
    ]
    mixed = [
        replace(action, outcome=Outcome.DONE, conflict=False) if action.kind is Kind.GET else action for action in mixed
    ]
    expected = by_trying_all(mixed)
    event(f"linearizable: {expected}")
    found = linearize(mixed)
    assert (found is not None) is expected
