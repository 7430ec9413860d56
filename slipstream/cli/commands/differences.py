"""What differs between two sets of keys, and what a key was at a revision. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from slipstream.model import KvUpdate, Operation


class Unknown:
    """Nobody can tell any more what the key was: the store has dropped it from its history."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()
Value = bytes | Unknown
"""A key that is absent is in no mapping."""


class Kind(Enum):
    """How a key differs."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A key that is not the same on both sides; None where it is absent or unknown."""

    kind: Kind
    key: str
    left: bytes | None
    right: bytes | None


def differences(left: Mapping[str, Value], right: Mapping[str, Value]) -> list[Difference]:
    """By key, sorted. From left to right: a key that only the right side has was added."""
    found = []
    for key in sorted({*left, *right}):
        kind = _kind(left.get(key), right.get(key))
        if kind is not None:
            found.append(Difference(kind=kind, key=key, left=_known(left.get(key)), right=_known(right.get(key))))
    return found


def value_at(history: Sequence[KvUpdate], revision: int, *, max_history: int) -> Value | None:
    """What a key was at a revision of its bucket, None for absent.

    Args:
        history: all that the bucket holds of the key, oldest first.
        max_history: how much the bucket keeps of a key.
    """
    before = [update for update in history if (update.revision or 0) <= revision]
    if before:
        last = before[-1]
        return last.value if last.operation is Operation.PUT else None
    if not history:
        return None
    # What lies before the oldest record was pushed out by newer ones, or dropped by a purge: or there was nothing.
    dropped = len(history) >= max_history or history[0].operation is Operation.PURGE
    return UNKNOWN if dropped else None


def _kind(left: Value | None, right: Value | None) -> Kind | None:
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return Kind.UNKNOWN
    if left == right:
        return None
    if left is None:
        return Kind.ADDED
    return Kind.REMOVED if right is None else Kind.CHANGED


def _known(value: Value | None) -> bytes | None:
    return None if isinstance(value, Unknown) else value
