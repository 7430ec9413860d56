"""Keys in order, for those who ask. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterable

_FEW = 64
_SLACK = 1000


class KeyOrder:
    """The keys of a fold in order, sorted when they are first asked for: who only gets never pays.

    It may hold keys that are gone, and a key twice that came back; the reader drops both.
    """

    def __init__(self) -> None:
        self._sorted: list[str] = []
        self._added: list[str] = []

    def add(self, keys: Iterable[str]) -> None:
        """Keys that were absent before."""
        self._added.extend(keys)

    def clear(self) -> None:
        self._sorted, self._added = [], []

    def page(self, live: Collection[str], *, prefix: str, after: str | None, size: int) -> list[str]:
        """Up to `size` keys of `live` under the prefix, from the next one after `after` on; empty for no more."""
        self._settle(live)
        at = bisect_left(self._sorted, prefix) if after is None else bisect_right(self._sorted, after)
        while at < len(self._sorted):
            found = [key for key in self._sorted[at : at + size] if key.startswith(prefix)]
            page = [key for key in dict.fromkeys(found) if key in live]
            if page or not found:
                return page
            at += size
        return []

    def _settle(self, live: Collection[str]) -> None:
        added, self._added = self._added, []
        if len(self._sorted) + len(added) > 2 * len(live) + _SLACK:
            self._sorted = sorted(live)
        elif len(added) <= _FEW:
            for key in added:
                insort(self._sorted, key)
        else:
            self._sorted += added
            self._sorted.sort()
