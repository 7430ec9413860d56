"""Requests that are given up, and made again, sooner than the connection gives them up.

A cluster that is choosing a leader does not answer. Whoever waited for as long as a connection does by default would
sit there long after the next leader was there, and be the last to hold a lease of a few seconds.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol, TypeVar

from slipstream.coordination.records import RENEWALS_PER_TTL
from slipstream.errors import OperationTimeoutError
from slipstream.interfaces import KvStore, Ttl, Watch
from slipstream.model import KvEntry, StoreStatus, VersionToken

T = TypeVar("T")

_LEAST_SECONDS = 1.0
"""Where the ttl is short: a busy server may take longer than a third of it."""


class RecordStore(Protocol):
    """What coordination asks of a store."""

    @property
    @abstractmethod
    def name(self) -> str: ...
    @abstractmethod
    async def get(self, key: str) -> KvEntry | None: ...
    @abstractmethod
    async def entry(self, key: str) -> KvEntry | None: ...
    @abstractmethod
    async def get_many(self, keys: Iterable[str]) -> dict[str, KvEntry]: ...
    @abstractmethod
    async def scan(self, prefix: str) -> list[KvEntry]: ...
    @abstractmethod
    async def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken: ...
    @abstractmethod
    async def update(
        self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None
    ) -> VersionToken: ...
    @abstractmethod
    async def status(self) -> StoreStatus: ...
    @abstractmethod
    def watch(self, prefix: str | Iterable[str]) -> AbstractAsyncContextManager[Watch]: ...


class PatientStore(RecordStore):
    """The store, each request of which ends within a third of a ttl, or a second where that is longer.

    Then it raises OperationTimeoutError, and the outcome of a write is unknown. Of a watch the beginning is a request.
    """

    def __init__(self, store: KvStore, *, ttl: float) -> None:
        self._store = store
        self._seconds = max(_LEAST_SECONDS, ttl / RENEWALS_PER_TTL)

    @property
    def name(self) -> str:
        return self._store.name

    async def get(self, key: str) -> KvEntry | None:
        return await self._bounded(self._store.get(key), key)

    async def entry(self, key: str) -> KvEntry | None:
        return await self._bounded(self._store.entry(key), key)

    async def get_many(self, keys: Iterable[str]) -> dict[str, KvEntry]:
        return await self._bounded(self._store.get_many(keys))

    async def scan(self, prefix: str) -> list[KvEntry]:
        return await self._bounded(self._store.scan(prefix), prefix)

    async def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        return await self._bounded(self._store.create(key, value, ttl=ttl), key)

    async def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> VersionToken:
        return await self._bounded(self._store.update(key, value, expected, ttl=ttl), key)

    async def status(self) -> StoreStatus:
        return await self._bounded(self._store.status())

    @asynccontextmanager
    async def watch(self, prefix: str | Iterable[str]) -> AsyncIterator[Watch]:
        async with AsyncExitStack() as stack:
            yield await self._bounded(stack.enter_async_context(self._store.watch(prefix)))

    async def _bounded(self, request: Awaitable[T], key: str | None = None) -> T:
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                return await request
        except TimeoutError:
            if not limit.expired():
                raise
            raise OperationTimeoutError(
                store=self.name, key=key, message=f"no answer within {self._seconds:g} s", outcome_unknown=True
            ) from None
