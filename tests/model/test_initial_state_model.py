"""When is the initial state complete? Every way in which a small bucket can change while it is delivered.

The server lists the last record of each key when the consumer is made, delivers what is left of the list, then what
is newer (as seen on 2.10 to 2.15). The follower may ask at any moment, filter by filter, for the first record beyond
what it has received. Once the decision says "complete", every key that was there from the start has to have arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pytest

from slipstream.resume import initial_state_complete

Complete = Callable[[Iterable[int | None]], bool]
KEYS = "ab"
WRITES_BEFORE, WRITES_DURING = 3, 3


class World(NamedTuple):
    """One situation.

    Attributes:
        records: key and revision of each key's last record, in the order of revisions.
        at_start: the same when the consumer was made; None before that.
        listed: what is left of the server's list.
        received: the highest revision that has arrived; `arrived`: key and revision of all that did, the last of each.
        unproven: the filters, of one key each, that something lay ahead of when it was last asked.
    """

    last: int = 0
    writes: int = 0
    records: tuple[tuple[int, str], ...] = ()
    at_start: tuple[tuple[int, str], ...] | None = None
    listed: tuple[int, ...] = ()
    received: int = 0
    arrived: frozenset[tuple[str, int]] = frozenset()
    unproven: str = KEYS
    complete: bool = False

    def tails(self) -> dict[str, int | None]:
        """For each unproven filter the first record beyond `received`."""
        ahead = {key: revision for revision, key in self.records if revision > self.received}
        return {key: ahead.get(key) for key in self.unproven}


class Violated(AssertionError):
    """The decision was wrong."""


def steps(world: World, complete: Complete) -> Iterator[World]:
    opened = world.at_start is not None
    if world.writes < (WRITES_DURING if opened else WRITES_BEFORE):
        for key in KEYS:
            kept = tuple(record for record in world.records if record[1] != key)
            yield world._replace(last=world.last + 1, writes=world.writes + 1, records=(*kept, (world.last + 1, key)))
    if not opened:
        yield world._replace(writes=0, at_start=world.records, listed=tuple(revision for revision, _ in world.records))
        return
    yield from _delivered(world)
    yield _asked(world, complete)


def _delivered(world: World) -> Iterator[World]:
    held = dict(world.records)
    listed = tuple(revision for revision in world.listed if revision in held)
    end = max((revision for revision, _ in world.at_start or ()), default=0)
    newer = [revision for revision in held if revision > max(world.received, end)]
    for revision in listed[:1] or newer[:1]:
        arrived = frozenset(each for each in world.arrived if each[0] != held[revision])
        yield world._replace(listed=listed[1:], received=revision, arrived=arrived | {(held[revision], revision)})


def _asked(world: World, complete: Complete) -> World:
    tails = world.tails()
    if not complete(tails.values()):
        if all(revision <= world.received for revision, _ in world.records):
            raise Violated(f"nothing lies ahead, and it is not complete: {world}")
        return world._replace(unproven="".join(key for key, tail in tails.items() if tail is not None))
    arrived = dict(world.arrived)
    for revision, key in world.at_start or ():
        if arrived.get(key, 0) < revision:
            raise Violated(f"complete without {key!r}: {world}")
    return world._replace(complete=True)


def explore(complete: Complete) -> int:
    """Visit every situation; how many there are. Raises: Violated."""
    seen = {World()}
    queue = deque(seen)
    while queue:
        world = queue.popleft()
        for after in () if world.complete else steps(world, complete):
            if after not in seen:
                seen.add(after)
                queue.append(after)
    return len(seen)


def test_complete_means_that_every_key_has_arrived() -> None:
    assert explore(initial_state_complete) > 1000


@pytest.mark.parametrize(
    "mutated",
    [
        lambda tails: any(tail is None for tail in tails),
        lambda tails: initial_state_complete([*tails][:1]),
        lambda tails: initial_state_complete([*tails][1:]),
        lambda _: True,
    ],
    ids=["one filter is enough", "the first filter is enough", "the first filter is left out", "whenever asked"],
)
def test_a_blind_decision_is_caught(mutated: Complete) -> None:
    with pytest.raises(Violated, match="complete without"):
        explore(mutated)


@pytest.mark.parametrize(
    "mutated",
    [lambda _: False, lambda tails: not [*tails], lambda tails: initial_state_complete([*tails, 1])],
    ids=["never", "only without filters", "one filter too many"],
)
def test_a_decision_that_never_comes_is_caught(mutated: Complete) -> None:
    with pytest.raises(Violated, match="nothing lies ahead"):
        explore(mutated)
