"""Replicas through what goes wrong: cancelled anywhere, servers killed and restarted, connections cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from slipstream.errors import ConnectionFailedError, KvError
from slipstream.interfaces import KvStore
from slipstream.model import KvUpdate, Operation
from slipstream.replica import BatchConfig, MemorySnapshot, Replica, watch_applied
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.testing._waiting import LIMIT, bounded, cancelled_after, eventually
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer
from tests.replica.following import Table, overwrite_all, values_in, values_of

MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]
KEYS = [f"k.{number}" for number in range(20)]
TICKS = [*range(0, 60, 3), 80, 120, 200, 400]


async def write_some(store: KvStore, count: int) -> None:
    for _ in range(count):
        key = random.choice(KEYS)
        if random.random() < 0.3:
            await store.delete(key)
        else:
            await store.put(key, b"%d" % random.randrange(1000))


class Written:
    """Counts the writes that somebody else does."""

    def __init__(self) -> None:
        self._one = asyncio.Event()

    def one(self) -> None:
        self._one.set()

    async def more(self, count: int = 30) -> None:
        """Return once so many more have been done."""
        async with asyncio.timeout(3 * LIMIT):
            for _ in range(count):
                self._one.clear()
                await self._one.wait()


@asynccontextmanager
async def writing(store: KvStore) -> AsyncIterator[Written]:
    """Write beside the block; what the server does not take is left out."""
    leaving = False
    written = Written()

    async def write_on() -> None:
        while not leaving:
            try:
                await write_some(store, 1)
            except KvError:
                await asyncio.sleep(0.01)
            else:
                written.one()

    task = asyncio.create_task(write_on())
    try:
        yield written
    finally:
        leaving = True
        async with asyncio.timeout(3 * LIMIT):
            await task


async def level(replica: Replica, store: KvStore) -> None:
    """Return once the replica holds what the bucket holds, which nobody writes to any more."""
    await replica.wait_for(await store.put("last", b"1"))
    assert {entry.key: entry.value for entry in replica.range()} == await values_in(store)


@pytest.mark.parametrize("turns", TICKS)
async def test_cancelled_anywhere_the_cursor_names_nothing_that_was_not_applied(store: KvStore, turns: int) -> None:
    """Each life is cancelled; the next one goes on from the snapshot, the application's table lives through."""
    snapshot, table = MemorySnapshot(), Table()
    await store.put_many(dict.fromkeys(KEYS, b"0"))

    async def apply(batch: list[KvUpdate]) -> None:
        await asyncio.sleep(0)
        table.apply(batch)
        await asyncio.sleep(0)

    for life in range(4):
        options = {"snapshot": snapshot, "batch": BatchConfig(max_items=3)}
        task = await cancelled_after(turns, watch_applied(store, apply=apply, **options))  # type: ignore[call-overload]
        assert task.cancelled()
        reached = snapshot.cursor.revision or 0
        applied = {update.revision for batch in table.batches for update in batch}
        for update in [entry for entry in await store.scan() if (entry.revision or 0) <= reached]:
            assert update.revision in applied
        if life == 1:
            await overwrite_all(store, dict.fromkeys(KEYS[:15], b"1"))
            for key in KEYS[15:]:
                await store.delete(key)
            await store.purge_deletes()
        await write_some(store, 5)
    async with bounded(), Replica(store, snapshot=snapshot, audit_interval=None) as replica:
        await replica.audit()
        await level(replica, store)


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_server_that_is_restarted(nats_server: NatsServer, how: str) -> None:
    config = NatsConnectionConfig(url=SecretStr(nats_server.url), heartbeat=0.3, ping_interval=0.3, op_timeout=20.0)
    async with NatsConnection(config) as connection:
        store = await connection.store("config")
        snapshot = MemorySnapshot()
        async with Replica(store, snapshot=snapshot, audit_interval=None) as replica:
            await replica.ready(timeout=LIMIT)
            async with writing(store) as written:
                for _ in range(3):
                    await written.more()
                    if how == "restart":
                        await nats_server.restart()
                    else:
                        await nats_server.kill()
                        await nats_server.start()
            async with asyncio.timeout(3 * LIMIT):
                await level(replica, store)
            assert replica.statistics().rebuilds == 0
        assert values_of(snapshot) == await values_in(store)


async def test_connections_that_are_cut(nats_server: NatsServer, fault_proxy: MakeProxy) -> None:
    proxy = await fault_proxy("127.0.0.1", nats_server.port)
    quick = {"heartbeat": 0.3, "ping_interval": 0.3}
    async with (
        NatsConnection(NatsConnectionConfig(url=SecretStr(proxy.url), **quick)) as connection,
        NatsConnection(NatsConnectionConfig(url=SecretStr(nats_server.url), **quick)) as direct,
    ):
        store = await connection.store("config")
        other = await direct.store("config")
        async with Replica(store, audit_interval=None) as replica:
            await replica.ready(timeout=LIMIT)
            async with writing(other) as written:
                for _ in range(3):
                    await written.more()
                    proxy.drop()
            async with asyncio.timeout(3 * LIMIT):
                await level(replica, other)


async def test_the_bucket_goes_on_while_the_connection_is_down_and_the_replica_repairs_itself(
    nats_server: NatsServer, fault_proxy: MakeProxy
) -> None:
    proxy = await fault_proxy("127.0.0.1", nats_server.port)
    quick = {"heartbeat": 0.3, "ping_interval": 0.3}
    async with (
        NatsConnection(NatsConnectionConfig(url=SecretStr(proxy.url), **quick)) as connection,
        NatsConnection(NatsConnectionConfig(url=SecretStr(nats_server.url), **quick)) as direct,
    ):
        store, other = await connection.store("config"), await direct.store("config")
        await other.put_many(dict.fromkeys(KEYS, b"1"))
        removed: list[str] = []

        def listen(batch: object) -> None:
            assert isinstance(batch, list)
            removed.extend(update.key for update in batch if update.operation is Operation.DELETE)

        async with Replica(store, audit_interval=None, on_change=listen) as replica:
            await replica.ready(timeout=LIMIT)
            proxy.refuse()
            proxy.drop()

            async def cut() -> bool:
                return not connection.is_healthy()

            await eventually(cut)
            await overwrite_all(other, dict.fromkeys(KEYS[:10], b"2"))
            for key in KEYS[10:]:
                await other.delete(key)
            await other.purge_deletes()
            await overwrite_all(other, dict.fromkeys(KEYS[:10], b"3"))
            assert replica.staleness > 0
            await proxy.heal()
            async with asyncio.timeout(3 * LIMIT):
                await level(replica, other)
            assert replica.statistics().repairs >= 1
            assert sorted(removed) == sorted(KEYS[10:])


async def test_a_server_that_is_down_at_the_start(nats_server: NatsServer) -> None:
    config = NatsConnectionConfig(url=SecretStr(nats_server.url), op_timeout=1.0)
    connection = NatsConnection(config)
    await connection.connect()
    try:
        store = await connection.store("config")
        await nats_server.kill()
        async with bounded(), Replica(store) as replica:
            with pytest.raises((KvError, ConnectionFailedError)):
                await replica.ready()
    finally:
        await connection.shutdown()
