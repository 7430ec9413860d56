"""Cancelling any await, at any point, leaves nothing behind, and a cancelled `__anext__` loses no update."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest

from slipstream.interfaces import Connection, KvStore, Watch
from slipstream.model import KvUpdate, VersionToken
from slipstream.testing._waiting import (
    LIMIT,
    background,
    bounded,
    cancelled_after,
    collect,
    collect_until,
    eventually,
    ticks,
)
from slipstream.testing.contract.base import BackendContract, NewConnection
from slipstream.testing.contract.watching import read_for_ever

TICKS = [*range(25), 30, 40, 55, 75, 100, 140, 200, 300, 450, 700, 1000]
"""After how many turns of the event loop to cancel: every early one, then ever wider apart, past any round trip."""


async def next_update(watch: Watch) -> KvUpdate:
    return await anext(watch)


async def next_batch(batches: AsyncIterator[list[KvUpdate]]) -> list[KvUpdate]:
    return await anext(batches)


async def _iterate(store: KvStore) -> None:
    async for _ in store.iter_scan():
        pass


async def _watch_to_the_end_of_the_initial_state(store: KvStore) -> None:
    async with store.watch() as watch:
        await collect(watch, 1)


async def _watch_for_ever(store: KvStore) -> None:
    async with store.watch() as watch:
        await read_for_ever(watch)


class _Operation(Protocol):
    def __call__(self, connection: Connection, store: KvStore) -> Coroutine[Any, Any, object]: ...


OPERATIONS: dict[str, _Operation] = {
    "get": lambda connection, store: store.get("fixed"),
    "get min_version": lambda connection, store: store.get("fixed", min_version=VersionToken.from_u64(10**6)),
    "get_many": lambda connection, store: store.get_many(["fixed", "missing", "k"]),
    "keys": lambda connection, store: store.keys(),
    "scan": lambda connection, store: store.scan(),
    "iter_scan": lambda connection, store: _iterate(store),
    "history": lambda connection, store: store.history("fixed"),
    "put": lambda connection, store: store.put("k", b"cancelled"),
    "put_many": lambda connection, store: store.put_many([(f"m.{n}", b"cancelled") for n in range(50)]),
    "create": lambda connection, store: store.create("k", b"cancelled"),
    "update": lambda connection, store: store.update("k", b"cancelled", VersionToken.from_u64(10**6)),
    "delete": lambda connection, store: store.delete("k"),
    "purge": lambda connection, store: store.purge("k"),
    "purge_deletes": lambda connection, store: store.purge_deletes(),
    "status": lambda connection, store: store.status(),
    "enter and leave a watch": lambda connection, store: _watch_to_the_end_of_the_initial_state(store),
    "watch": lambda connection, store: _watch_for_ever(store),
    "store": lambda connection, store: connection.store(store.name),
    "make a store": lambda connection, store: connection.store(f"{store.name}-new"),
    "stores": lambda connection, store: connection.stores(),
}


async def no_task_is_left(before: set[asyncio.Task[Any]]) -> None:
    """Return once there are no tasks but those."""

    async def all_are_known() -> bool:
        return asyncio.all_tasks() <= before

    await eventually(all_are_known)


class CancelContract(BackendContract):
    """Every await is cancelled after 0, 1, 2, ... turns of the event loop."""

    @pytest.mark.parametrize("operation", list(OPERATIONS.values()), ids=list(OPERATIONS))
    async def test_a_cancelled_operation_leaves_the_connection_usable_and_no_task_behind(
        self, connection: Connection, store: KvStore, operation: _Operation
    ) -> None:
        await store.put("fixed", b"value")
        await cancelled_after(TICKS[-1], operation(connection, store))  # what is set up once is set up now
        before = asyncio.all_tasks()
        for count in TICKS:
            await cancelled_after(count, operation(connection, store))
            async with bounded():
                version = await store.put("k", b"%d" % count)
                entry = await store.get("k")
            # What was cancelled is done or not, but does not come later and overtake.
            assert entry is not None
            assert (entry.value, entry.version) == (b"%d" % count, version)
        async with bounded():
            assert [entry.value for entry in await store.scan("fixed")] == [b"value"]
        await no_task_is_left(before)

    async def test_a_cancelled_anext_loses_no_update(self, store: KvStore) -> None:
        keys = [f"k.{number}" for number in range(len(TICKS))]
        seen: list[KvUpdate] = []
        async with store.watch() as watch:
            for key, count in zip(keys, TICKS, strict=True):
                async with bounded(), asyncio.TaskGroup() as group:
                    group.create_task(store.put(key, b"value"))
                    reading = await cancelled_after(count, next_update(watch))
                if not reading.cancelled():
                    seen.append(reading.result())
            await store.put("last", b"-")
            seen += await collect_until(watch, lambda update: update.key == "last")
        assert [update.key for update in seen] == [*keys, "last"]

    async def test_a_cancelled_anext_loses_nothing_of_the_initial_state(self, store: KvStore) -> None:
        keys = [f"k.{number}" for number in range(100)]
        await store.put_many([(key, b"value") for key in keys])
        for count in TICKS:
            seen: list[KvUpdate] = []
            async with store.watch() as watch:
                for _ in range(10):
                    reading = await cancelled_after(count % 10, next_update(watch))
                    if not reading.cancelled():
                        seen.append(reading.result())
                seen += await collect(watch, len(keys) - len(seen))
            assert [update.key for update in seen] == keys

    async def test_a_cancelled_batch_loses_no_update(self, store: KvStore) -> None:
        keys = [f"k.{number}" for number in range(len(TICKS))]
        seen: list[KvUpdate] = []
        async with store.watch() as watch:
            for key, count in zip(keys, TICKS, strict=True):
                async with bounded(), asyncio.TaskGroup() as group:
                    group.create_task(store.put(key, b"value"))
                    reading = await cancelled_after(count, next_batch(watch.batches(max_items=3, max_wait=0.001)))
                if not reading.cancelled():
                    seen += reading.result()
            await store.put("last", b"-")
            seen += await collect_until(watch, lambda update: update.key == "last")
        assert [update.key for update in seen] == [*keys, "last"]

    async def test_a_batch_cancelled_while_it_gathers_loses_no_update(self, store: KvStore) -> None:
        await store.put_many([("a", b"1"), ("b", b"2")])
        async with store.watch() as watch:
            for count in TICKS:
                gathering = await cancelled_after(count, next_batch(watch.batches(max_items=3, max_wait=3600)))
                assert gathering.cancelled()
            assert watch.cursor.is_none
            assert [update.key for update in await collect(watch, 2)] == ["a", "b"]

    async def test_the_cursor_counts_only_what_was_handed_out(self, store: KvStore) -> None:
        keys = [f"k.{number}" for number in range(len(TICKS))]
        await store.put_many([(key, b"value") for key in keys])
        delivered = 0
        async with store.watch() as watch:
            for count in TICKS:
                reading = await cancelled_after(count % 4, next_update(watch))
                if not reading.cancelled():
                    delivered += 1
                assert (watch.cursor.as_u64() or 0) == delivered

    async def test_a_cancelled_wait_hydrated_can_be_repeated(self, store: KvStore) -> None:
        await store.put_many([("a", b"1"), ("b", b"2")])
        async with store.watch() as watch:
            for count in TICKS:
                assert (await cancelled_after(count, watch.wait_hydrated())).cancelled()
            async with bounded(), background(read_for_ever(watch)):
                await watch.wait_hydrated()
            assert watch.statistics().delivered == 2

    async def test_a_cancelled_aclose_can_be_repeated_and_leaves_no_task_behind(self, store: KvStore) -> None:
        await store.put("k", b"value")
        async with store.watch() as watch:
            await collect(watch, 1)
        before = asyncio.all_tasks()
        for count in TICKS:
            async with store.watch() as watch:
                await collect(watch, 1)
                await cancelled_after(count, watch.aclose())
                async with bounded():
                    await watch.aclose()
        await no_task_is_left(before)

    async def test_a_cancelled_connect_can_be_repeated(self, new_connection: NewConnection) -> None:
        before = asyncio.all_tasks()
        for count in TICKS:
            async with AsyncExitStack() as stack:
                connection = new_connection(op_timeout=LIMIT)
                stack.push_async_callback(connection.shutdown)
                await cancelled_after(count, connection.connect())
                async with bounded():
                    await connection.connect()
                    assert connection.is_healthy()
                    await connection.stores()
        await no_task_is_left(before)

    async def test_a_connection_can_be_shut_down_after_a_cancelled_connect(self, new_connection: NewConnection) -> None:
        before = asyncio.all_tasks()
        for count in TICKS:
            connection = new_connection(op_timeout=LIMIT)
            await cancelled_after(count, connection.connect())
            async with bounded():
                await connection.shutdown()
            assert not connection.is_healthy()
        await no_task_is_left(before)

    async def test_a_cancelled_shutdown_can_be_repeated(self, new_connection: NewConnection) -> None:
        before = asyncio.all_tasks()
        for count in TICKS:
            connection = new_connection(op_timeout=LIMIT)
            async with bounded():
                await connection.connect()
                await cancelled_after(count, connection.shutdown())
                await connection.shutdown()
            assert not connection.is_healthy()
        await no_task_is_left(before)

    async def test_a_write_that_was_cancelled_before_it_began_is_not_done(self, store: KvStore) -> None:
        await cancelled_after(0, store.put("k", b"cancelled"))
        await ticks(50)
        assert (await store.status()).last_revision == 0
