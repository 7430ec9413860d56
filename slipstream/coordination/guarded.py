"""A writer for as long as a lease is held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from slipstream.errors import BulkWriteError, FencedError, KvError
from slipstream.interfaces import KvWriter, T, Transaction, Ttl
from slipstream.model import VersionToken


class Guard(Protocol):
    """Knows whether the lease is held."""

    def check(self) -> None:
        """Raises: FencedError unless it is held for certain, by the local clock."""

    def refused(self, error: FencedError) -> None:
        """The server has refused a fenced write."""


class GuardedWriter(KvWriter):
    """Asks the guard before anything is sent, then writes through a fenced writer, which the server guards.

    The guard spares a round trip and is only as good as the local clock; the fence is what makes it safe.
    """

    def __init__(self, writer: KvWriter, guard: Guard) -> None:
        self._writer = writer
        self._guard = guard

    async def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        async with self._guarded():
            return await self._writer.put(key, value, ttl=ttl)

    async def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        async with self._guarded():
            return await self._writer.create(key, value, ttl=ttl)

    async def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> VersionToken:
        async with self._guarded():
            return await self._writer.update(key, value, expected, ttl=ttl)

    async def touch(self, key: str, expected: VersionToken, *, ttl: Ttl) -> VersionToken:
        async with self._guarded():
            return await self._writer.touch(key, expected, ttl=ttl)

    async def delete(self, key: str) -> bool:
        async with self._guarded():
            return await self._writer.delete(key)

    async def delete_with_version(self, key: str, expected: VersionToken) -> bool:
        async with self._guarded():
            return await self._writer.delete_with_version(key, expected)

    async def purge(self, key: str, *, expected: VersionToken | None = None) -> None:
        async with self._guarded():
            await self._writer.purge(key, expected=expected)

    async def purge_deletes(self, older_than: Ttl = 0) -> int:
        async with self._guarded():
            return await self._writer.purge_deletes(older_than)

    async def put_many(self, items: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> list[VersionToken]:
        async with self._guarded():
            return await self._writer.put_many(items)

    def transaction(self) -> Transaction:
        """Asked when it is begun; when it commits, the server decides."""
        self._guard.check()
        return self._writer.transaction()

    async def atomically(self, fn: Callable[[Transaction], Awaitable[T]]) -> T:
        async def guarded(txn: Transaction) -> T:
            result = await fn(txn)
            self._guard.check()  # it may have taken long
            return result

        async with self._guarded():
            return await self._writer.atomically(guarded)

    def fenced(self, key: str, version: VersionToken) -> KvWriter:
        """Raises: UnsupportedError: it is fenced already."""
        return self._writer.fenced(key, version)

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        self._guard.check()
        try:
            yield
        except FencedError as error:
            self._guard.refused(error)
            raise
        except BulkWriteError as error:
            self._report(error.errors.values())
            raise

    def _report(self, errors: Iterable[KvError]) -> None:
        for error in errors:
            if isinstance(error, FencedError):
                self._guard.refused(error)
