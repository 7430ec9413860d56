"""The last entry of every live key, in memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from slipstream.model import KvEntry
from slipstream.replica.append_log.frame import Frame, entry_bytes
from slipstream.replica.change import Change
from slipstream.replica.order import KeyOrder

_PAGE = 256
_INDEX_BITS = 40


class Fold:
    """A dict of entries. Those read from a log stay in its frames until somebody asks: that makes a restart quick.

    Attributes:
        live_bytes: what the entries take in a log.
    """

    def __init__(self) -> None:
        self._entries: dict[str, KvEntry | int] = {}  # int: which frame, and which put of it
        self._frames: dict[int, Frame] = {}
        self._unread: dict[int, int] = {}  # how many entries point to a frame
        self._next_frame = 0
        self._order = KeyOrder()
        self.live_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self) -> list[str]:
        """In no order that means anything."""
        return list(self._entries)

    def get(self, key: str) -> KvEntry | None:
        found = self._entries.get(key)
        return self._read(key, found) if type(found) is int else found  # type: ignore[return-value]

    def pick(self, keys: Iterable[str]) -> dict[str, KvEntry]:
        """The entries of those of the keys that are still there."""
        found = {key: self.get(key) for key in keys}
        return {key: entry for key, entry in found.items() if entry is not None}

    def page(self, prefix: str, after: str | None) -> list[KvEntry]:
        """Entries under the prefix from the next key after `after` on, in key order; empty for no more."""
        return list(self.pick(self._order.page(self._entries, prefix=prefix, after=after, size=_PAGE)).values())

    def take(self, change: Change) -> None:
        self._remove(change.removed)
        self._forget(change.puts)
        self._entries.update(change.puts)
        self.live_bytes += sum(map(entry_bytes, change.puts.values()))

    def take_frame(self, frame: Frame) -> None:
        """The same for what was read from a log."""
        self._remove(frame.removed)
        if not frame.keys:
            return
        keys = dict.fromkeys(frame.keys)
        self._forget(keys)
        first = self._next_frame << _INDEX_BITS
        self._entries.update(zip(frame.keys, range(first, first + len(keys)), strict=True))
        self._frames[self._next_frame] = frame
        self._unread[self._next_frame] = len(keys)
        self._next_frame += 1
        self.live_bytes += frame.put_bytes()

    def clear(self) -> None:
        self._entries.clear()
        self._frames.clear()
        self._unread.clear()
        self._order.clear()
        self.live_bytes = 0

    def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            found = self._entries.pop(key, None)
            if found is not None:
                self._count_out(found)

    def _forget(self, keys: dict[str, KvEntry] | dict[str, None]) -> None:
        """These keys are about to be written over."""
        overwritten = self._entries.keys() & keys.keys()
        for key in overwritten:
            self._count_out(self._entries[key])
        self._order.add(key for key in keys if key not in overwritten)

    def _count_out(self, found: KvEntry | int) -> None:
        if isinstance(found, int):
            number, index = found >> _INDEX_BITS, found & ((1 << _INDEX_BITS) - 1)
            self.live_bytes -= self._frames[number].entry_bytes(index)
            self._let_go(number)
        else:
            self.live_bytes -= entry_bytes(found)

    def _read(self, key: str, place: int) -> KvEntry:
        number, index = place >> _INDEX_BITS, place & ((1 << _INDEX_BITS) - 1)
        entry = self._entries[key] = self._frames[number].entry(index)
        self._let_go(number)
        return entry

    def _let_go(self, number: int) -> None:
        """A frame stays in memory as long as an entry is still to be read from it."""
        self._unread[number] -= 1
        if not self._unread[number]:
            del self._unread[number], self._frames[number]
