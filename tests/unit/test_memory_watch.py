"""What is particular to watches in memory: pulling, waiting and being woken, time, several loops."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from slipstream.errors import (
    CursorExpiredError,
    KvError,
    NotConnectedError,
    OperationTimeoutError,
    StoreNotFoundError,
    WatchError,
)
from slipstream.model import KvUpdate, Operation, StoreConfig, VersionToken, WatchCursor
from slipstream.stores.memory.record import Write
from slipstream.stores.memory.server import BucketRef, MemoryServer, Session
from slipstream.stores.memory.store import MemoryStore

LIMIT = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> MemoryServer:
    return MemoryServer(clock=clock)


def open_store(server: MemoryServer, *, op_timeout: float = LIMIT, **config: Any) -> tuple[MemoryStore, Session]:
    session = Session(server, op_timeout=op_timeout)
    session.open()
    wanted = StoreConfig(name="bucket", **config)
    server.find_or_create(wanted)
    return MemoryStore(BucketRef(session, wanted)), session


@pytest.fixture
def store(server: MemoryServer) -> MemoryStore:
    return open_store(server)[0]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def ended(task: asyncio.Task[Any]) -> BaseException | None:
    done, _ = await asyncio.wait({task}, timeout=LIMIT)
    assert done, "it hangs"
    return task.exception()


def write_commit(server: MemoryServer, keys: list[str], transaction: str, *, marked: bool = True) -> None:
    bucket = server.find("bucket")
    assert bucket is not None
    for key in keys:
        is_last = marked and key == keys[-1]
        bucket.stream.write(Write(key=key, value=b"v", transaction=transaction, commit=is_last))
    bucket.wake()


class TestLife:
    async def test_it_is_entered_once_and_iterated_inside(self, store: MemoryStore) -> None:
        watch = store.watch()
        with pytest.raises(RuntimeError, match="enter the watch first"):
            await anext(watch)
        with pytest.raises(RuntimeError, match="enter the watch first"):
            await watch.wait_hydrated()
        async with watch:
            with pytest.raises(RuntimeError, match="entered once"):
                await watch.__aenter__()
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        with pytest.raises(RuntimeError, match="entered once"):
            await watch.__aenter__()
        await watch.aclose()

    async def test_closing_it_ends_whoever_waits(self, store: MemoryStore) -> None:
        await store.put("k", b"v")
        async with store.watch() as watch:
            hydrating = asyncio.create_task(watch.wait_hydrated())
            await turns()
            await watch.aclose()
            assert isinstance(await ended(hydrating), WatchError)
        async with store.watch(cursor=WatchCursor.from_u64(1)) as watch:
            collecting = asyncio.create_task(collect(watch))
            await turns()
            assert not collecting.done()
            await watch.aclose()
            assert await ended(collecting) is None

    async def test_what_it_knew_stays_after_closing(self, store: MemoryStore) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        async with store.watch() as watch:
            await anext(watch)
        await store.put("c", b"3")
        assert watch.cursor.as_u64() == 1
        assert not watch.hydrated
        assert (watch.statistics().delivered, watch.statistics().pending) == (1, 0)

    async def test_shutdown_ends_it_at_once_and_other_connections_go_on(self, server: MemoryServer) -> None:
        store, session = open_store(server)
        other, _ = open_store(server)
        async with store.watch() as watch, other.watch() as other_watch:
            tasks = [asyncio.create_task(work) for work in (anext_of(watch), anext_of(other_watch))]
            await turns()
            session.close()
            assert isinstance(await ended(tasks[0]), NotConnectedError)
            with pytest.raises(NotConnectedError):
                await anext(watch)
            await other.put("k", b"v")
            assert await ended(tasks[1]) is None

    async def test_wait_hydrated_ends_with_what_ended_the_watch(self, server: MemoryServer) -> None:
        store, session = open_store(server)
        await store.put("k", b"v")
        async with store.watch() as first, store.watch() as second:
            waiting = asyncio.create_task(first.wait_hydrated())
            await turns()
            server.delete("bucket")
            assert isinstance(await ended(waiting), StoreNotFoundError)
            session.close()
            with pytest.raises(NotConnectedError):
                await second.wait_hydrated()

    async def test_wait_hydrated_returns_when_another_task_has_taken_the_last(self, store: MemoryStore) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        async with store.watch() as watch:
            waiting = asyncio.create_task(watch.wait_hydrated())
            await anext(watch)
            await turns()
            assert not waiting.done()
            await anext(watch)
            assert await ended(waiting) is None


async def collect(watch: Any) -> list[KvUpdate]:
    return [update async for update in watch]


async def anext_of(watch: Any) -> KvUpdate:
    update: KvUpdate = await anext(watch)
    return update


class TestBucketGone:
    async def test_a_deleted_bucket_is_handed_out_to_its_end(self, store: MemoryStore, server: MemoryServer) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        async with store.watch() as watch:
            await anext(watch)
            server.delete("bucket")
            assert (await anext(watch)).key == "b"
            for _ in range(2):
                with pytest.raises(StoreNotFoundError):
                    await anext(watch)

    async def test_one_made_again_is_another_life_even_if_the_clock_stands(
        self, store: MemoryStore, server: MemoryServer
    ) -> None:
        await store.put("a", b"1")
        before = (await store.status()).incarnation
        async with store.watch() as watch:
            await anext(watch)
            saved = watch.cursor
            server.delete("bucket")
            server.find_or_create(StoreConfig(name="bucket"))
            with pytest.raises(CursorExpiredError) as running:
                await anext(watch)
        await store.put("a", b"1")
        assert (await store.status()).incarnation > before
        with pytest.raises(CursorExpiredError) as resumed:
            await store.watch(cursor=saved).__aenter__()
        assert {running.value.reason, resumed.value.reason} == {"recreated"}
        assert running.value.cursor == resumed.value.cursor == saved

    async def test_a_scan_does_not_go_on_in_another_life(self, store: MemoryStore, server: MemoryServer) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        entries = store.iter_scan()
        await anext(entries)
        server.delete("bucket")
        server.find_or_create(StoreConfig(name="bucket"))
        with pytest.raises(StoreNotFoundError):
            await anext(entries)


class TestCursor:
    async def test_it_is_the_given_one_before_the_first_update_then_moves_with_the_log(
        self, store: MemoryStore
    ) -> None:
        given = WatchCursor.from_version(await store.put("other", b"v"))
        await store.put("quiet.k", b"v")
        async with store.watch("quiet.") as fresh, store.watch("quiet.", cursor=given) as resumed:
            await store.put("other", b"v")
            assert fresh.cursor is WatchCursor.none()
            assert resumed.cursor is given
            await anext(fresh)
            incarnation = (await store.status()).incarnation
            assert fresh.cursor == WatchCursor(revision=3, incarnation=incarnation)

    async def test_on_a_quiet_prefix_it_moves_although_nothing_came(self, store: MemoryStore) -> None:
        async with store.watch("quiet.") as watch:
            await store.put("other", b"v")
            assert watch.cursor.as_u64() == 1

    async def test_behind_a_tombstone_that_was_removed_it_is_expired(self, store: MemoryStore) -> None:
        first = await store.put("k", b"v")
        stays = await store.put("stays", b"v")
        await store.delete("k")
        await store.purge_deletes()
        for version in (first, stays):
            with pytest.raises(CursorExpiredError) as caught:
                await store.watch(cursor=WatchCursor.from_version(version)).__aenter__()
            assert caught.value.reason == "compacted"
        async with store.watch(cursor=WatchCursor.from_u64(3)) as watch:
            assert watch.hydrated


class TestSlowReader:
    async def test_what_is_overwritten_before_its_turn_costs_nothing(self, store: MemoryStore) -> None:
        await store.put("hot", b"0")
        async with store.watch() as watch:
            await anext(watch)
            for number in range(1, 1000):
                await store.put("hot", b"%d" % number)
            assert watch.statistics().pending == 1
            assert (await anext(watch)).value == b"999"

    async def test_a_long_backlog_lets_others_run(self, store: MemoryStore) -> None:
        await store.put_many({f"k{number}": b"v" for number in range(1000)})
        async with store.watch() as watch:
            collecting = asyncio.create_task(collect(watch))
            await turns(3)
            assert 0 < watch.statistics().delivered < 1000
            collecting.cancel()
            await asyncio.wait({collecting})

    async def test_what_was_evicted_before_its_turn_ends_it_after_what_came_before(self, server: MemoryServer) -> None:
        store, _ = open_store(server)
        async with store.watch() as watch:
            await store.put("a", b"1")
            await store.delete("b")
            await store.put("c", b"1")
            await store.purge_deletes()
            assert (await anext(watch)).key == "a"
            for _ in range(2):
                with pytest.raises(CursorExpiredError) as caught:
                    await anext(watch)
                assert caught.value.reason == "compacted"
            assert watch.cursor.as_u64() == 1

    async def test_a_gap_wakes_who_waits_for_hydration(self, store: MemoryStore) -> None:
        await store.put("a", b"1")
        await store.put("b", b"1")
        async with store.watch(cursor=WatchCursor.from_u64(0)) as watch:
            await store.delete("a")
            waiting = asyncio.create_task(watch.wait_hydrated())
            await turns()
            await store.delete("b")
            await store.purge_deletes()
            assert isinstance(await ended(waiting), CursorExpiredError)


class TestTime:
    async def test_a_waiting_watch_sees_the_expiry_when_it_is_due(self) -> None:
        store, _ = open_store(MemoryServer(), max_age=0.1)
        version = await store.put("k", b"v")
        async with asyncio.timeout(LIMIT), store.watch(cursor=WatchCursor.from_version(version)) as watch:
            update = await anext(watch)
        assert (update.operation, update.key, update.expired) == (Operation.PURGE, "k", True)
        assert await store.get("k") is None

    async def test_an_expired_value_is_absent_to_every_read(self, server: MemoryServer, clock: Clock) -> None:
        store, _ = open_store(server, max_age=60)
        await store.put("k", b"v")
        clock.wait(60)
        assert await store.get("k") is None
        assert await store.entry("k") is None
        assert await store.keys() == []
        assert [update.expired for update in await store.history("k")] == [True]
        assert await store.create("k", b"again") == VersionToken.from_u64(3)

    async def test_an_operation_that_notices_an_expiry_wakes_the_watches(
        self, server: MemoryServer, clock: Clock
    ) -> None:
        store, _ = open_store(server, max_age=3600)
        version = await store.put("k", b"v")
        async with store.watch(cursor=WatchCursor.from_version(version)) as watch:
            waiting = asyncio.create_task(anext_of(watch))
            await turns()
            clock.wait(3600)
            await store.keys()
            assert await ended(waiting) is None


class TestWaiting:
    @pytest.mark.parametrize("before", range(4))
    @pytest.mark.parametrize("after", range(4))
    async def test_cancelling_anext_at_any_turn_loses_nothing(
        self, store: MemoryStore, before: int, after: int
    ) -> None:
        async with store.watch() as watch:
            task = asyncio.create_task(anext_of(watch))
            await turns(before)
            await store.put("a", b"v")
            await turns(after)
            task.cancel()
            await asyncio.wait({task})
            received = [] if task.cancelled() else [task.result().key]
            await store.put("b", b"v")
            received += [(await anext(watch)).key for _ in range(watch.statistics().pending)]
        assert received == ["a", "b"]

    async def test_min_version_waits_for_the_write(self, store: MemoryStore) -> None:
        reading = asyncio.create_task(store.get("k", min_version=VersionToken.from_u64(2)))
        await store.put("k", b"1")
        await turns()
        assert not reading.done()
        await store.put("k", b"2")
        assert await ended(reading) is None
        entry = reading.result()
        assert entry is not None
        assert entry.value == b"2"

    async def test_min_version_that_does_not_come(self, server: MemoryServer) -> None:
        store, _ = open_store(server, op_timeout=0.01)
        with pytest.raises(OperationTimeoutError):
            await store.get("k", min_version=VersionToken.from_u64(2))

    @pytest.mark.parametrize(("end", "error"), [("close", NotConnectedError), ("delete", StoreNotFoundError)])
    async def test_min_version_ends_with_the_connection_or_the_bucket(
        self, server: MemoryServer, end: str, error: type[KvError]
    ) -> None:
        store, session = open_store(server)
        reading = asyncio.create_task(store.get("k", min_version=VersionToken.from_u64(2)))
        await turns()
        if end == "close":
            session.close()
        else:
            server.delete("bucket")
        assert isinstance(await ended(reading), error)

    async def test_nobody_is_left_waiting(self, store: MemoryStore, server: MemoryServer) -> None:
        bucket = server.find("bucket")
        assert bucket is not None
        async with store.watch() as watch:
            tasks = [asyncio.create_task(anext_of(watch)) for _ in range(3)]
            await turns()
            assert len(bucket._waiters) == 3
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert not bucket._waiters


class TestBatches:
    async def test_arguments_are_checked_at_once(self, store: MemoryStore) -> None:
        for wrong in ({"max_items": 0}, {"max_wait": -1}, {"max_wait": float("nan")}):
            with pytest.raises(ValueError, match="max_"):
                store.watch().batches(**wrong)

    async def test_a_full_one_is_closed_without_waiting(self, store: MemoryStore) -> None:
        await store.put_many({f"k{number}": b"v" for number in range(7)})
        async with asyncio.timeout(LIMIT), store.watch() as watch:
            batches = watch.batches(max_items=3, max_wait=3600)
            assert [len(await anext(batches)) for _ in range(2)] == [3, 3]
            last = asyncio.create_task(anext_of(batches))
            await turns()
            assert not last.done()
            await store.put_many({"a": b"v", "b": b"v"})
            assert await ended(last) is None

    async def test_cancelling_loses_nothing_and_the_cursor_waits(self, store: MemoryStore) -> None:
        await store.put("a", b"v")
        async with store.watch() as watch:
            batches = watch.batches(max_items=2, max_wait=3600)
            task = asyncio.create_task(anext_of(batches))
            await turns()
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            assert watch.cursor.is_none
            await store.put("b", b"v")
            assert [update.key for update in await anext(batches)] == ["a", "b"]

    @pytest.mark.parametrize("marked", [True, False])
    async def test_a_commit_is_not_split_also_without_its_mark(
        self, store: MemoryStore, server: MemoryServer, marked: bool
    ) -> None:
        async with store.watch() as watch:
            await store.put("a", b"v")
            write_commit(server, ["b", "c", "d"], "one", marked=marked)
            write_commit(server, ["e", "f"], "two")
            await store.put("g", b"v")
            batches = watch.batches(max_items=2, max_wait=0)
            groups = [[update.key for update in await anext(batches)] for _ in range(3)]
        assert groups == [["a", "b", "c", "d"], ["e", "f"], ["g"]]

    async def test_two_commits_with_one_id_are_two(self, store: MemoryStore, server: MemoryServer) -> None:
        async with store.watch() as watch:
            write_commit(server, ["a", "b"], "same")
            write_commit(server, ["c", "d"], "same")
            batches = watch.batches(max_items=1, max_wait=0)
            groups = [[update.key for update in await anext(batches)] for _ in range(2)]
        assert groups == [["a", "b"], ["c", "d"]]

    @pytest.mark.parametrize("end", ["close", "delete"])
    async def test_the_end_of_the_watch_is_not_waited_out(self, server: MemoryServer, end: str) -> None:
        store, session = open_store(server)
        await store.put("a", b"v")
        async with store.watch() as watch:
            batches = watch.batches(max_wait=3600)
            task = asyncio.create_task(anext_of(batches))
            await turns()
            if end == "close":
                session.close()
                assert isinstance(await ended(task), NotConnectedError)
            else:
                server.delete("bucket")
                assert await ended(task) is None
                with pytest.raises(StoreNotFoundError):
                    await anext(batches)


def test_a_name_outlives_its_loops() -> None:
    server = MemoryServer()
    open_store(server)
    bucket = server.find("bucket")
    assert bucket is not None
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: None)  # it will say that the task was destroyed, and that is meant
    abandoned = loop.create_task(bucket.changed())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def go_on() -> KvUpdate:
        store, _ = open_store(server)
        async with store.watch() as watch:
            waiting = asyncio.create_task(anext_of(watch))
            await turns()
            await store.put("k", b"v")
            assert await ended(waiting) is None
            return waiting.result()

    assert asyncio.run(go_on()).key == "k"
    assert not abandoned.done()
