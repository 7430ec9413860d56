"""Models in a transaction."""

from __future__ import annotations

from types import TracebackType
from typing import Generic, Self, TypeVar

from slipstream.interfaces import Transaction, Ttl
from slipstream.model import VersionToken
from slipstream.typed.values import Format, TypedEntry

M = TypeVar("M")


class TypedTransaction(Generic[M]):
    """As `Transaction`, with models."""

    def __init__(self, txn: Transaction, form: Format[M]) -> None:
        self._txn = txn
        self._format = form
        self._keys: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await self._txn.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._txn.__aexit__(kind, error, trace)

    def put(self, key: str, value: M, *, ttl: Ttl | None = None) -> None:
        """Write whatever the key holds. Raises: SerializationError; then nothing is queued."""
        self._txn.put(*self._dump(key, value), ttl=ttl)

    def create(self, key: str, value: M, *, ttl: Ttl | None = None) -> None:
        """Write only if the key is absent. Raises: SerializationError; then nothing is queued."""
        self._txn.create(*self._dump(key, value), ttl=ttl)

    def update(self, key: str, value: M, expected: VersionToken, *, ttl: Ttl | None = None) -> None:
        """Write only if the last revision of the key is `expected`. Raises: SerializationError; nothing is queued."""
        self._txn.update(*self._dump(key, value), expected, ttl=ttl)

    def delete(self, key: str) -> None:
        """Leave a tombstone."""
        self._txn.delete(self._stored(key))

    def purge(self, key: str) -> None:
        """Leave a tombstone and drop the key's history."""
        self._txn.purge(self._stored(key))

    async def get(self, key: str) -> TypedEntry[M] | None:
        """The current entry, tracked. Raises: DeserializationError."""
        entry = await self._txn.get(self._format.keys.encode(key))
        return None if entry is None else self._format.entry(entry)

    def require(self, key: str, version: VersionToken | None) -> None:
        """Commit only if the key is at `version`; None: only if it is absent."""
        self._txn.require(self._format.keys.encode(key), version)

    def require_unchanged(self, prefix: str, version: VersionToken) -> None:
        """Commit only if nothing under the prefix is newer than `version`."""
        self._txn.require_unchanged(self._format.keys.encode_prefix(prefix), version)

    @property
    def versions(self) -> dict[str, VersionToken]:
        """After the commit: the version of every key written through this object."""
        return {self._keys[stored]: version for stored, version in self._txn.versions.items() if stored in self._keys}

    def _dump(self, key: str, value: M) -> tuple[str, bytes]:
        return self._stored(key), self._format.dump(key, value)[1]

    def _stored(self, key: str) -> str:
        stored = self._format.keys.encode(key)
        self._keys[stored] = key
        return stored
