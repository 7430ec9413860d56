"""The writing role, observed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sized

from slipstream.interfaces import KvWriter, T, Transaction, Ttl
from slipstream.model import VersionToken
from slipstream.otel.names import ATTEMPTS
from slipstream.otel.operations import Operations
from slipstream.otel.transaction import InstrumentedTransaction


class InstrumentedWriter(KvWriter):
    def __init__(self, writer: KvWriter, operations: Operations) -> None:
        self._writer = writer
        self._operations = operations

    async def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        with self._operations.begin("put", key=key):
            return await self._writer.put(key, value, ttl=ttl)

    async def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        with self._operations.begin("create", key=key):
            return await self._writer.create(key, value, ttl=ttl)

    async def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> VersionToken:
        with self._operations.begin("update", key=key):
            return await self._writer.update(key, value, expected, ttl=ttl)

    async def touch(self, key: str, expected: VersionToken, *, ttl: Ttl) -> VersionToken:
        with self._operations.begin("touch", key=key):
            return await self._writer.touch(key, expected, ttl=ttl)

    async def delete(self, key: str) -> bool:
        with self._operations.begin("delete", key=key):
            return await self._writer.delete(key)

    async def delete_with_version(self, key: str, expected: VersionToken) -> bool:
        with self._operations.begin("delete_with_version", key=key):
            return await self._writer.delete_with_version(key, expected)

    async def purge(self, key: str, *, expected: VersionToken | None = None) -> None:
        with self._operations.begin("purge", key=key):
            await self._writer.purge(key, expected=expected)

    async def purge_deletes(self, older_than: Ttl = 0) -> int:
        with self._operations.begin("purge_deletes"):
            return await self._writer.purge_deletes(older_than)

    async def put_many(self, items: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> list[VersionToken]:
        wanted = items if isinstance(items, Sized) else list(items)
        with self._operations.begin("put_many") as operation:
            operation.set_size(len(wanted))
            return await self._writer.put_many(wanted)

    def transaction(self) -> Transaction:
        return InstrumentedTransaction(self._writer.transaction(), self._operations)

    async def atomically(self, fn: Callable[[Transaction], Awaitable[T]]) -> T:
        """One operation, whatever the number of attempts; what `fn` does is inside of it."""
        attempts = 0
        size = 0

        async def attempt(txn: Transaction) -> T:
            nonlocal attempts, size
            attempts += 1
            observed = InstrumentedTransaction(txn, self._operations)
            try:
                return await fn(observed)
            finally:
                size = observed.size

        with self._operations.begin("atomically") as operation:
            try:
                return await self._writer.atomically(attempt)
            finally:
                operation.set_attribute(ATTEMPTS, attempts)
                operation.set_size(size)

    def fenced(self, key: str, version: VersionToken) -> KvWriter:
        return InstrumentedWriter(self._writer.fenced(key, version), self._operations)
