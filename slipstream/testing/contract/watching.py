"""What a watch tells about itself, how it is read in batches, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from slipstream.errors import NotConnectedError
from slipstream.interfaces import Connection, KvStore, Watch
from slipstream.model import KvUpdate
from slipstream.testing._waiting import background, bounded, collect, collect_until, drain, ticks
from slipstream.testing.contract.base import BackendContract, ConnectAgain


async def read_for_ever(watch: Watch) -> None:
    async for _ in watch:
        pass


class HydrationContract(BackendContract):
    """`hydrated` and `wait_hydrated`: the initial state has been handed out, proven."""

    async def test_a_watch_of_an_empty_bucket_is_hydrated_without_iteration(self, store: KvStore) -> None:
        async with store.watch() as watch, bounded():
            await watch.wait_hydrated()
            assert watch.hydrated
            assert (await store.put("k", b"value")).as_u64() == 1
            assert (await collect(watch, 1))[0].key == "k"
            assert watch.hydrated

    async def test_a_watch_of_a_prefix_that_nothing_matches_is_hydrated_without_iteration(self, store: KvStore) -> None:
        await store.put_many({"a": b"1", "b": b"2", "nodes": b"3"})
        async with store.watch("node.") as watch, bounded():
            await watch.wait_hydrated()
            assert watch.hydrated

    async def test_a_watch_is_hydrated_when_the_initial_state_has_been_handed_out(self, store: KvStore) -> None:
        await store.put_many({"a": b"1", "b": b"2", "c": b"3"})
        async with store.watch() as watch:
            for _ in range(3):
                assert not watch.hydrated
                await collect(watch, 1)
            async with bounded(), background(read_for_ever(watch)):
                await watch.wait_hydrated()
            assert watch.hydrated

    async def test_wait_hydrated_returns_while_another_task_iterates(self, store: KvStore) -> None:
        await store.put_many([(f"k.{number}", b"value") for number in range(500)])
        seen: set[str] = set()
        async with store.watch() as watch:

            async def read() -> None:
                async for update in watch:
                    seen.add(update.key)

            async with background(read()), bounded():
                await watch.wait_hydrated()
                assert len(seen) == 500

    async def test_under_overwrites_a_hydrated_watch_has_handed_out_every_key(
        self, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        other = await (await connect_again()).store(store.name)
        keys = [f"k.{number}" for number in range(100)]
        await store.put_many(dict.fromkeys(keys, b"0"))

        async def overwrite() -> None:
            while True:
                await other.put_many(dict.fromkeys(keys[::3], b"1"))
                await asyncio.sleep(0)

        async with background(overwrite()):
            for _ in range(10):
                seen: set[str] = set()
                async with store.watch() as watch, bounded():
                    while not watch.hydrated:
                        seen.add((await anext(watch)).key)
                assert seen == set(keys)

    async def test_with_a_cursor_at_the_end_a_watch_is_hydrated_without_iteration(self, store: KvStore) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        async with store.watch() as watch:
            await collect(watch, 2)
            cursor = watch.cursor
        async with store.watch(cursor=cursor) as watch, bounded():
            await watch.wait_hydrated()
            assert watch.hydrated

    async def test_with_a_cursor_a_watch_is_hydrated_when_the_backlog_has_been_handed_out(self, store: KvStore) -> None:
        await store.put("a", b"1")
        async with store.watch() as watch:
            await collect(watch, 1)
            cursor = watch.cursor
        await store.put_many({"b": b"2", "c": b"3"})
        async with store.watch(cursor=cursor) as watch:
            assert not watch.hydrated
            assert [update.key for update in await collect(watch, 2)] == ["b", "c"]
            async with bounded(), background(read_for_ever(watch)):
                await watch.wait_hydrated()
            assert watch.hydrated

    async def test_wait_hydrated_raises_what_ended_the_watch(self, store: KvStore, connect_again: ConnectAgain) -> None:
        await store.put("k", b"value")
        other = await connect_again()
        async with (await other.store(store.name)).watch() as watch:

            async def wait() -> None:
                with pytest.raises(NotConnectedError):
                    await watch.wait_hydrated()

            async with bounded(), asyncio.TaskGroup() as group:
                waiting = group.create_task(wait())
                await ticks(20)
                assert not waiting.done()
                await other.shutdown()


class BatchContract(BackendContract):
    """`batches`: the same updates, in lists."""

    @pytest.mark.parametrize("max_items", [1, 7, 1000])
    async def test_batches_hold_every_update_once_in_order(self, store: KvStore, max_items: int) -> None:
        await store.put_many([(f"k.{number}", b"value") for number in range(50)])
        batches: list[list[KvUpdate]] = []
        async with store.watch() as watch:
            await _gather(watch.batches(max_items=max_items), batches, until=50)
            await store.put_many([(f"k.{number}", b"value") for number in range(50, 60)])
            await _gather(watch.batches(max_items=max_items), batches, until=60)
        assert all(1 <= len(batch) <= max_items for batch in batches)
        assert [update.key for batch in batches for update in batch] == [f"k.{number}" for number in range(60)]

    async def test_a_full_batch_does_not_wait(self, store: KvStore) -> None:
        await store.put_many([(f"k.{number}", b"value") for number in range(20)])
        async with store.watch() as watch, bounded():
            batches = watch.batches(max_items=10, max_wait=3600)
            assert [len(await anext(batches)) for _ in range(2)] == [10, 10]

    async def test_a_batch_that_is_not_full_is_closed_after_max_wait(self, store: KvStore) -> None:
        await store.put("k", b"value")
        async with store.watch() as watch, bounded():
            batches = watch.batches(max_items=1000, max_wait=0.05)
            assert [update.key for update in await anext(batches)] == ["k"]

    async def test_a_batch_gathers_what_comes_within_max_wait(self, store: KvStore) -> None:
        async with store.watch() as watch, bounded(), asyncio.TaskGroup() as group:
            batches = watch.batches(max_items=3, max_wait=3600)
            first = group.create_task(_next(batches))
            for key in ("a", "b", "c"):
                await store.put(key, b"value")
                await ticks(5)
            assert [update.key for update in await first] == ["a", "b", "c"]

    async def test_the_cursor_stands_after_the_last_update_of_a_batch(self, store: KvStore) -> None:
        await store.put_many([(f"k.{number}", b"value") for number in range(10)])
        async with store.watch() as watch, bounded():
            batch = await anext(watch.batches(max_items=4, max_wait=3600))
            assert watch.cursor.as_u64() == batch[-1].revision == 4
            assert (await collect(watch, 1))[0].revision == 5

    async def test_batches_raise_what_ended_the_watch(self, connection: Connection, store: KvStore) -> None:
        await store.put("k", b"value")
        async with store.watch() as watch, bounded():
            batches = watch.batches()
            assert [update.key for update in await anext(batches)] == ["k"]
            await connection.shutdown()
            with pytest.raises(NotConnectedError):
                await anext(batches)


class WatchEndContract(BackendContract):
    """`aclose`, the end of the block, and `statistics`."""

    async def test_iteration_ends_after_aclose_which_can_be_repeated(self, store: KvStore) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        async with store.watch() as watch:
            await collect(watch, 1)
            await watch.aclose()
            await watch.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(watch)
            assert await drain(watch) == []
            async with bounded():
                assert [batch async for batch in watch.batches()] == []

    async def test_iteration_ends_after_the_block(self, store: KvStore) -> None:
        await store.put("k", b"value")
        async with store.watch() as watch:
            await collect(watch, 1)
        assert await drain(watch) == []
        await watch.aclose()

    async def test_aclose_ends_an_iteration_that_waits(self, store: KvStore) -> None:
        async with store.watch() as watch, bounded(), asyncio.TaskGroup() as group:
            waiting = group.create_task(read_for_ever(watch))
            await ticks(20)
            assert not waiting.done()
            await watch.aclose()
            await waiting

    async def test_the_cursor_survives_the_end(self, store: KvStore) -> None:
        await store.put_many([("a", b"1"), ("b", b"2")])
        async with store.watch() as watch:
            await collect(watch, 1)
        assert watch.cursor.as_u64() == 1

    async def test_an_exception_in_the_block_of_a_watch_comes_out(self, store: KvStore) -> None:
        with pytest.raises(LookupError, match="from the block"):
            async with store.watch():
                raise LookupError("from the block")
        assert (await store.put("k", b"value")).as_u64() == 1

    async def test_the_end_of_one_watch_does_not_touch_another(self, store: KvStore) -> None:
        async with store.watch() as lasting:
            async with store.watch() as ended:
                await store.put("a", b"1")
                await collect(ended, 1)
            await store.put("b", b"2")
            assert [update.key for update in await collect(lasting, 2)] == ["a", "b"]

    async def test_statistics_count_what_was_handed_out(self, store: KvStore) -> None:
        await store.put_many({f"k.{number}": b"value" for number in range(10)})
        async with store.watch() as watch:
            assert watch.statistics().delivered == 0
            await collect(watch, 4)
            assert watch.statistics().delivered == 4
            await collect_until(watch, lambda update: update.key == "k.9")
            statistics = watch.statistics()
        assert statistics.delivered == 10
        assert statistics.pending == 0
        assert statistics.resumes >= 0
        assert statistics.last_heard >= 0


async def _next(batches: AsyncIterator[list[KvUpdate]]) -> list[KvUpdate]:
    return await anext(batches)


async def _gather(batches: AsyncIterator[list[KvUpdate]], into: list[list[KvUpdate]], *, until: int) -> None:
    """Read batches until there are so many updates in all."""
    async with bounded():
        while sum(map(len, into)) < until:
            into.append(await anext(batches))
