"""TypedStore: the roles of a store, with models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Generic, TypeVar

from slipstream.codecs.keys import KeyCodec
from slipstream.codecs.values import Codec, JsonCodec
from slipstream.interfaces import KvReader, KvStore, KvWatcher, KvWriter, Transaction, Ttl
from slipstream.model import KvEntry, StoreStatus, VersionToken, WatchCursor
from slipstream.typed.schema import Migration, Schema
from slipstream.typed.transaction import TypedTransaction
from slipstream.typed.values import Format, Poison, SameKeys, TypedEntry, TypedUpdate
from slipstream.typed.watch import TypedWatch

M = TypeVar("M")
T = TypeVar("T")


class TypedReader(Generic[M]):
    """As `KvReader`. Where one value is asked for, DeserializationError is raised; among many, the policy decides."""

    def __init__(self, reader: KvReader, form: Format[M]) -> None:
        self._reader = reader
        self._format = form

    async def get(self, key: str, *, min_version: VersionToken | None = None) -> TypedEntry[M] | None:
        """The current entry, or None if the key is absent. Raises: DeserializationError; as `KvReader.get`."""
        entry = await self._reader.get(self._format.keys.encode(key), min_version=min_version)
        return None if entry is None else self._format.entry(entry)

    async def entry(self, key: str) -> KvEntry | None:
        """The record as stored, not decoded, for compare-and-swap; None on a tombstone."""
        return await self._reader.entry(self._format.keys.encode(key))

    async def get_many(self, keys: Iterable[str]) -> dict[str, TypedEntry[M]]:
        """The current entries of those keys that are not absent, in the order asked for."""
        found = await self._reader.get_many([self._format.keys.encode(key) for key in keys])
        return {entry.key: entry for entry in self._format.entries(found.values())}

    async def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, sorted."""
        stored = await self._reader.keys(self._format.keys.encode_prefix(prefix))
        decoded = (self._format.or_poison(self._format.keys.decode, key) for key in stored)
        return sorted(key for key in decoded if key is not None)

    async def scan(self, prefix: str = "") -> list[TypedEntry[M]]:
        """The entries whose key begins with `prefix`, sorted by key."""
        found = await self._reader.scan(self._format.keys.encode_prefix(prefix))
        return sorted(self._format.entries(found), key=lambda entry: entry.key)

    async def iter_scan(self, prefix: str = "") -> AsyncIterator[TypedEntry[M]]:
        """As `scan`, in revision order and with bounded memory; a key may come again. Close it if it is left early."""
        entries = self._reader.iter_scan(self._format.keys.encode_prefix(prefix))
        try:
            async for entry in entries:
                typed = self._format.or_poison(self._format.entry, entry)
                if typed is not None:
                    yield typed
        finally:
            if isinstance(entries, AsyncGenerator):
                await entries.aclose()

    async def history(self, key: str) -> list[TypedUpdate[M]]:
        """What the bucket still holds of the key, oldest first."""
        return self._format.updates(await self._reader.history(self._format.keys.encode(key)))

    async def revision(self, key: str, version: VersionToken) -> TypedUpdate[M] | None:
        """That write of the key, None if it is not held. Raises: DeserializationError."""
        update = await self._reader.revision(self._format.keys.encode(key), version)
        return None if update is None else self._format.update(update)


class TypedWriter(Generic[M]):
    """As `KvWriter`. Every method that takes a value raises SerializationError before anything is sent.

    Errors name keys as they are stored.
    """

    def __init__(self, writer: KvWriter, form: Format[M]) -> None:
        self._writer = writer
        self._format = form

    async def put(self, key: str, value: M, *, ttl: Ttl | None = None) -> VersionToken:
        """Write whatever the key holds."""
        return await self._writer.put(*self._format.dump(key, value), ttl=ttl)

    async def create(self, key: str, value: M, *, ttl: Ttl | None = None) -> VersionToken:
        """Write only if the key is absent. Raises: AlreadyExistsError."""
        return await self._writer.create(*self._format.dump(key, value), ttl=ttl)

    async def update(self, key: str, value: M, expected: VersionToken, *, ttl: Ttl | None = None) -> VersionToken:
        """Write only if the last revision of the key is `expected`. Raises: RevisionMismatchError."""
        return await self._writer.update(*self._format.dump(key, value), expected, ttl=ttl)

    async def touch(self, key: str, expected: VersionToken, *, ttl: Ttl) -> VersionToken:
        """Write the value again with a new ttl, only if the last revision is `expected`."""
        return await self._writer.touch(self._format.keys.encode(key), expected, ttl=ttl)

    async def delete(self, key: str) -> bool:
        """Leave a tombstone. Always True."""
        return await self._writer.delete(self._format.keys.encode(key))

    async def delete_with_version(self, key: str, expected: VersionToken) -> bool:
        """Leave a tombstone, only if the last revision is `expected`. True."""
        return await self._writer.delete_with_version(self._format.keys.encode(key), expected)

    async def purge(self, key: str, *, expected: VersionToken | None = None) -> None:
        """Leave a tombstone and drop the key's history."""
        await self._writer.purge(self._format.keys.encode(key), expected=expected)

    async def purge_deletes(self, older_than: Ttl = 0) -> int:
        """Remove the tombstones of the whole bucket that are older than so many seconds; the number removed."""
        return await self._writer.purge_deletes(older_than)

    async def put_many(self, items: Mapping[str, M] | Iterable[tuple[str, M]]) -> list[VersionToken]:
        """Write all items, pipelined; their versions in the order of the items. Raises: BulkWriteError."""
        pairs = items.items() if isinstance(items, Mapping) else items
        return await self._writer.put_many([self._format.dump(key, value) for key, value in pairs])

    def transaction(self) -> TypedTransaction[M]:
        """Operations that are stored all or not at all."""
        return self.within(self._writer.transaction())

    def within(self, txn: Transaction) -> TypedTransaction[M]:
        """This model in a transaction that others take part in: of one bucket, begun by `store.transaction()`."""
        return TypedTransaction(txn, self._format)

    async def atomically(self, fn: Callable[[TypedTransaction[M]], Awaitable[T]]) -> T:
        """Run `fn(txn)` and commit, again from the start on a conflict; returns what `fn` returned."""
        return await self._writer.atomically(lambda txn: fn(self.within(txn)))

    def fenced(self, key: str, version: VersionToken) -> TypedWriter[M]:
        """A writer whose every write the server refuses (FencedError) once `key` has moved on from `version`."""
        return TypedWriter(self._writer.fenced(self._format.keys.encode(key), version), self._format)


class TypedWatcher(Generic[M]):
    """As `KvWatcher`."""

    def __init__(self, watcher: KvWatcher, form: Format[M]) -> None:
        self._watcher = watcher
        self._format = form

    def watch(self, prefix: str | Iterable[str] = "", *, cursor: WatchCursor | None = None) -> TypedWatch[M]:
        """Follow the keys that begin with one of the prefixes, each change once; see `TypedWatch`."""
        prefixes = [prefix] if isinstance(prefix, str) else prefix
        stored = [self._format.keys.encode_prefix(one) for one in prefixes]
        return TypedWatch(self._watcher.watch(stored, cursor=cursor), self._format)


class TypedStore(TypedReader[M], TypedWriter[M], TypedWatcher[M]):
    """A store whose values are models: `TypedStore(store, User)`. The same methods, with `User` instead of bytes."""

    def __init__(
        self,
        store: KvStore,
        model: type[M],
        *,
        codec: Codec | None = None,
        key_codec: KeyCodec | None = None,
        poison: Poison = "raise",
        version: int = 1,
        migrations: Mapping[int, Migration] | None = None,
    ) -> None:
        """A typed handle on the bucket; nothing is sent.

        Args:
            model: a pydantic model, or any type that pydantic validates.
            codec: how values are written; None is JSON. See `slipstream.codecs`.
            key_codec: how keys are written; None: as they are, and so legal keys only.
            poison: what becomes of a value (or a key) that does not decode, in `scan`, `iter_scan`, `get_many`, `keys`,
                `history` and `watch`: `"raise"`, `"skip"`, or a function that is called with the DeserializationError
                and the entry as stored, which is then skipped.
            version: of the model's schema, counted up with each change that old values need a migration for.
            migrations: by schema version, functions that make the plain value of the next version.
        Raises: ValueError where a migration is missing.
        """
        schema = Schema(model, codec if codec is not None else JsonCodec(), version=version, migrations=migrations)
        keys = key_codec if key_codec is not None else SameKeys()
        form = Format(schema, keys, poison, store=store.name)
        TypedReader.__init__(self, store, form)
        TypedWriter.__init__(self, store, form)
        TypedWatcher.__init__(self, store, form)
        self._store = store

    @property
    def name(self) -> str:
        """Of the bucket."""
        return self._store.name

    @property
    def raw(self) -> KvStore:
        """The store of bytes."""
        return self._store

    async def status(self) -> StoreStatus:
        """The bucket as the server has it now."""
        return await self._store.status()

    def decode(self, entry: KvEntry) -> M:
        """The value of a stored entry, as for `KvCache(store, prefix, decode=typed.decode)`.

        Raises: DeserializationError, which names store, key and revision.
        """
        return self._format.value(entry)

    def reader(self) -> TypedReader[M]:
        """A handle that can only read."""
        return TypedReader(self._store.reader(), self._format)

    def writer(self) -> TypedWriter[M]:
        """A handle that can only write."""
        return TypedWriter(self._store.writer(), self._format)

    def watcher(self) -> TypedWatcher[M]:
        """A handle that can only watch."""
        return TypedWatcher(self._store.watcher(), self._format)
