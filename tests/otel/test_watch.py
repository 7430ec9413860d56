"""What a watch tells."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from slipstream.errors import StoreNotFoundError
from slipstream.interfaces import Connection, KvStore, Watch
from slipstream.testing._waiting import bounded, collect
from tests.otel.recorded import Recorded


async def test_its_statistics_are_metrics_while_it_is_open(store: KvStore, recorded: Recorded) -> None:
    await store.put_many({"a": b"1", "b": b"2", "c": b"3"})
    async with store.watch() as watch:
        await collect(watch, 2)
        assert recorded.value("slipstream.watch.open", db_namespace=store.name) == 1
        assert recorded.value("slipstream.watch.delivered") == 2
        assert recorded.value("slipstream.watch.pending") == watch.statistics().pending == 1
        assert recorded.value("slipstream.watch.resumes") == 0
        heard = recorded.value("slipstream.watch.last_heard")
        assert heard is not None
        assert heard >= 0
        await collect(watch, 1)
    assert recorded.value("slipstream.watch.delivered", db_namespace=store.name) == 3
    assert recorded.value("slipstream.watch.open") is None
    assert recorded.value("slipstream.watch.pending") is None


async def test_all_watches_of_a_bucket_count_together(store: KvStore, recorded: Recorded) -> None:
    await store.put_many({"a": b"1", "b": b"2"})
    async with store.watch() as one, store.watcher().watch() as two:
        await collect(one, 2)
        await collect(two, 1)
        assert recorded.value("slipstream.watch.open") == 2
        assert recorded.value("slipstream.watch.delivered") == 3


async def test_of_several_the_one_counts_that_has_heard_nothing_for_longest(
    store: KvStore, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.watch() as one, store.watch() as two:
        for watch, seconds in ((one, 3.0), (two, 7.0)):
            told = replace(watch.statistics(), last_heard=seconds)
            monkeypatch.setattr(watch, "statistics", lambda told=told: told)
        assert recorded.value("slipstream.watch.last_heard") == 7.0


async def test_aclose_ends_it(store: KvStore, recorded: Recorded) -> None:
    async with store.watch() as watch:
        await watch.aclose()
        assert recorded.value("slipstream.watch.open") is None


async def test_batches_are_measured(store: KvStore, recorded: Recorded) -> None:
    await store.put_many({"a": b"1", "b": b"2", "c": b"3"})
    async with store.watch() as watch, bounded():
        batches = watch.batches(max_wait=0.0)
        got = 0
        count = 0
        while got < 3:
            got += len(await anext(batches))
            count += 1
    sizes = {
        attributes["db.operation.name"]: (point.count, point.sum)
        for attributes, point in recorded.points("slipstream.batch.size")
    }
    assert sizes == {"put_many": (1, 3), "watch": (count, 3)}


async def test_an_error_that_ends_it_is_counted(store: KvStore, plain: Connection, recorded: Recorded) -> None:
    async def read(watch: Watch) -> None:
        async for _ in watch:
            pass

    async def follow() -> None:
        async with store.watch() as watch:
            await plain.delete_store(store.name)
            await read(watch)

    async with bounded():
        with pytest.raises(StoreNotFoundError):
            await follow()
    assert recorded.value("slipstream.watch.failures", error_type="StoreNotFoundError", db_namespace=store.name) == 1


async def test_a_cancelled_block_is_no_failure(store: KvStore, recorded: Recorded) -> None:
    entered = asyncio.Event()

    async def follow() -> None:
        async with store.watch() as watch:
            entered.set()
            await anext(watch)

    task = asyncio.create_task(follow())
    async with bounded():
        await entered.wait()
    assert recorded.value("slipstream.watch.open") == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorded.points("slipstream.watch.failures") == []
    assert recorded.value("slipstream.watch.open") is None
