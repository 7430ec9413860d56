"""Watches on a real server: nothing lost, nothing twice, nothing left behind, through everything that goes wrong."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from slipstream.errors import CursorExpiredError, NotConnectedError, StoreNotFoundError
from slipstream.interfaces import KvStore, Watch
from slipstream.model import KvUpdate, Operation, StoreConfig, WatchCursor
from slipstream.stores.nats import NatsConnection
from slipstream.stores.nats import feed as feed_module
from slipstream.stores.nats.consumer import PushConsumer
from slipstream.stores.nats.feed import Feed
from slipstream.stores.nats.opening import open_consumer
from slipstream.stores.nats.watcher import NatsWatch
from slipstream.testing._raw import Holdings, Raw, raw_client
from slipstream.testing._waiting import (
    LIMIT,
    background,
    bounded,
    cancelled_after,
    collect,
    collect_until,
    drain,
    eventually,
    ticks,
)
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer

Connect = Callable[..., Awaitable[NatsConnection]]
MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]

MiB = 1024 * 1024
QUICK = {"heartbeat": 0.2, "ping_interval": 0.3}  # to notice a dead consumer, and a dead path, sooner
TICKS = [*range(61), 75, 100, 140, 200, 300, 450, 700, 1000, 1500]


def feed_of(watch: Watch) -> Feed:
    assert isinstance(watch, NatsWatch)
    assert watch._feed is not None
    return watch._feed


def version_of(server: NatsServer) -> tuple[int, ...]:
    return tuple(int(part) for part in server.version().partition("-")[0].split("."))


def has_marks(server: NatsServer) -> bool:
    """It leaves a mark where a key expires."""
    return version_of(server) >= (2, 11, 2)


def with_marks(server: NatsServer, bucket: str, *, seconds: float, **fields: Any) -> StoreConfig:
    """A bucket whose marks of expiry last so long, where the server has any."""
    if has_marks(server):
        fields["marker_ttl"] = timedelta(seconds=seconds)
    return StoreConfig(name=bucket, **fields)


async def read_on(watch: Watch, into: list[KvUpdate]) -> None:
    async for update in watch:
        into.append(update)  # noqa: PERF401 - at once, not at the end


async def until(condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await eventually(holds)


class Ledger:
    """What a writer was told, and whether a watch says the same."""

    def __init__(self, keys: int = 20) -> None:
        self.keys = [f"k.{number}" for number in range(keys)]
        self.written: dict[int, tuple[str, bytes]] = {}

    @asynccontextmanager
    async def writing(self, store: KvStore) -> AsyncIterator[None]:
        """Write values and tombstones beside the block, one after the other; every write comes to its end."""
        leaving = False

        async def write_on() -> None:
            while not leaving:
                await self.write(store, random.choice(self.keys), random.choice((b"", b"%d" % len(self.written))))

        task = asyncio.create_task(write_on())
        try:
            yield
        finally:
            leaving = True
            async with bounded():
                await task

    async def write(self, store: KvStore, key: str, value: bytes) -> None:
        revision = (await store.put(key, value)).as_u64()
        assert revision is not None
        self.written[revision] = (key, value)

    async def grow(self, count: int = 20) -> None:
        """Return when so many more writes are done."""
        target = len(self.written) + count
        await until(lambda: len(self.written) >= target)

    def check(self, updates: list[KvUpdate]) -> None:
        """Order, no repeat, no phantom, and each revision that is missing was superseded by a later one."""
        revisions = [update.revision or 0 for update in updates]
        assert 0 not in revisions, "an unknown version"
        assert revisions == sorted(set(revisions))
        for update in updates:
            assert self.written[update.revision or 0] == (update.key, update.value)
            assert update.operation is (Operation.PUT if update.value else Operation.DELETE)
        last_of = {update.key: update.revision or 0 for update in updates}
        for revision in self.written.keys() - set(revisions):
            assert last_of.get(self.written[revision][0], 0) > revision, f"revision {revision} is missing"

    async def check_end(self, updates: list[KvUpdate], raw: Raw, bucket: str) -> None:
        """The reader ends with what the server holds."""
        end = {update.key: (update.revision, update.value) for update in updates}
        for key in {key for key, _ in self.written.values()}:
            assert end.get(key) == await raw.last(bucket, key)


async def kill(server: NatsServer, proxy: FaultProxy, ledger: Ledger) -> None:
    await server.kill()
    await server.start()


async def restart(server: NatsServer, proxy: FaultProxy, ledger: Ledger) -> None:
    await server.restart()


async def reset(server: NatsServer, proxy: FaultProxy, ledger: Ledger) -> None:
    proxy.reset()


async def drop(server: NatsServer, proxy: FaultProxy, ledger: Ledger) -> None:
    proxy.drop()


async def cut(server: NatsServer, proxy: FaultProxy, ledger: Ledger) -> None:
    done = proxy.cut_after(random.randrange(1, 5000), "to_client")
    async with bounded():
        await done.wait()


async def refuse(server: NatsServer, proxy: FaultProxy, ledger: Ledger) -> None:
    proxy.refuse()
    proxy.reset()
    await ledger.grow()
    await proxy.heal()


async def swallow_a_little(server: NatsServer, proxy: FaultProxy, ledger: Ledger) -> None:
    proxy.black_hole()
    await ledger.grow()
    await proxy.heal()


async def swallow_until_it_is_noticed(server: NatsServer, proxy: FaultProxy, ledger: Ledger) -> None:
    before = proxy.connections
    proxy.black_hole()
    await until(lambda: proxy.connections > before)  # the client dials anew; the proxy swallowed its farewell
    await proxy.heal()


Trouble = Callable[[NatsServer, FaultProxy, Ledger], Awaitable[None]]
TROUBLES: list[Trouble] = [
    kill,
    restart,
    reset,
    drop,
    cut,
    refuse,
    swallow_a_little,
    swallow_until_it_is_noticed,
]


class TestThroughTrouble:
    @pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
    @pytest.mark.parametrize("history", [1, 8])
    async def test_no_gap_no_repeat_and_the_servers_end_state(
        self,
        connect: Connect,
        nats_server: NatsServer,
        fault_proxy: MakeProxy,
        bucket: str,
        trouble: Trouble,
        history: int,
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        store = await (await connect(proxy.url, **QUICK)).store(StoreConfig(name=bucket, max_history=history))
        writer = await (await connect(nats_server.url)).store(bucket)
        ledger, seen = Ledger(), list[KvUpdate]()
        async with store.watch() as watch, background(read_on(watch, seen)):
            async with ledger.writing(writer):
                for _ in range(3):
                    await ledger.grow()
                    await self._resumed(watch, trouble(nats_server, proxy, ledger))
                await ledger.grow()
            await ledger.write(writer, "end", b"end")
            await until(lambda: bool(seen) and seen[-1].key == "end")
            assert watch.cursor.as_u64() == max(ledger.written)
        ledger.check(seen)
        async with raw_client(nats_server.url) as raw:
            await ledger.check_end(seen, raw, bucket)
            await raw.no_consumers(bucket)

    async def _resumed(self, watch: Watch, trouble: Awaitable[None]) -> None:
        before = watch.statistics().resumes
        await trouble
        await until(lambda: watch.statistics().resumes > before)

    async def test_a_saved_cursor_goes_on_where_it_was_through_all_of_it(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url, **QUICK)
        # With all history kept, and read from the very beginning, nothing is superseded and no cursor can expire.
        store = await connection.store(StoreConfig(name=bucket, max_history=64))
        writer = await (await connect(nats_server.url)).store(bucket)
        ledger, seen = Ledger(keys=200), list[KvUpdate]()
        cursor = WatchCursor.from_u64(0)
        async with ledger.writing(writer):
            for trouble in (reset, kill, drop, restart, cut):
                async with store.watch(cursor=cursor) as watch:
                    seen += await collect(watch, 10)
                    await trouble(nats_server, proxy, ledger)
                    seen += await collect(watch, 10)
                    cursor = WatchCursor.parse(str(watch.cursor))
        await ledger.write(writer, "end", b"end")
        async with store.watch(cursor=cursor) as watch:
            seen += await collect_until(watch, lambda update: update.key == "end")
        assert [update.revision for update in seen] == list(range(1, max(ledger.written) + 1))
        ledger.check(seen)

    async def test_a_bucket_whose_every_key_was_overwritten_meanwhile(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        # Marks of expiry last 2 s here, which pass before the outage: what counts is how long the watch was away.
        store = await (await connect(proxy.url, **QUICK)).store(with_marks(nats_server, bucket, seconds=2))
        writer = await (await connect(nats_server.url)).store(bucket)
        keys = ["a", "b", "c"]
        await writer.put_many(dict.fromkeys(keys, b"1"))
        async with store.watch() as watch:
            await collect(watch, 3)
            saved = watch.cursor
            await asyncio.sleep(2.2)
            proxy.refuse()
            proxy.reset()
            for value in (b"2", b"3", b"4"):
                await writer.put_many(dict.fromkeys(keys, value))
            await proxy.heal()
            assert [update.value for update in await collect(watch, 3)] == [b"4"] * 3
            assert watch.statistics().resumes >= 1
        with pytest.raises(CursorExpiredError) as caught:
            async with bounded(), store.watch(cursor=saved):
                pass
        assert caught.value.reason == "compacted"
        assert caught.value.first_revision == 10

    async def test_an_outage_longer_than_the_marks_of_expiry_last_is_told(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        store = await (await connect(proxy.url, **QUICK)).store(with_marks(nats_server, bucket, seconds=1))
        writer = await (await connect(nats_server.url)).store(bucket)
        await writer.put("a", b"1")
        async with store.watch() as watch:
            await collect(watch, 1)
            proxy.refuse()
            proxy.reset()
            await asyncio.sleep(1.2)
            await writer.put("b", b"1")
            await writer.put("b", b"2")
            await writer.put("a", b"2")
            await proxy.heal()
            if not has_marks(nats_server):  # then keys do not expire one by one, and nothing can have been missed
                assert [update.value for update in await collect(watch, 2)] == [b"2", b"2"]
                return
            with pytest.raises(CursorExpiredError) as caught:
                await drain(watch)
        assert caught.value.reason == "compacted"

    async def test_leaving_it_in_the_middle_of_a_resume_leaves_nothing_behind(
        self, connect: Connect, nats_server: NatsServer, bucket: str
    ) -> None:
        connection = await connect(nats_server.url)
        store = await connection.store(bucket)
        await store.put("a", b"1")
        async with raw_client(nats_server.url) as raw:
            holdings = Holdings(connection)
            for count in TICKS:
                async with store.watch() as watch:
                    await collect(watch, 1)
                    feed_of(watch).on_reconnected()
                    await ticks(count)
            await raw.no_consumers(bucket)
            await holdings.no_more()

    async def test_a_storm_of_reconnects_leaves_one_consumer_for_each_watch(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url, **QUICK)
        store = await connection.store(bucket)
        await store.put("a", b"1")
        async with AsyncExitStack() as stack, raw_client(nats_server.url) as raw:
            watches = [await stack.enter_async_context(store.watch()) for _ in range(5)]
            for _ in range(10):
                await until(connection.is_healthy)
                await ticks(random.randrange(100))
                proxy.reset()
                await until(lambda: not connection.is_healthy() or proxy.connections == 1)
            await until(connection.is_healthy)
            await store.put("b", b"2")
            for watch in watches:
                assert [update.key for update in await collect(watch, 2)] == ["a", "b"]

            async def one_each() -> bool:
                return len(await raw.consumers(bucket)) == len(watches)

            await eventually(one_each)


class TestCursor:
    async def test_a_quiet_prefix_moves_on_with_the_heartbeats_and_resumes_there(
        self, connect: Connect, bucket: str
    ) -> None:
        store = await (await connect(heartbeat=0.1)).store(bucket)
        await store.put("watched.a", b"1")
        async with store.watch("watched.") as watch:
            await collect(watch, 1)
            assert watch.cursor.as_u64() == 1
            for _ in range(2):
                last = 0
                for _ in range(50):
                    last = (await store.put("other", b"value")).as_u64() or 0
                reading = asyncio.create_task(anext(watch))
                await until(lambda: watch.cursor.as_u64() == last)  # noqa: B023 - awaited here
                reading.cancel()
                await asyncio.wait({reading})
            cursor = watch.cursor
        await store.put("watched.b", b"2")
        async with store.watch("watched.", cursor=cursor) as watch:
            assert [update.key for update in await collect(watch, 1)] == ["watched.b"]

    async def test_what_a_replaced_consumer_still_sends_cannot_move_it(self, connect: Connect, bucket: str) -> None:
        store = await (await connect(heartbeat=0.1)).store(bucket)
        await store.put("watched.a", b"1")
        async with store.watch("watched.") as watch:
            await collect(watch, 1)
            async with bounded():
                await watch.wait_hydrated()
            feed = feed_of(watch)
            old_sequence = feed._intake._consumer_sequence
            old_generation = feed._generation
            feed.on_reconnected()
            await until(lambda: watch.statistics().resumes == 1)
            head = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: %d\r\nNats-Last-Stream: 1000\r\n\r\n"
            late = (b"inbox", b"", head % old_sequence, b"")
            record = (b"$KV.b.watched.z", b"$JS.ACK.s.c.1.900.2.0.0", b"", b"late")
            for generation in range(old_generation + 1):
                feed._on_frames(generation, [late])
                feed._on_frames(generation, [record])
            assert watch.cursor.as_u64() == 1
            assert feed.ready == 0
            assert feed._intake.received == 1
            await store.put("watched.b", b"2")
            assert [update.key for update in await collect(watch, 1)] == ["watched.b"]
            assert watch.cursor.as_u64() == 2

    async def test_nothing_of_a_new_consumer_counts_before_the_comparisons(
        self, connect: Connect, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, bucket: str
    ) -> None:
        store = await (await connect(nats_server.url)).store(bucket)
        other = await connect(nats_server.url)
        await store.put("old", b"1")
        opened = PushConsumer.open

        async def made_again_just_before(*args: Any, **options: Any) -> PushConsumer:
            await other.delete_store(bucket)
            await (await other.store(bucket)).put_many([(f"new.{number}", b"new") for number in range(20)])
            consumer = await opened(*args, **options)
            # It delivers at once; what it sends is there before the comparison is.
            await (await other.store(bucket)).put("later", b"new")
            return consumer

        async with store.watch() as watch:
            await collect(watch, 1)
            monkeypatch.setattr(PushConsumer, "open", made_again_just_before)
            feed_of(watch).on_reconnected()
            with pytest.raises(CursorExpiredError) as caught:
                await drain(watch)
            assert caught.value.reason == "recreated"
            assert watch.cursor.as_u64() == 1
            assert watch.statistics().delivered == 1


class TestOnServer:
    @pytest.mark.parametrize(
        ("prefixes", "expected"),
        [
            ("", ["a.1", "a.b.1", "ab", "c", "d.1"]),
            (["a."], ["a.1", "a.b.1"]),
            (["a.", "d."], ["a.1", "a.b.1", "d.1"]),
            (["a.", "a.b.", "a.b.1", "a.", "d"], ["a.1", "a.b.1", "d.1"]),
            (["a.", ""], ["a.1", "a.b.1", "ab", "c", "d.1"]),
            (["ab", "a.b", "c"], ["a.b.1", "ab", "c"]),
        ],
    )
    async def test_however_many_prefixes_it_is_one_consumer(
        self, connect: Connect, raw: Raw, bucket: str, prefixes: str | list[str], expected: list[str]
    ) -> None:
        store = await (await connect()).store(bucket)
        await store.put_many([(key, b"1") for key in ("a.1", "a.b.1", "ab", "c", "d.1")])
        async with store.watch(prefixes) as watch:
            assert [update.key for update in await collect(watch, len(expected))] == expected
            assert len(await raw.consumers(bucket)) == 1
            async with bounded():
                await watch.wait_hydrated()
            await store.put_many([(key, b"2") for key in ("a.1", "a.b.1", "ab", "c", "d.1")])
            assert [update.key for update in await collect(watch, len(expected))] == expected
            assert len(await raw.consumers(bucket)) == 1
        assert await raw.consumers(bucket) == []

    async def test_entering_cancelled_at_any_moment_leaves_nothing_behind(
        self, connect: Connect, raw: Raw, bucket: str
    ) -> None:
        connection = await connect()
        store = await connection.store(bucket)
        await store.put("a", b"1")
        holdings = Holdings(connection)

        async def enter_and_leave() -> None:
            async with store.watch():
                pass

        for count in TICKS:
            await cancelled_after(count, enter_and_leave())
        await raw.no_consumers(bucket)
        await holdings.no_more()

    async def test_shutdown_removes_the_consumers_of_open_watches(
        self, connect: Connect, raw: Raw, bucket: str
    ) -> None:
        connection = await connect()
        store = await connection.store(bucket)
        await store.put("a", b"1")
        watches = [store.watch(), store.watch("a"), store.watch(["a", "b."])]
        for watch in watches:
            await watch.__aenter__()
            await collect(watch, 1)
        assert len(await raw.consumers(bucket)) == 3
        await connection.shutdown()
        await raw.no_consumers(bucket)
        for watch in watches:
            with pytest.raises(NotConnectedError):
                await drain(watch)
            await watch.aclose()


class TestExpiry:
    @pytest.mark.parametrize(("prefix", "step"), [("", 1), ("watched.", 2)])
    async def test_an_eviction_in_the_middle_of_the_stream_ends_it_before_the_gap(
        self, connect: Connect, nats_server: NatsServer, bucket: str, prefix: str, step: int
    ) -> None:
        store = await (await connect(nats_server.url)).store(
            StoreConfig(name=bucket, max_bytes=16 * 1024, discard="old")
        )
        await store.put("watched.0", b"first")
        seen: list[KvUpdate] = []
        async with raw_client(nats_server.url) as raw, store.watch(prefix) as watch:
            await collect(watch, 1)
            async with bounded():
                await watch.wait_hydrated()
            # More than the bucket holds, faster than the server pushes: it drops what the watch has not been sent.
            reading = asyncio.create_task(read_on(watch, seen))
            sent = 1
            async with asyncio.timeout(30):
                while not reading.done():
                    for _ in range(500):
                        sent += 1
                        # A key each: what was written over may be left out.
                        key = f"{'watched' if sent % 2 else 'other'}.{sent}"
                        await raw.client.publish(f"$KV.{bucket}.{key}", bytes(4096))
                    await raw.client.flush()
            with pytest.raises(CursorExpiredError) as caught:
                await reading
            cursor = watch.cursor.as_u64()
            assert watch.statistics().resumes == 0
        assert caught.value.reason == "compacted"
        assert cursor is not None
        assert caught.value.cursor is not None
        assert caught.value.cursor.as_u64() == cursor
        assert caught.value.first_revision is not None
        assert caught.value.first_revision > cursor + 1
        # Revisions are the numbers of the writes here: every watched one up to the cursor was handed out.
        assert [update.revision for update in seen] == list(range(1 + step, cursor + 1, step))

    async def test_a_tombstone_that_is_evicted_during_the_initial_state_is_not_passed_over(
        self, connect: Connect, nats_server: NatsServer, bucket: str
    ) -> None:
        config = StoreConfig(name=bucket, max_bytes=8 * MiB, discard="old")
        store = await (await connect(nats_server.url, heartbeat=0.2)).store(config)
        await store.put("victim", b"alive")
        await store.put_many([(f"old.{number}", bytes(10_000)) for number in range(700)])
        async with store.watch() as watch:
            assert [update.key for update in await collect(watch, 1)] == ["victim"]
            # The reader stalls, and the server behind it: it will not send what retention takes away meanwhile.
            await store.delete("victim")
            await store.put_many([(f"new.{number}", bytes(10_000)) for number in range(1600)])
            seen: list[KvUpdate] = []
            with pytest.raises(CursorExpiredError) as caught:
                async with bounded():
                    await read_on(watch, seen)
            assert not watch.hydrated
        assert caught.value.reason == "compacted"
        assert "victim" not in {update.key for update in seen}
        assert (watch.cursor.as_u64() or 0) <= 701

    async def test_a_hot_key_with_a_slow_reader_is_never_expired(
        self, connect: Connect, nats_server: NatsServer, bucket: str
    ) -> None:
        store = await (await connect(nats_server.url)).store(bucket)
        async with raw_client(nats_server.url) as raw, store.watch() as watch:
            for number in range(6000):
                await raw.client.publish(f"$KV.{bucket}.hot", b"%d." % number + bytes(8 * 1024))
            await raw.client.flush()

            async def all_are_stored() -> bool:
                return (await store.status()).last_revision == 6000

            # A pong says that they were received: JetStream stores them later, maybe after a put of another connection.
            await eventually(all_are_stored)
            last = await store.put("hot", b"last")
            seen = await collect_until(watch, lambda update: update.version == last)
            assert len(seen) < 6001, "it was meant to fall behind"
            revisions = [update.revision or 0 for update in seen]
            assert revisions == sorted(set(revisions))
            assert seen[-1].value == b"last"
            async with bounded():
                await watch.wait_hydrated()

    async def test_keys_that_expire_are_purged_with_a_mark_live_and_after_a_resume(
        self, connect: Connect, nats_server: NatsServer, bucket: str
    ) -> None:
        store = await (await connect(nats_server.url, heartbeat=0.2)).store(
            with_marks(nats_server, bucket, seconds=60, max_age=timedelta(seconds=1))
        )
        async with store.watch("k") as watch:
            version = await store.put("k", b"1")
            (put,) = await collect(watch, 1)
            cursor = watch.cursor
            if not has_marks(nats_server):  # then nobody is told
                await self._read_as_absent(store, "k")
                assert feed_of(watch).ready == 0
                return
            (live,) = await collect(watch, 1)
        async with store.watch("k", cursor=cursor) as watch:
            (resumed,) = await collect(watch, 1)
        assert put.version == version
        assert (live.operation, live.key, live.expired) == (Operation.PURGE, "k", True)
        assert resumed == live
        assert await store.get("k") is None
        assert await store.keys() == []

    async def _read_as_absent(self, store: KvStore, key: str) -> None:
        async def absent() -> bool:
            return await store.get(key) is None

        await eventually(absent)

    async def test_a_bucket_that_is_deleted(self, connect: Connect, bucket: str) -> None:
        connection = await connect(heartbeat=0.2)
        store = await connection.store(bucket)
        await store.put("a", b"1")
        async with store.watch() as watch:
            await collect(watch, 1)
            await connection.delete_store(bucket)
            with pytest.raises(StoreNotFoundError):
                await drain(watch)
            assert watch.cursor.as_u64() == 1
        with pytest.raises(StoreNotFoundError):
            async with bounded(), store.watch():
                pass

    @pytest.mark.parametrize("writes", [0, 1, 5])
    async def test_a_bucket_that_is_deleted_and_made_again(self, connect: Connect, bucket: str, writes: int) -> None:
        connection = await connect(heartbeat=0.2)
        store = await connection.store(bucket)
        await store.put_many({"a": b"1", "b": b"1"})
        async with store.watch() as watch, store.watch("quiet.") as quiet:
            await collect(watch, 2)
            async with bounded():
                await asyncio.gather(watch.wait_hydrated(), quiet.wait_hydrated())
            await connection.delete_store(bucket)
            again = await connection.store(bucket)
            for number in range(writes):
                await again.put(f"quiet.{number}", b"2")
            for one in (watch, quiet):
                with pytest.raises(CursorExpiredError) as caught:
                    await drain(one)
                assert caught.value.reason == "recreated"
            assert (watch.statistics().delivered, quiet.statistics().delivered) == (2, 0)
            saved = watch.cursor
        with pytest.raises(CursorExpiredError) as caught:
            async with bounded(), again.watch(cursor=saved):
                pass
        assert caught.value.reason == "recreated"

    async def test_a_bucket_made_again_while_a_gap_is_looked_into(self, connect: Connect, bucket: str) -> None:
        connection = await connect()
        config = StoreConfig(name=bucket, max_bytes=MiB, discard="old")
        store = await connection.store(config)
        await store.put("watched", b"1")
        async with store.watch("watched") as watch:
            await collect(watch, 1)
            await connection.delete_store(bucket)
            await (await connection.store(config)).put("other", b"2")
            async with bounded():
                with pytest.raises(CursorExpiredError) as caught:
                    await feed_of(watch)._look_into_gap(1)
        assert caught.value.reason == "recreated"

    async def test_a_server_that_lost_its_tail(self, connect: Connect, bucket: str) -> None:
        async with NatsServer() as server:
            store = await (await connect(server.url, heartbeat=0.2)).store(bucket)
            await store.put_many([("a", b"1"), ("b", b"1")])
            await server.stop()
            data, copy = server.directory / "data", server.directory / "copy"
            shutil.copytree(data, copy)
            await server.start()
            await store.put_many([("a", b"2"), ("c", b"2")])
            async with store.watch() as watch:
                await collect(watch, 3)
                saved = watch.cursor
                assert saved.as_u64() == 4
                await server.kill()
                shutil.rmtree(data)
                copy.rename(data)
                await server.start()
                with pytest.raises(CursorExpiredError) as running:
                    await drain(watch)
                assert watch.statistics().delivered == 3
            with pytest.raises(CursorExpiredError) as entered:
                async with bounded(), store.watch(cursor=saved):
                    pass
            assert [running.value.reason, entered.value.reason] == ["rolled_back", "rolled_back"]
            assert sorted(entry.key for entry in await store.scan()) == ["a", "b"]


class TestSlowReader:
    async def test_the_server_is_held_back_and_nothing_is_dropped(
        self, connect: Connect, nats_server: NatsServer, bucket: str
    ) -> None:
        connection = await connect(nats_server.url, heartbeat=0.2)
        store = await connection.store(bucket)
        count, size = 15_000, 10 * 1024
        versions = await store.put_many([(f"k.{number}", bytes(size)) for number in range(count)])
        async with store.watch() as watch:
            feed = feed_of(watch)
            first = await collect(watch, 1)
            stalled = -1
            while stalled != feed.ready:  # until a heartbeat has come and nothing more with it
                stalled = feed.ready
                heard_at = feed._heard_at
                await until(lambda: feed._heard_at > heard_at)  # noqa: B023 - awaited here
                await self._answers_quickly(store)
            assert 0 < feed._updates.pending_bytes < 64 * MiB
            assert stalled < count - 1, "it was meant to stall"
            assert not watch.hydrated
            async with asyncio.timeout(3 * LIMIT):
                rest = [await anext(watch) for _ in range(count - 1)]
                await watch.wait_hydrated()
            assert [update.version for update in first + rest] == versions
            assert watch.statistics().resumes == 0

    async def _answers_quickly(self, store: KvStore) -> None:
        async with bounded():
            assert await store.get("k.1") is not None
            assert await store.get("absent") is None

    async def test_one_that_exceeds_every_bound_is_resumed_after_what_it_took(
        self, connect: Connect, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The server's own bound is below ours: only a smaller one of ours is ever reached.
        monkeypatch.setattr(feed_module, "_MAX_BYTES", 256 * 1024)
        store = await (await connect(heartbeat=0.2)).store(bucket)
        versions = await store.put_many([(f"k.{number}", bytes(4096)) for number in range(400)])
        async with store.watch() as watch:
            feed = feed_of(watch)
            await until(lambda: feed._broken is not None)
            assert feed._updates.pending_bytes <= 256 * 1024
            assert [update.version for update in await collect(watch, 400)] == versions
            assert watch.statistics().resumes >= 1


class TestHydrated:
    async def test_silence_proves_nothing(
        self, connect: Connect, nats_server: NatsServer, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = await (await connect(nats_server.url, heartbeat=0.2)).store(bucket)
        await store.put_many([(f"k.{number}", b"1") for number in range(100)])
        opened = open_consumer

        async def then_paused(*args: Any, **options: Any) -> Any:
            made = await opened(*args, **options)
            nats_server.pause()
            return made

        monkeypatch.setattr(feed_module, "open_consumer", then_paused)
        seen: list[KvUpdate] = []
        async with store.watch() as watch:
            monkeypatch.undo()
            async with background(read_on(watch, seen)):
                hydrated = asyncio.create_task(watch.wait_hydrated())
                # Many times as long as the proof waits, and longer than three heartbeats may be missing.
                done, _ = await asyncio.wait({hydrated}, timeout=1.0)
                assert not done
                assert not watch.hydrated
                nats_server.resume()
                async with bounded():
                    await hydrated
                assert len(seen) == 100

    async def test_it_comes_under_writers_that_never_pause(
        self, connect: Connect, nats_server: NatsServer, bucket: str
    ) -> None:
        store = await (await connect(nats_server.url)).store(bucket)
        writer = await (await connect(nats_server.url)).store(bucket)
        steady = [f"steady.{number}" for number in range(500)]
        await store.put_many(dict.fromkeys(steady, b"1"))
        ledger, seen = Ledger(), list[KvUpdate]()
        async with ledger.writing(writer):
            await ledger.grow()
            async with store.watch() as watch, background(read_on(watch, seen)), bounded():
                await watch.wait_hydrated()
                held = {update.key for update in seen}
        assert set(steady) <= held
        assert [key for key, _ in list(ledger.written.values())[:20] if key not in held] == []

    async def test_what_is_removed_while_it_is_counted_does_not_hold_it_up(
        self, connect: Connect, raw: Raw, bucket: str
    ) -> None:
        # The count of the create reply includes what a purge over the API then takes away, without a word.
        store = await (await connect()).store(StoreConfig(name=bucket, max_history=2))
        await store.put_many([(f"k.{number}", bytes(4096)) for number in range(2000)])
        async with store.watch() as watch:
            seen = await collect(watch, 1)
            answer = await raw.api(f"STREAM.PURGE.KV_{bucket}", {"filter": f"$KV.{bucket}.>"})
            assert answer["success"]
            async with background(read_on(watch, seen)), bounded():
                await watch.wait_hydrated()
            assert len(seen) < 2000


class TestCancelledReading:
    async def test_nothing_is_lost(self, connect: Connect, bucket: str) -> None:
        store = await (await connect()).store(StoreConfig(name=bucket, max_history=64))
        writer = await (await connect()).store(bucket)
        ledger, seen = Ledger(), list[KvUpdate]()
        async with store.watch() as watch:
            async with ledger.writing(writer):
                for _ in range(500):
                    task = await cancelled_after(random.randrange(40), anext(watch))
                    if not task.cancelled():
                        seen.append(task.result())
            await ledger.write(writer, "end", b"end")
            seen += await collect_until(watch, lambda update: update.key == "end")
        assert [update.revision for update in seen] == sorted(ledger.written)
        ledger.check(seen)


async def reply_subject(raw: Raw, bucket: str) -> str:
    """That of the first record, as the server sends it to any consumer."""
    inbox = raw.client.new_inbox()
    subscription = await raw.client.subscribe(inbox)
    config = {"deliver_subject": inbox, "ack_policy": "none", "deliver_policy": "all", "mem_storage": True}
    await raw.api(f"CONSUMER.CREATE.KV_{bucket}", {"stream_name": f"KV_{bucket}", "config": config})
    reply = (await subscription.next_msg(timeout=LIMIT)).reply
    await subscription.unsubscribe()
    return reply


class TestConfigurationsOfTheServer:
    @pytest.fixture
    async def newest_form(self) -> AsyncIterator[NatsServer]:
        """A server that sends the longer ACK subjects where it can."""
        async with NatsServer() as server:
            longer = version_of(server) >= (2, 14)
        async with NatsServer(config="feature_flags { js_ack_fc_v2: true }" if longer else "") as server:
            yield server

    async def test_longer_ack_subjects(self, connect: Connect, newest_form: NatsServer, bucket: str) -> None:
        connection = await connect(newest_form.url, heartbeat=0.2)
        await (await connection.store("tap")).put("a", b"1")
        async with raw_client(newest_form.url) as raw:
            reply = await reply_subject(raw, "tap")
        assert len(reply.split(".")) == (11 if version_of(newest_form) >= (2, 14) else 9)
        await connection.delete_store("tap")
        await self._everything_works(connection, bucket)

    async def test_a_jetstream_domain(self, connect: Connect, tmp_path: Path, bucket: str) -> None:
        config = f'jetstream {{ domain: hub, store_dir: "{tmp_path}" }}'
        async with NatsServer(config=config, jetstream=False) as server:
            await self._everything_works(await connect(server.url, domain="hub", heartbeat=0.2), bucket)
            async with raw_client(server.url, api="$JS.hub.API") as raw:
                await raw.no_consumers(bucket)

    async def _everything_works(self, connection: NatsConnection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=3))
        assert await connection.stores() == [bucket]
        await store.put_many([(f"a.{number}", b"1") for number in range(1500)])
        first = await store.create("b", b"1")
        second = await store.update("b", b"2", first)
        async with store.watch(["a.1", "b"]) as watch:
            await collect_until(watch, lambda update: update.key == "b")
            async with bounded():
                await watch.wait_hydrated()
            cursor = watch.cursor
            assert cursor.as_u64() == second.as_u64()
            deleted = await store.put("b", b"")
            assert [update.version for update in await collect(watch, 1)] == [deleted]
            feed_of(watch).on_reconnected()
            last = await store.put("a.1", b"2")
            assert [update.version for update in await collect(watch, 1)] == [last]
            assert watch.statistics().resumes == 1
        async with store.watch(["a.1", "b"], cursor=cursor) as watch:
            assert [update.version for update in await collect(watch, 2)] == [deleted, last]
        assert len(await store.keys("a.")) == 1500
        assert {entry.version for entry in await store.scan("a.1")} > {last}
        assert len([entry async for entry in store.iter_scan()]) == 1500
        assert [update.version for update in await store.history("b")] == [first, second, deleted]
        old = await store.revision("b", first)
        assert old is not None
        assert old.value == b"1"
        entry = await store.get("a.1", min_version=last)
        assert entry is not None
        assert entry.version == last
        assert (await store.status()).last_revision == last.as_u64()
        await store.delete("a.1")
        assert await store.purge_deletes() >= 1
        await connection.delete_store(bucket)
        assert await connection.stores() == []
