"""Did a watch deliver what was written? Checked against the writes that were acknowledged and the bucket's end state.

For buckets with `max_history=1`, where a value that was overwritten before its delivery may be skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from slipstream.model import KvUpdate, Operation
from slipstream.testing.checkers.history import Action, Kind, Outcome

_SHOWN = 20


class Violation(Enum):
    """What a watch can do wrong."""

    UNNUMBERED = "delivered without a revision"
    REPEATED = "delivered again"
    OUT_OF_ORDER = "delivered after a newer revision"
    UNWANTED = "delivered although it lies before the cursor or outside of the prefix"
    PHANTOM = "delivered, but nobody wrote it"
    LOST = "never delivered, and no newer update of its key either"
    WRONG_END = "the last update delivered is not the bucket's last record"


class Finding(NamedTuple):
    """A violation and what it is about."""

    violation: Violation
    detail: str

    def __str__(self) -> str:
        return f"{self.violation.value}: {self.detail}"


class WatchViolated(AssertionError):
    """A watch broke its promises.

    Attributes:
        findings: all that was found.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)
        shown = "\n".join(f"  {finding}" for finding in self.findings[:_SHOWN])
        super().__init__(f"{len(self.findings)} violations:\n{shown}")


class Change(NamedTuple):
    """What a write does to a key; the value is empty for whatever makes it absent."""

    key: str
    value: bytes


class Ledger:
    """The writes to a bucket: those that were acknowledged, by revision, and those that may have been stored.

    An acknowledged delete tells no revision, so it stands among the latter.
    """

    def __init__(self) -> None:
        self.acknowledged: dict[int, Change] = {}
        self.possible: Counter[Change] = Counter()

    @classmethod
    def of(cls, actions: Iterable[Action]) -> Ledger:
        """The writes of a history."""
        ledger = cls()
        for action in actions:
            if action.kind is Kind.GET or action.outcome is Outcome.REFUSED:
                continue
            if action.revision is not None:
                ledger.acknowledge(action.revision, action.key, action.value)
            else:
                ledger.allow(action.key, action.value)
        return ledger

    def acknowledge(self, revision: int, key: str, value: bytes) -> None:
        """The server said that this is stored. Raises: AssertionError if it has said so of another write."""
        change = Change(key, value)
        other = self.acknowledged.setdefault(revision, change)
        assert other == change, f"revision {revision} was given to two writes: {other} and {change}"

    def allow(self, key: str, value: bytes = b"") -> None:
        """It may have been stored, once: a write of unknown outcome, a delete, an expiry."""
        self.possible[Change(key, value)] += 1


def check_watch(
    updates: Sequence[KvUpdate],
    ledger: Ledger,
    end: Mapping[str, tuple[int, bytes]],
    *,
    prefix: str = "",
    after: int = 0,
) -> None:
    """Pass if the watch kept its promises. Raises: WatchViolated. Arguments as of `watch_violations`."""
    findings = watch_violations(updates, ledger, end, prefix=prefix, after=after)
    if findings:
        raise WatchViolated(findings)


def watch_violations(
    updates: Sequence[KvUpdate],
    ledger: Ledger,
    end: Mapping[str, tuple[int, bytes]],
    *,
    prefix: str = "",
    after: int = 0,
) -> list[Finding]:
    """Everything that the watch did wrong.

    Args:
        updates: all that it delivered, up to the end.
        ledger: every write since the bucket was made, or since `after`.
        end: revision and value of the last record of every key, tombstones (empty) included, read past the library
            when nobody wrote any more; the watch had reached it.
        after: the revision of the cursor that the watch began with, 0 without one.
    """
    delivered = [update for update in updates if update.revision is not None]
    return [
        *(Finding(Violation.UNNUMBERED, str(update)) for update in updates if update.revision is None),
        *_out_of_order(delivered),
        *(
            Finding(Violation.UNWANTED, str(update))
            for update in delivered
            if _revision(update) <= after or not update.key.startswith(prefix)
        ),
        *_phantoms(delivered, ledger),
        *_lost(delivered, ledger, prefix, after),
        *_wrong_end(delivered, end, prefix, after),
    ]


def _out_of_order(delivered: Sequence[KvUpdate]) -> Iterable[Finding]:
    newest, seen = 0, set[int]()
    for update in delivered:
        revision = _revision(update)
        if revision in seen:
            yield Finding(Violation.REPEATED, str(update))
        elif revision < newest:
            yield Finding(Violation.OUT_OF_ORDER, f"{newest} came before {update}")
        seen.add(revision)
        newest = max(newest, revision)


def _phantoms(delivered: Sequence[KvUpdate], ledger: Ledger) -> Iterable[Finding]:
    left = ledger.possible.copy()
    seen = set[int]()
    for update in delivered:
        revision, change = _revision(update), _change(update)
        if revision in seen or ledger.acknowledged.get(revision) == change:
            continue
        seen.add(revision)
        if revision not in ledger.acknowledged and left[change] > 0:
            left[change] -= 1  # stored twice, it is once too often
        else:
            yield Finding(Violation.PHANTOM, f"{update}, acknowledged: {ledger.acknowledged.get(revision)}")


def _lost(delivered: Sequence[KvUpdate], ledger: Ledger, prefix: str, after: int) -> Iterable[Finding]:
    newest: dict[str, int] = {}
    for update in delivered:
        newest[update.key] = max(newest.get(update.key, 0), _revision(update))
    for revision, change in sorted(ledger.acknowledged.items()):
        wanted = revision > after and change.key.startswith(prefix)
        if wanted and newest.get(change.key, 0) < revision:
            yield Finding(Violation.LOST, f"{revision} {change}")


def _wrong_end(
    delivered: Sequence[KvUpdate], end: Mapping[str, tuple[int, bytes]], prefix: str, after: int
) -> Iterable[Finding]:
    last = {update.key: update for update in delivered}
    for key in sorted(last.keys() | {key for key in end if key.startswith(prefix)}):
        update, record = last.get(key), end.get(key)
        if record is None:  # tombstones may have been removed
            right = update is None or not _change(update).value
        elif update is None:  # before the cursor; or absent to whoever never heard of the key
            right = record[0] <= after or not (record[1] or after)
        else:
            right = record == (_revision(update), _change(update).value)
        if not right:
            yield Finding(Violation.WRONG_END, f"{key!r} is {record}, delivered was {update}")


def _change(update: KvUpdate) -> Change:
    return Change(update.key, update.value if update.operation is Operation.PUT else b"")


def _revision(update: KvUpdate) -> int:
    assert update.revision is not None  # the others were sorted out
    return update.revision
