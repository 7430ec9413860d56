"""Stores on every backend: what a replica does is the same on each."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from slipstream.interfaces import Connection, KvStore
from slipstream.stores.memory import MemoryConnection
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig

HEARTBEAT = 0.3  # a quiet cursor moves with it, and a deleted bucket is noticed by it


@pytest.fixture(params=["memory", "nats"])
async def connection(request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A connection to each backend, shut down when the test ends."""
    made: Connection
    if request.param == "memory":
        made = MemoryConnection(op_timeout=10.0)
    else:
        url = request.getfixturevalue("nats_url")
        made = NatsConnection(NatsConnectionConfig(url=SecretStr(url), op_timeout=10.0, heartbeat=HEARTBEAT))
    async with made:
        yield made


@pytest.fixture
async def store(connection: Connection) -> AsyncIterator[KvStore]:
    """A fresh bucket, deleted when the test ends."""
    store = await connection.store(f"test-{secrets.token_hex(8)}")
    yield store
    if connection.is_healthy() and store.name in await connection.stores():
        await connection.delete_store(store.name)
