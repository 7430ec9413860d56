"""What it takes to make a prefix of a store hold what a tree says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slipstream.cli.commands.differences import Difference, Kind
from slipstream.interfaces import Transaction
from slipstream.model import KvEntry, VersionToken

MAX_OPERATIONS = 1000
"""Of one transaction: see `slipstream.interfaces.Transaction`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation of the transaction; `version` is that of the entry which the plan was made with, None for none."""

    difference: Difference
    version: VersionToken | None


def make_plan(wanted: Mapping[str, bytes], entries: Iterable[KvEntry], *, prune: bool) -> list[Step]:
    """The steps, by key. Keys that are there and not wanted are left alone, unless they are to be pruned."""
    there = {entry.key: entry for entry in entries}
    steps = []
    for key in sorted({*wanted, *there}):
        entry, value = there.get(key), wanted.get(key)
        if entry is None:
            kind = Kind.ADDED
        elif value is None:
            if not prune:
                continue
            kind = Kind.REMOVED
        elif value == entry.value:
            continue
        else:
            kind = Kind.CHANGED
        difference = Difference(kind=kind, key=key, left=None if entry is None else entry.value, right=value)
        steps.append(Step(difference=difference, version=None if entry is None else entry.version))
    return steps


def queue(step: Step, transaction: Transaction) -> None:
    """Add the step to the transaction, with the condition that nobody has written the key since the plan was made."""
    key, value = step.difference.key, step.difference.right
    if step.version is None:
        assert value is not None  # a key that is there neither before nor after is in no plan
        transaction.create(key, value)
    elif value is None:
        transaction.require(key, step.version)
        transaction.delete(key)
    else:
        transaction.update(key, value, step.version)
