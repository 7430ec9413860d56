"""Fenced writers on real servers: what is sent, what older servers refuse, and writes whose answer was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import nats
import pytest
from nats.aio.client import Client
from pydantic import SecretStr

from slipstream.errors import FencedError, UnsupportedError
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.stores.nats.decode import EXPECTED_SUBJECT, EXPECTED_SUBJECT_SEQUENCE
from slipstream.testing._waiting import LIMIT, bounded, eventually
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer

MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]


def connection_to(url: str) -> NatsConnection:
    return NatsConnection(NatsConnectionConfig(url=SecretStr(url), op_timeout=LIMIT))


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


async def test_the_guard_travels_with_the_write(nats_server: NatsServer, client: Client) -> None:
    async with connection_to(nats_server.url) as connection:
        store = await connection.store("config")
        version = await store.put("fence", b"1")
        if not connection.capabilities.fencing:
            with pytest.raises(UnsupportedError, match=r"2\.11"):
                store.fenced("fence", version)
            return
        await store.fenced("fence", version).put("k", b"1")
        stored = await client.jetstream().get_last_msg("KV_config", "$KV.config.k")
        headers = stored.headers or {}
        assert (headers[EXPECTED_SUBJECT], headers[EXPECTED_SUBJECT_SEQUENCE]) == ("$KV.config.fence", "1")


async def test_two_guards_are_refused_where_there_are_no_batches(nats_server: NatsServer) -> None:
    async with connection_to(nats_server.url) as connection:
        store = await connection.store("config")
        version = await store.put("fence", b"1")
        if not connection.capabilities.fencing:
            return
        writer = store.fenced("fence", version)
        k = await store.put("k", b"1")
        if connection.capabilities.transactions:
            await writer.update("k", b"2", k)
            return
        with pytest.raises(UnsupportedError, match=r"2\.12\.1"):
            await writer.update("k", b"2", k)
        with pytest.raises(UnsupportedError, match=r"2\.12\.1"):
            await writer.create("new", b"2")
        # One guard is enough where the condition is the fence itself.
        await writer.update("fence", b"2", version)
        with pytest.raises(FencedError):
            await writer.put("k", b"3")


@pytest.mark.parametrize("moved_on", [False, True])
async def test_a_fenced_write_whose_answer_was_lost_is_found_or_unknown(
    nats_server: NatsServer, fault_proxy: MakeProxy, moved_on: bool
) -> None:
    proxy = await fault_proxy("127.0.0.1", nats_server.port)
    async with connection_to(proxy.url) as connection, connection_to(nats_server.url) as beside:
        store = await connection.store("config")
        other = await beside.store("config")
        if not connection.capabilities.fencing:
            return
        writer = store.fenced("fence", await store.put("fence", b"1"))

        async def is_stored() -> bool:
            return await other.get("k") is not None

        async with bounded(), asyncio.TaskGroup() as group:
            proxy.black_hole("to_client")
            writing = group.create_task(writer.put("k", b"1"))
            await eventually(is_stored)
            if moved_on:
                await other.put("fence", b"2")
            await proxy.heal()
        # It was done before the fence moved on, and sent again under the same id.
        entry = await other.get("k")
        assert entry is not None
        assert writing.result() == entry.version
        assert len(await other.history("k")) == 1
