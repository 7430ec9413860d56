"""A transaction, observed."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from slipstream.interfaces import Transaction, Ttl
from slipstream.model import KvEntry, VersionToken
from slipstream.otel.operations import Operations


class InstrumentedTransaction(Transaction):
    """Its reads and its commit are operations; what it queues is not, and neither is a rollback: nothing is sent."""

    def __init__(self, txn: Transaction, operations: Operations) -> None:
        self._txn = txn
        self._operations = operations
        self.size = 0
        """How many operations are queued."""

    async def __aenter__(self) -> Self:
        await self._txn.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            await self._txn.__aexit__(kind, error, trace)
            return
        with self._operations.begin("commit") as operation:
            operation.set_size(self.size)
            await self._txn.__aexit__(kind, error, trace)

    def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> None:
        self._txn.put(key, value, ttl=ttl)
        self.size += 1

    def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> None:
        self._txn.create(key, value, ttl=ttl)
        self.size += 1

    def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> None:
        self._txn.update(key, value, expected, ttl=ttl)
        self.size += 1

    def delete(self, key: str) -> None:
        self._txn.delete(key)
        self.size += 1

    def purge(self, key: str) -> None:
        self._txn.purge(key)
        self.size += 1

    async def get(self, key: str) -> KvEntry | None:
        with self._operations.begin("get", key=key):
            return await self._txn.get(key)

    def require(self, key: str, version: VersionToken | None) -> None:
        self._txn.require(key, version)

    def require_unchanged(self, prefix: str, version: VersionToken) -> None:
        self._txn.require_unchanged(prefix, version)

    @property
    def versions(self) -> dict[str, VersionToken]:
        return self._txn.versions
