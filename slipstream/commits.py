"""L1: what a commit consists of: the writes that are queued, and what has to hold for them. Pure; for every backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from slipstream.errors import AlreadyExistsError, BulkWriteError, FencedError, KvError, RevisionMismatchError
from slipstream.model import Operation, VersionToken

MAX_OPERATIONS = 1000
"""Messages of one atomic batch that nats-server takes (10199 beyond)."""
FENCED_TWICE = "a fenced writer is fenced by one key: make one of the store, or use require() in a transaction"
UNFENCED_PURGE = "tombstones are removed without a condition: use purge_deletes of the store itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedWrite:
    """A write that waits for the commit. `ttl` is in seconds."""

    key: str
    operation: Operation = Operation.PUT
    value: bytes = b""
    ttl: int | None = None


class Last(NamedTuple):
    """What a key is at: its last revision, 0 for no record; and whether it reads as absent."""

    revision: int
    absent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a key has to be at for the commit.

    Attributes:
        revision: its last revision, 0 for no record; None where it has to be absent, whatever made it so.
        wanted_by: who wants it so; decides which error says that it is not.
    """

    revision: int | None
    wanted_by: Literal["write", "create", "require", "fence"] = "write"

    def check(self, key: str, last: Last, *, store: str) -> None:
        """Raises: AlreadyExistsError, FencedError, RevisionMismatchError where it does not hold."""
        if last.absent if self.revision is None else self.revision == last.revision:
            return
        if self.wanted_by == "create":
            raise AlreadyExistsError(store=store, key=key)
        kind = FencedError if self.wanted_by == "fence" else RevisionMismatchError
        raise kind(
            store=store,
            key=key,
            message=f"it has to be absent, the server holds {last.revision}" if self.revision is None else None,
            expected=None if self.revision is None else VersionToken.from_u64(self.revision),
            actual=VersionToken.from_u64(last.revision),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A key that must stay at this revision for the writes of a fenced writer."""

    key: str
    revision: int

    @property
    def condition(self) -> Condition:
        return Condition(revision=self.revision, wanted_by="fence")


def changed(prefix: str, since: int, newest: int, *, store: str) -> RevisionMismatchError:
    """The error of `require_unchanged`."""
    return RevisionMismatchError(
        store=store,
        key=prefix,
        message=f"something under this prefix changed after {since}, at {newest}",
        expected=VersionToken.from_u64(since),
        actual=VersionToken.from_u64(newest),
    )


class Queue:
    """What one commit consists of. Pure.

    Attributes:
        writes: by key, in the order in which they are stored.
        conditions: by key; several of one key have to hold all.
        unchanged: by prefix, the revision after which nothing may have changed under it.
    """

    def __init__(self, store: str, *, fence: Fence | None = None) -> None:
        self.store = store
        self.writes: dict[str, QueuedWrite] = {}
        self.conditions: dict[str, list[Condition]] = {}
        self.unchanged: dict[str, int] = {}
        if fence is not None:
            self.require(fence.key, fence.condition)

    @property
    def is_empty(self) -> bool:
        """There is nothing to store and nothing to prove; a fence guards writes only."""
        wanted = (condition.wanted_by for conditions in self.conditions.values() for condition in conditions)
        return not self.writes and not self.unchanged and all(by == "fence" for by in wanted)

    def write(self, write: QueuedWrite, condition: Condition | None = None) -> None:
        """Raises: ValueError for a key that is written already, and for one operation too many."""
        if write.key in self.writes:
            raise ValueError(f"a transaction writes a key once: {write.key!r} is queued already")
        self.writes[write.key] = write
        if condition is not None:
            self.conditions.setdefault(write.key, []).append(condition)
        if self._is_too_long():
            del self.writes[write.key]
            if condition is not None:
                self._withdraw(write.key)
            raise _too_many()

    def require(self, key: str, condition: Condition) -> None:
        """Raises: ValueError for one operation too many."""
        self.conditions.setdefault(key, []).append(condition)
        if self._is_too_long():
            self._withdraw(key)
            raise _too_many()

    def require_unchanged(self, prefix: str, revision: int) -> None:
        """Raises: ValueError for one operation too many."""
        known = self.unchanged.get(prefix)
        self.unchanged[prefix] = revision if known is None else min(known, revision)
        if self._is_too_long():
            del self.unchanged[prefix]  # it is new: an old one needs no further message
            raise _too_many()

    def _is_too_long(self) -> bool:
        # Counted only where it may matter: a queue is asked for every operation.
        most = len(self.writes) + len(self.conditions) + len(self.unchanged)
        return most > MAX_OPERATIONS and self.messages > MAX_OPERATIONS

    def _withdraw(self, key: str) -> None:
        self.conditions[key].pop()
        if not self.conditions[key]:
            del self.conditions[key]

    @property
    def messages(self) -> int:
        """How many messages carry it: each write is one, and each carries one guard, its own or another one."""
        own = sum(key in self.conditions for key in self.writes)
        others = len(self.conditions) - own + len(self.unchanged)
        return max(len(self.writes), own + others)


def _too_many() -> ValueError:
    return ValueError(f"a transaction has at most {MAX_OPERATIONS} operations")


def bulk_error(*, store: str, versions: Mapping[str, VersionToken], errors: Mapping[str, KvError]) -> KvError:
    """What a bulk write that failed raises: the FencedError if the fence let nothing through."""
    first = next(iter(errors.values()))
    if not versions and all(isinstance(error, FencedError) and not error.outcome_unknown for error in errors.values()):
        return first
    unknown = any(error.outcome_unknown for error in errors.values())
    return BulkWriteError(store=store, versions=versions, errors=errors, outcome_unknown=unknown)


def check_all(key: str, conditions: Iterable[Condition], last: Last, *, store: str) -> None:
    """Raises the error of the first condition of the key that does not hold."""
    for condition in conditions:
        condition.check(key, last, store=store)
