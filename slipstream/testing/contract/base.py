"""What the areas of the contract share: the fixtures, and the ways in which a key can be absent."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Protocol

import pytest
import pytest_asyncio

from slipstream.interfaces import Connection, KvStore
from slipstream.testing._waiting import LIMIT, bounded


class NewConnection(Protocol):
    """Makes a connection that is not yet connected; all those of one test reach the same data."""

    def __call__(self, *, op_timeout: float) -> Connection: ...


class ConnectAgain(Protocol):
    """Makes a further connection to the same data, connected; it is shut down when the test ends."""

    async def __call__(self, *, op_timeout: float = LIMIT) -> Connection: ...


class BackendContract:
    """The fixtures. A backend supplies `new_connection`; the others follow from it and may be overridden."""

    @pytest.fixture
    def new_connection(self) -> NewConnection:
        raise NotImplementedError("the test class of a backend overrides the fixture `new_connection`")

    @pytest_asyncio.fixture
    async def connect_again(self, new_connection: NewConnection) -> AsyncIterator[ConnectAgain]:
        async with AsyncExitStack() as stack:

            async def connect(*, op_timeout: float = LIMIT) -> Connection:
                connection = new_connection(op_timeout=op_timeout)
                stack.push_async_callback(connection.shutdown)
                await connection.connect()
                return connection

            yield connect

    @pytest_asyncio.fixture
    async def connection(self, connect_again: ConnectAgain) -> Connection:
        return await connect_again()

    @pytest_asyncio.fixture
    async def bucket(self, connection: Connection, connect_again: ConnectAgain) -> AsyncIterator[str]:
        """A name that no bucket has; buckets whose names begin with it are deleted when the test ends."""
        prefix = f"contract-{secrets.token_hex(8)}"
        yield prefix
        janitor = connection if connection.is_healthy() else await connect_again()
        async with bounded():
            for name in await janitor.stores():
                if name.startswith(prefix):
                    await janitor.delete_store(name)

    @pytest_asyncio.fixture
    async def store(self, connection: Connection, bucket: str) -> KvStore:
        """A fresh bucket, made with defaults."""
        return await connection.store(bucket)


async def _never_written(store: KvStore, key: str) -> None:
    await store.put(f"{key}-of-another-name", b"value")


async def _deleted(store: KvStore, key: str) -> None:
    await store.put(key, b"value")
    await store.delete(key)


async def _deleted_at_its_version(store: KvStore, key: str) -> None:
    await store.delete_with_version(key, await store.put(key, b"value"))


async def _purged(store: KvStore, key: str) -> None:
    await store.put(key, b"value")
    await store.purge(key)


async def _emptied(store: KvStore, key: str) -> None:
    await store.put(key, b"value")
    await store.put(key, b"")


MakeAbsent = Callable[[KvStore, str], Awaitable[None]]

MARKERS: dict[str, MakeAbsent] = {"deleted": _deleted, "purged": _purged}
EMPTY_VALUES: dict[str, MakeAbsent] = {"emptied": _emptied, "deleted at its version": _deleted_at_its_version}
TOMBSTONES: dict[str, MakeAbsent] = {**MARKERS, **EMPTY_VALUES}
ABSENCES: dict[str, MakeAbsent] = {"never written": _never_written, **TOMBSTONES}
"""Every way for a key to be absent, but for expiry, which takes time. Each is `await make_absent(store, key)`."""


def each(ways: dict[str, MakeAbsent]) -> pytest.MarkDecorator:
    """The test once for each of these ways, as `make_absent`."""
    return pytest.mark.parametrize("make_absent", list(ways.values()), ids=list(ways))
