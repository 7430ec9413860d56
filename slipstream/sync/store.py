"""The roles of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeVar

from slipstream.interfaces import KvReader, KvStore, KvWatcher, KvWriter, Transaction, Ttl
from slipstream.model import KvEntry, KvUpdate, StoreStatus, VersionToken, WatchCursor
from slipstream.sync.portal import Back, Portal, close, read, take
from slipstream.sync.watch import SyncWatch

T = TypeVar("T")

_SCAN_STEP = 256
"""Entries that cross from the loop to the caller at once: the crossing costs more than an entry."""


class SyncReader:
    """As `KvReader`."""

    def __init__(self, reader: KvReader, portal: Portal) -> None:
        self._reader = reader
        self._portal = portal

    def get(self, key: str, *, min_version: VersionToken | None = None) -> KvEntry | None:
        """The current entry, or None if the key is absent."""
        return self._portal.call(self._reader.get(key, min_version=min_version))

    def entry(self, key: str) -> KvEntry | None:
        """The raw record for compare-and-swap: as `get`, but an empty value is returned too; None on a tombstone."""
        return self._portal.call(self._reader.entry(key))

    def get_many(self, keys: Iterable[str]) -> dict[str, KvEntry]:
        """The current entries of those keys that are not absent, in the order asked for."""
        return self._portal.call(self._reader.get_many(list(keys)))  # the caller's iterable runs in the caller's thread

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, sorted."""
        return self._portal.call(self._reader.keys(prefix))

    def scan(self, prefix: str = "") -> list[KvEntry]:
        """The entries whose key begins with `prefix`, sorted by key."""
        return self._portal.call(self._reader.scan(prefix))

    def iter_scan(self, prefix: str = "") -> Iterator[KvEntry]:
        """As `scan`, in revision order and with bounded memory; a key may come again with a newer value."""
        entries = self._portal.call(read(lambda: self._reader.iter_scan(prefix)))
        try:
            while step := self._portal.call(take(entries, _SCAN_STEP)):
                yield from step
        finally:
            self._portal.call_at_end(close(entries))

    def history(self, key: str) -> list[KvUpdate]:
        """What the bucket still holds of the key, tombstones included, oldest first."""
        return self._portal.call(self._reader.history(key))

    def revision(self, key: str, version: VersionToken) -> KvUpdate | None:
        """That write of the key, or None if it is not held (any more) or was another key's."""
        return self._portal.call(self._reader.revision(key, version))


class SyncWriter:
    """As `KvWriter`."""

    def __init__(self, writer: KvWriter, portal: Portal) -> None:
        self._writer = writer
        self._portal = portal

    def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        """Write whatever the key holds."""
        return self._portal.call(self._writer.put(key, value, ttl=ttl))

    def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        """Write only if the key is absent. Raises: AlreadyExistsError."""
        return self._portal.call(self._writer.create(key, value, ttl=ttl))

    def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> VersionToken:
        """Write only if the last revision of the key is `expected`. Raises: RevisionMismatchError."""
        return self._portal.call(self._writer.update(key, value, expected, ttl=ttl))

    def touch(self, key: str, expected: VersionToken, *, ttl: Ttl) -> VersionToken:
        """Write the value again with a new ttl, only if the last revision is `expected`."""
        return self._portal.call(self._writer.touch(key, expected, ttl=ttl))

    def delete(self, key: str) -> bool:
        """Leave a tombstone, whether or not the key was there. Always True."""
        return self._portal.call(self._writer.delete(key))

    def delete_with_version(self, key: str, expected: VersionToken) -> bool:
        """Write an empty value as tombstone, only if the last revision is `expected`. True."""
        return self._portal.call(self._writer.delete_with_version(key, expected))

    def purge(self, key: str, *, expected: VersionToken | None = None) -> None:
        """Leave a tombstone and drop the key's history."""
        self._portal.call(self._writer.purge(key, expected=expected))

    def purge_deletes(self, older_than: Ttl = 0) -> int:
        """Remove the tombstones older than so many seconds; the number of keys removed."""
        return self._portal.call(self._writer.purge_deletes(older_than))

    def put_many(self, items: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> list[VersionToken]:
        """Write all items, pipelined; their versions in the order of the items."""
        pairs = list(items.items() if isinstance(items, Mapping) else items)
        return self._portal.call(self._writer.put_many(pairs))

    def transaction(self) -> SyncTransaction:
        """Operations that are stored all or not at all: `with store.transaction() as txn`."""
        return SyncTransaction(self._writer.transaction(), self._portal)

    def atomically(self, fn: Callable[[SyncTransaction], T]) -> T:
        """Run `fn(txn)` and commit, again from the start on a conflict; returns what `fn` returned.

        `fn` is an ordinary function and runs in the thread of the caller.
        """

        async def start(back: Back) -> T:
            return await self._writer.atomically(lambda txn: back(lambda: fn(SyncTransaction(txn, self._portal))))

        return self._portal.call_with(start)

    def fenced(self, key: str, version: VersionToken) -> SyncWriter:
        """A writer whose every write the server refuses (FencedError) once `key` has moved on from `version`."""
        return SyncWriter(self._writer.fenced(key, version), self._portal)


class SyncWatcher:
    """As `KvWatcher`."""

    def __init__(self, watcher: KvWatcher, portal: Portal) -> None:
        self._watcher = watcher
        self._portal = portal

    def watch(self, prefix: str | Iterable[str] = "", *, cursor: WatchCursor | None = None) -> SyncWatch:
        """Follow the keys that begin with one of the prefixes, each change once; see `SyncWatch`."""
        prefixes = prefix if isinstance(prefix, str) else list(prefix)
        return SyncWatch(self._watcher.watch(prefixes, cursor=cursor), self._portal)


class SyncStore(SyncReader, SyncWriter, SyncWatcher):
    """As `KvStore`."""

    def __init__(self, store: KvStore, portal: Portal) -> None:
        SyncReader.__init__(self, store, portal)
        SyncWriter.__init__(self, store, portal)
        SyncWatcher.__init__(self, store, portal)
        self._store = store

    @property
    def name(self) -> str:
        """Of the bucket."""
        return self._store.name

    def status(self) -> StoreStatus:
        """The bucket as the server has it now."""
        return self._portal.call(self._store.status())

    def reader(self) -> SyncReader:
        """A handle that can only read."""
        return SyncReader(self._store.reader(), self._portal)

    def writer(self) -> SyncWriter:
        """A handle that can only write."""
        return SyncWriter(self._store.writer(), self._portal)

    def watcher(self) -> SyncWatcher:
        """A handle that can only watch."""
        return SyncWatcher(self._store.watcher(), self._portal)


class SyncTransaction:
    """As `Transaction`; for one thread."""

    def __init__(self, txn: Transaction, portal: Portal) -> None:
        self._txn = txn
        self._portal = portal

    def __enter__(self) -> Self:
        self._portal.call(self._txn.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._portal.call(self._txn.__aexit__(kind, error, trace))

    def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> None:
        """Write whatever the key holds."""
        self._txn.put(key, value, ttl=ttl)

    def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> None:
        """Write only if the key is absent."""
        self._txn.create(key, value, ttl=ttl)

    def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> None:
        """Write only if the last revision of the key is `expected`."""
        self._txn.update(key, value, expected, ttl=ttl)

    def delete(self, key: str) -> None:
        """Leave a tombstone."""
        self._txn.delete(key)

    def purge(self, key: str) -> None:
        """Leave a tombstone and drop the key's history."""
        self._txn.purge(key)

    def get(self, key: str) -> KvEntry | None:
        """The current entry, tracked: the commit fails if the key changes before it."""
        return self._portal.call(self._txn.get(key))

    def require(self, key: str, version: VersionToken | None) -> None:
        """Commit only if the key is at `version`; None: only if it is absent."""
        self._txn.require(key, version)

    def require_unchanged(self, prefix: str, version: VersionToken) -> None:
        """Commit only if nothing under the prefix, tombstones included, is newer than `version`."""
        self._txn.require_unchanged(prefix, version)

    @property
    def versions(self) -> dict[str, VersionToken]:
        """After the commit: the version of every key written."""
        return self._txn.versions
