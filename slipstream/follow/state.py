"""The entries of a prefix, and what each update changes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from slipstream.errors import StoreFullError
from slipstream.model import KvEntry, KvUpdate, VersionToken

ENTRY_BYTES = 400
"""What one entry costs beside its key and value: the objects and the slots of two dicts (CPython 3.11, 64 bit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One key before and after; None where it is absent.

    Attributes:
        version: of the write that changed it, the removal included; unknown where it was found missing and nobody told.
    """

    key: str
    old: KvEntry | None
    new: KvEntry | None
    version: VersionToken

    @property
    def synthetic(self) -> bool:
        """It was found missing."""
        return self.version.is_unknown


class State:
    """Takes updates as they come, or, between `begin` and `settle`, a whole new state that replaces the old at once.

    Attributes:
        max_bytes: bound on keys, values and `ENTRY_BYTES` each; None for no bound. A new state is held beside the old
            one until it is complete, and each is bounded by itself.
    """

    def __init__(self, *, max_bytes: int | None = None) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes is at least 1, or None for no bound, not {max_bytes}")
        self.max_bytes = max_bytes
        self._entries: dict[str, KvEntry] = {}
        self._bytes = 0
        self._staged: dict[str, KvEntry] | None = None
        self._staged_bytes = 0

    @property
    def entries(self) -> Mapping[str, KvEntry]:
        """A live view."""
        return MappingProxyType(self._entries)

    @property
    def bytes(self) -> int:
        return self._bytes

    @property
    def staging(self) -> bool:
        """Between `begin` and `settle`."""
        return self._staged is not None

    def load(self, entries: Iterable[KvEntry]) -> list[Change]:
        """Begin with these, as from a file. Raises: StoreFullError."""
        self.begin()
        for entry in entries:
            self._stage(entry.key, entry)
        return self.settle()

    def begin(self) -> None:
        """What is applied from now on is the whole state; what was staged before is forgotten."""
        self._staged, self._staged_bytes = {}, 0

    def apply(self, updates: Iterable[KvUpdate]) -> list[Change]:
        """The changes, in the order of the updates; none while staging. All of it is applied, or nothing if it raises.

        Raises: StoreFullError.
        """
        if self._staged is not None:
            for update in updates:
                self._stage(update.key, update.entry)
            return []
        touched: dict[str, KvEntry | None] = {}
        changes = []
        size = self._bytes
        for update in updates:
            key, new = update.key, update.entry
            old = touched[key] if key in touched else self._entries.get(key)
            if old is None and new is None:
                continue
            touched[key] = new
            size += _size(new) - _size(old)
            changes.append(Change(key=key, old=old, new=new, version=update.version))
        self._check(size)
        for key, entry in touched.items():
            if entry is None:
                self._entries.pop(key, None)
            else:
                self._entries[key] = entry
        self._bytes = size
        return changes

    def settle(self) -> list[Change]:
        """The staged state is complete and replaces the old one: what vanished comes first, then what is new or other.

        Nothing if nothing was staged.
        """
        if self._staged is None:
            return []
        old, self._entries, self._bytes = self._entries, self._staged, self._staged_bytes
        self._staged, self._staged_bytes = None, 0
        gone = [
            Change(key=key, old=entry, new=None, version=VersionToken.unknown())
            for key, entry in old.items()
            if key not in self._entries
        ]
        # Both are compared: in another life of the bucket a revision comes again with another value.
        fresh = [
            Change(key=key, old=old.get(key), new=entry, version=entry.version)
            for key, entry in self._entries.items()
            if (was := old.get(key)) is None or (was.version, was.value) != (entry.version, entry.value)
        ]
        return gone + fresh

    def _stage(self, key: str, entry: KvEntry | None) -> None:
        assert self._staged is not None
        self._staged_bytes -= _size(self._staged.pop(key, None))  # popped, so that revision order is kept
        if entry is not None:
            self._staged[key] = entry
            self._staged_bytes += _size(entry)
            self._check(self._staged_bytes)

    def _check(self, size: int) -> None:
        if self.max_bytes is not None and size > self.max_bytes:
            raise StoreFullError(
                message=f"more than max_bytes={self.max_bytes} would be kept in memory: "
                "follow a narrower prefix, or raise the bound"
            )


def commits(updates: Iterable[KvUpdate]) -> Iterator[list[KvUpdate]]:
    """The updates in the groups that were written at once: one alone, or those of one commit."""
    group: list[KvUpdate] = []
    for update in updates:
        if group and (update.transaction is None or update.transaction != group[-1].transaction or group[-1].commit):
            yield group
            group = []
        group.append(update)
    if group:
        yield group


def _size(entry: KvEntry | None) -> int:
    # Keys are ASCII (keys.py).
    return 0 if entry is None else len(entry.key) + len(entry.value) + ENTRY_BYTES
