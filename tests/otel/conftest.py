"""The real SDK, and stores on memory and on a real server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from slipstream.interfaces import Connection, KvStore
from slipstream.otel import instrument_connection
from slipstream.stores.memory import MemoryConnection
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.testing._waiting import LIMIT
from tests.otel.recorded import Recorded


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    made = Recorded()
    yield made
    made.close()


@pytest.fixture(params=["memory", "nats"])
async def plain(request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A connection that is not instrumented."""
    made: Connection
    if request.param == "memory":
        made = MemoryConnection(op_timeout=LIMIT)
    else:
        url = SecretStr(request.getfixturevalue("nats_url"))
        made = NatsConnection(NatsConnectionConfig(url=url, op_timeout=LIMIT, heartbeat=0.3))
    async with made:
        yield made


@pytest.fixture
def connection(plain: Connection, recorded: Recorded) -> Connection:
    return instrument_connection(plain, **recorded.providers)


@pytest.fixture
async def bucket(plain: Connection) -> AsyncIterator[str]:
    """A name that no bucket has; the bucket is deleted when the test ends."""
    name = f"test-{secrets.token_hex(8)}"
    yield name
    if plain.is_healthy() and name in await plain.stores():
        await plain.delete_store(name)


@pytest.fixture
async def store(connection: Connection, bucket: str) -> KvStore:
    """Instrumented."""
    return await connection.store(bucket)
