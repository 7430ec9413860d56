"""Every test of a recipe runs on memory and on a real server, with keys that expire and with keys that cannot."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from pydantic import SecretStr

from slipstream.interfaces import Connection, KvStore
from slipstream.model import StoreConfig
from slipstream.stores.memory import MemoryConnection
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.testing._waiting import LIMIT

OpenStore = Callable[[], Awaitable[tuple[Connection, KvStore]]]


@pytest.fixture(params=["memory", "nats"])
def dial(request: pytest.FixtureRequest) -> Callable[[], Connection]:
    """Makes a connection that is not yet connected; all those of one test reach the same data."""
    if request.param == "memory":
        name = secrets.token_hex(8)
        return lambda: MemoryConnection(name, op_timeout=LIMIT)
    url = request.getfixturevalue("nats_url")
    return lambda: NatsConnection(NatsConnectionConfig(url=SecretStr(url), op_timeout=LIMIT, heartbeat=0.5))


@pytest.fixture(params=[{}, {"marker_ttl": None}], ids=["expiring", "silent"])
def config(request: pytest.FixtureRequest) -> StoreConfig:
    """A bucket where keys expire by themselves (where the server can do it), and one where they cannot."""
    return StoreConfig(name=f"coordination-{secrets.token_hex(8)}", **request.param)


@pytest.fixture
async def open_store(dial: Callable[[], Connection], config: StoreConfig) -> AsyncIterator[OpenStore]:
    """`await open_store()`: a connection of its own and the bucket through it, as another process has them."""
    async with AsyncExitStack() as stack:
        janitor = await stack.enter_async_context(dial())
        await janitor.store(config)
        stack.push_async_callback(janitor.delete_store, config.name)

        async def open_store() -> tuple[Connection, KvStore]:
            connection = await stack.enter_async_context(dial())
            return connection, await connection.store(config)

        yield open_store


@pytest.fixture
async def store(open_store: OpenStore) -> KvStore:
    return (await open_store())[1]
