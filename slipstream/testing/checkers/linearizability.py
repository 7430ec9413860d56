"""Is there one order of the operations, within the times they took, that explains every answer?

The search of Wing and Gong with the memory of Lowe ("Testing for linearizability", 2017): take any operation that
began before the first of the others ended, see whether its answer fits the state, go on from there, step back where
nothing fits, and never look twice at the same set of operations taken with the same state.

A history of many keys is linearizable if that of each key is (Herlihy and Wing), so each is searched by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from slipstream.testing.checkers.history import Action, Kind, Outcome

_LIMIT = 1_000_000
_SHOWN = 12


class NotLinearizable(AssertionError):
    """No order explains the answers."""


class Undecided(RuntimeError):
    """The search was given up; neither a proof nor a violation was found."""


class Register(NamedTuple):
    """What a key holds.

    Attributes:
        value: empty for nothing: never written, deleted, or an empty value.
        revision: of the last write; where that is not `exact`, something below it.
    """

    value: bytes = b""
    revision: int = 0
    exact: bool = True


def step(state: Register, action: Action) -> Register | None:
    """What the key holds once the action has taken effect, None where its answer does not fit."""
    if action.conflict:
        return state if _may_conflict(state, action) else None
    if action.kind is Kind.GET:
        return _seen(state, action)
    if action.kind is Kind.CREATE and state.value:
        return None
    if action.kind is Kind.UPDATE and not (action.expected is not None and _may_be_at(state, action.expected)):
        return None
    above = max(state.revision, action.expected or 0)
    if action.revision is None:
        return Register(action.value, above, exact=False)
    return Register(action.value, action.revision) if action.revision > above else None


def _seen(state: Register, action: Action) -> Register | None:
    if action.value != state.value:
        return None
    if action.revision is None:
        return state
    # Now the revision of a write of unknown outcome is known, too.
    return Register(state.value, action.revision) if _may_be_at(state, action.revision) else None


def _may_be_at(state: Register, revision: int) -> bool:
    return revision == state.revision if state.exact else revision > state.revision


def _may_conflict(state: Register, action: Action) -> bool:
    if action.kind is Kind.CREATE:
        return bool(state.value)
    return not (state.exact and state.revision == action.expected)


def check_linearizable(actions: Iterable[Action], *, limit: int = _LIMIT) -> None:
    """Pass if the actions on each key, which held nothing before, can be put in order.

    Args:
        limit: how many steps the search may take for a key.
    Raises: NotLinearizable, an AssertionError that names the key and what could not be placed; Undecided.
    """
    by_key: dict[str, list[Action]] = defaultdict(list)
    for action in actions:
        by_key[action.key].append(action)
    for key, of_key in by_key.items():
        search = _Search(of_key, limit)
        if search.run() is None:
            raise NotLinearizable(f"no order of the operations on {key!r} explains their answers: {search.stuck()}")


def linearize(actions: Sequence[Action], *, limit: int = _LIMIT) -> list[Action] | None:
    """An order of the actions on one key that explains them, without those that had no effect; None for none.

    Raises: Undecided after so many steps.
    """
    return _Search(actions, limit).run()


class _Event(NamedTuple):
    at: float
    is_return: bool  # after an invocation at the same moment: then the two overlap
    action: int


class _Search:
    """The search on one key. `_next` and `_previous` link the events of the actions not taken yet."""

    def __init__(self, actions: Sequence[Action], limit: int) -> None:
        self._actions = [action for action in actions if _tells_something(action)]
        self._limit = limit
        invocations = [_Event(action.invoked, False, index) for index, action in enumerate(self._actions)]
        returns = [_Event(action.returned, True, index) for index, action in enumerate(self._actions)]
        self._events = sorted(invocations + returns)
        self._end = len(self._events)  # before the first and after the last
        self._next = [*range(1, self._end + 1), 0]
        self._previous = [self._end, *range(self._end)]
        self._places: dict[int, list[int]] = defaultdict(list)
        for place, event in enumerate(self._events):
            self._places[event.action].append(place)
        self._taken: list[tuple[int, Register]] = []
        self._deepest: tuple[int, Register, list[Action]] = (-1, Register(), [])

    def run(self) -> list[Action] | None:
        # An action of unknown outcome may be taken at any time, and need not be.
        open_ends = sum(action.outcome is not Outcome.UNKNOWN for action in self._actions)
        state = Register()
        chosen = 0
        seen: set[tuple[int, Register]] = {(0, state)}
        steps = 0
        place = self._next[self._end]
        while open_ends:
            steps += 1
            if steps > self._limit:
                raise Undecided(
                    f"gave up after {self._limit} steps on the {len(self._actions)} operations on "
                    f"{self._actions[0].key!r}: use more keys, or fewer operations of unknown outcome"
                )
            if place != self._end and not self._events[place].is_return:
                index = self._events[place].action
                after = step(state, self._actions[index])
                mark = chosen | 1 << index
                if after is not None and (mark, after) not in seen:
                    seen.add((mark, after))
                    self._taken.append((index, state))
                    chosen, state = mark, after
                    open_ends -= self._actions[index].outcome is not Outcome.UNKNOWN
                    self._take_out(index)
                    place = self._next[self._end]
                else:
                    place = self._next[place]
                continue
            # Everything that may come next has been tried.
            self._note_depth(state)
            if not self._taken:
                return None
            index, state = self._taken.pop()
            chosen ^= 1 << index
            open_ends += self._actions[index].outcome is not Outcome.UNKNOWN
            self._put_back(index)
            place = self._next[self._places[index][0]]
        return [self._actions[index] for index, _ in self._taken]

    def stuck(self) -> str:
        """How far the best attempt came, and what could not be placed after it."""
        placed, state, candidates = self._deepest
        holds = f"{state.value!r} at {state.revision}{'' if state.exact else ' or later'}" if state.value else "nothing"
        lines = [f"after {placed} of {len(self._actions)} the key holds {holds}, and none of these fits:"]
        lines += [f"  {action}" for action in candidates[:_SHOWN]]
        return "\n".join(lines)

    def _note_depth(self, state: Register) -> None:
        if len(self._taken) > self._deepest[0]:
            self._deepest = (len(self._taken), state, self._candidates())

    def _candidates(self) -> list[Action]:
        found = []
        place = self._next[self._end]
        while place != self._end and not self._events[place].is_return:
            found.append(self._actions[self._events[place].action])
            place = self._next[place]
        return found

    def _take_out(self, index: int) -> None:
        for place in self._places[index]:
            self._next[self._previous[place]] = self._next[place]
            self._previous[self._next[place]] = self._previous[place]

    def _put_back(self, index: int) -> None:
        for place in reversed(self._places[index]):
            self._next[self._previous[place]] = place
            self._previous[self._next[place]] = place


def _tells_something(action: Action) -> bool:
    """It has an effect or an answer: not a read that failed, nor a write refused whatever the key held."""
    return action.outcome is not Outcome.REFUSED or action.conflict
