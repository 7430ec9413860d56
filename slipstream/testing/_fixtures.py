"""The asynchronous fixtures of the pytest plugin; they need pytest-asyncio."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

import pytest
import pytest_asyncio

from slipstream.connect import connect
from slipstream.interfaces import Connection, KvStore
from slipstream.model import StoreConfig
from slipstream.testing.cluster import NatsCluster
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer


class MakeProxy(Protocol):
    """Puts a proxy in front of a server; it is closed when the test ends."""

    async def __call__(self, host: str, port: int) -> FaultProxy: ...


@pytest_asyncio.fixture
async def nats_server() -> AsyncIterator[NatsServer]:
    """A fresh nats-server of this test alone, to be stopped, killed and paused."""
    async with NatsServer() as server:
        yield server


@pytest_asyncio.fixture
async def nats_cluster() -> AsyncIterator[NatsCluster]:
    """Three fresh nodes of this test alone, with a meta leader; takes seconds to start."""
    async with NatsCluster() as cluster:
        yield cluster


@pytest_asyncio.fixture
async def fault_proxy() -> AsyncIterator[MakeProxy]:
    """`await fault_proxy(host, port)`: a FaultProxy in front of it, closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def make(host: str, port: int) -> FaultProxy:
            return await stack.enter_async_context(FaultProxy(host, port))

        yield make


@pytest_asyncio.fixture
async def kv_connection(nats_url: str) -> AsyncIterator[Connection]:
    """A connection to the server of the session."""
    async with connect(nats_url) as connection:
        yield connection


@pytest.fixture
def kv_store_config() -> StoreConfig:
    """How the bucket of `kv_store` is made: with defaults. Override it for another one, with a name of its own."""
    return StoreConfig(name=f"test-{secrets.token_hex(8)}")


@pytest_asyncio.fixture
async def kv_store(kv_connection: Connection, kv_store_config: StoreConfig) -> AsyncIterator[KvStore]:
    """A fresh bucket on the server of the session, deleted when the test ends."""
    yield await kv_connection.store(kv_store_config)
    await kv_connection.delete_store(kv_store_config.name)
