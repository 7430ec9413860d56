"""Connections on memory and on a real server: what is built on the interfaces runs on both."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from slipstream.interfaces import Connection, KvStore
from slipstream.stores.memory import MemoryConnection
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.testing._waiting import LIMIT

HEARTBEAT = 0.3  # seconds; a deleted bucket is noticed by missed ones, a quiet cursor moves with them


@pytest.fixture(params=["memory", "nats"])
async def connection(request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    made: Connection
    if request.param == "memory":
        made = MemoryConnection(op_timeout=LIMIT)
    else:
        url = SecretStr(request.getfixturevalue("nats_url"))
        made = NatsConnection(NatsConnectionConfig(url=url, op_timeout=LIMIT, heartbeat=HEARTBEAT))
    async with made:
        yield made


@pytest.fixture
async def bucket(connection: Connection) -> AsyncIterator[str]:
    """A name that no bucket has; the bucket is deleted when the test ends."""
    name = f"test-{secrets.token_hex(8)}"
    yield name
    if name in await connection.stores():
        await connection.delete_store(name)


@pytest.fixture
async def store(connection: Connection, bucket: str) -> KvStore:
    return await connection.store(bucket)
