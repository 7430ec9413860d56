"""Connections that end with the test, a look at the server past slipstream, and buckets of one's own."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pydantic import SecretStr

from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.testing._raw import Raw, raw_client

Connect = Callable[..., Awaitable[NatsConnection]]


@pytest.fixture
async def connect(nats_url: str) -> AsyncIterator[Connect]:
    """`await connect(url, **options)`: a connection, by default to the server of the session."""
    async with AsyncExitStack() as stack:

        async def make(url: str = nats_url, **options: Any) -> NatsConnection:
            options.setdefault("op_timeout", 10.0)
            connection = NatsConnection(NatsConnectionConfig(url=SecretStr(url), **options))
            return await stack.enter_async_context(connection)

        yield make


@pytest.fixture
async def raw(nats_url: str) -> AsyncIterator[Raw]:
    """The server of the session."""
    async with raw_client(nats_url) as client:
        yield client


@pytest.fixture
def bucket() -> str:
    """A name that no bucket has."""
    return f"test-{secrets.token_hex(8)}"
