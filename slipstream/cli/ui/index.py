"""The keys of a store as far as was seen: sorted, without their values. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from slipstream.model import KvUpdate, Operation

_LAST = chr(0x10FFFF)
"""Sorts behind everything that a key may hold."""


class KeyIndex:
    """What is kept of a key is its name: a hundred thousand of them are some ten megabytes."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys = sorted(set(keys))

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        place = bisect_left(self._keys, key)
        return place < len(self._keys) and self._keys[place] == key

    def apply(self, updates: Sequence[KvUpdate]) -> bool:
        """Take in changes, in their order; whether a key came or went. One that is known already changes nothing."""
        last = {update.key: update.operation is Operation.PUT for update in updates}
        come = [key for key, there in last.items() if there and key not in self]
        gone = {key for key, there in last.items() if not there and key in self}
        if gone:
            self._keys = [key for key in self._keys if key not in gone]
        if come:
            # One pass for all of them: the keys are sorted already, but for these.
            self._keys = sorted([*self._keys, *come])
        return bool(come or gone)

    def matching(self, prefix: str = "") -> Sequence[str]:
        """The keys that begin with it, sorted."""
        if not prefix:
            return self._keys
        return self._keys[bisect_left(self._keys, prefix) : bisect_left(self._keys, prefix + _LAST)]
