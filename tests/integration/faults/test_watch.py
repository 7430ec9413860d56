"""Watches under the faults that other clients pass over in silence, each shown on a real server."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, Literal

import pytest

from slipstream.errors import CursorExpiredError
from slipstream.interfaces import KvStore, Watch
from slipstream.model import KvUpdate, StoreConfig
from slipstream.stores.nats import NatsConnection
from slipstream.stores.nats import feed as feed_module
from slipstream.stores.nats.api import JetStreamApi
from slipstream.stores.nats.consumer import PushConsumer
from slipstream.stores.nats.lane import Frame, OnFrames
from slipstream.stores.nats.opening import open_consumer
from slipstream.stores.nats.watcher import NatsWatch
from slipstream.testing._raw import Raw, raw_client
from slipstream.testing._waiting import (
    LIMIT,
    background,
    bounded,
    collect,
    collect_until,
    drain,
    eventually,
    ticks,
)
from slipstream.testing.checkers import Ledger, check_watch
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer

Connect = Callable[..., Awaitable[NatsConnection]]
MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]

QUICK = {"heartbeat": 0.2, "ping_interval": 0.3}  # to notice a dead consumer, and a dead path, sooner


async def put(store: KvStore, ledger: Ledger, key: str, value: bytes) -> int:
    """The revision of a write that the ledger knows of."""
    revision = (await store.put(key, value)).as_u64()
    assert revision is not None
    ledger.acknowledge(revision, key, value)
    return revision


@asynccontextmanager
async def writing(store: KvStore, ledger: Ledger, prefix: str, *, keys: int) -> AsyncIterator[None]:
    """Put values beside the block without a pause; every write comes to its end."""
    leaving = False

    async def write_on() -> None:
        number = 0
        while not leaving:
            number += 1
            await put(store, ledger, f"{prefix}{number % keys}", b"%d" % number)

    task = asyncio.create_task(write_on())
    try:
        yield
    finally:
        leaving = True
        async with bounded():
            await task


async def until(condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await eventually(holds)


@asynccontextmanager
async def counting_consumers(raw: Raw, bucket: str, counts: list[int]) -> AsyncIterator[None]:
    """Note beside the block, over and over, how many consumers the bucket has."""
    leaving = False

    async def count_on() -> None:
        while not leaving:  # a cancel may be swallowed in nats-py, by wait_for of Python 3.11
            counts.append(len(await raw.consumers(bucket)))

    task = asyncio.create_task(count_on())
    try:
        yield
    finally:
        leaving = True
        async with bounded():
            await task


async def heard_again(watch: Watch) -> None:
    """Return when the server has said something."""
    assert isinstance(watch, NatsWatch)
    assert watch._feed is not None
    feed, heard_at = watch._feed, watch._feed._heard_at
    await until(lambda: feed._heard_at > heard_at)


async def read_on(watch: Watch, into: list[KvUpdate]) -> None:
    async for update in watch:
        into.append(update)  # noqa: PERF401 - at once, not at the end


@asynccontextmanager
async def away(proxy: FaultProxy) -> AsyncIterator[None]:
    """The path is cut for as long as the block takes."""
    proxy.refuse()
    proxy.reset()
    try:
        yield
    finally:
        await proxy.heal()


class TestServerRestarts:
    @pytest.mark.parametrize("prefix", ["", "k."])
    @pytest.mark.parametrize("how", ["stopped", "killed"])
    async def test_back_within_two_seconds_of_the_server(
        self, connect: Connect, nats_server: NatsServer, bucket: str, how: str, prefix: str
    ) -> None:
        # By default a last attempt that came just too early is followed by a pause of up to 2 s, the whole bound.
        connection = await connect(nats_server.url, reconnect_max_wait=1.0)
        store = await connection.store(bucket)
        ledger, seen = Ledger(), list[KvUpdate]()
        for number in range(50):
            await put(store, ledger, f"k.{number % 10}", b"before %d" % number)
        async with store.watch(prefix) as watch, background(read_on(watch, seen)):
            async with bounded():
                await watch.wait_hydrated()
            await (nats_server.stop() if how == "stopped" else nats_server.kill())
            await asyncio.sleep(2)  # as long as the row of the table says
            await nats_server.start()
            # The row's own bound: for the watch to be set up again, and to deliver what is written from then on.
            async with asyncio.timeout(2):
                while watch.statistics().resumes == 0:  # noqa: ASYNC110 - nobody announces a resume
                    await asyncio.sleep(0.01)
                last = await put(store, ledger, "k.last", b"after")
                while watch.cursor.as_u64() != last:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            for number in range(50):
                last = await put(store, ledger, f"k.{number % 10}", b"after %d" % number)
            await until(lambda: watch.cursor.as_u64() == last)
        async with raw_client(nats_server.url) as raw:
            check_watch(seen, ledger, await raw.contents(bucket), prefix=prefix)
            await raw.no_consumers(bucket)


class TestQuietPrefix:
    async def test_a_cursor_that_heartbeats_moved_misses_nothing_under_heavy_writes(
        self, connect: Connect, raw: Raw, bucket: str
    ) -> None:
        store = await (await connect(heartbeat=0.1)).store(bucket)
        writers = [await (await connect()).store(bucket) for _ in range(2)]
        ledger, seen = Ledger(), list[KvUpdate]()
        await put(store, ledger, "quiet.first", b"1")
        quiet = 0
        async with AsyncExitStack() as stack:
            for number, writer in enumerate(writers):
                await stack.enter_async_context(writing(writer, ledger, f"loud.{number}.", keys=500))
            cursor = None
            for turn in range(6):
                async with store.watch("quiet.", cursor=cursor) as watch:
                    async with background(read_on(watch, seen)):
                        async with bounded():
                            await watch.wait_hydrated()
                        # Written while heartbeats of ever higher positions come.
                        for _ in range(20):
                            quiet += 1
                            await put(store, ledger, f"quiet.{quiet % 7}", b"%d" % quiet)
                            await ticks(random.randrange(200))
                        if turn % 2:
                            newest = max(ledger.acknowledged)
                            await until(lambda: (watch.cursor.as_u64() or 0) >= newest)  # noqa: B023 - awaited here
                    if turn % 2 == 0:
                        # Heartbeats pass what nobody has taken: the cursor may not.
                        await put(store, ledger, f"quiet.unread.{turn}", b"once")
                        for _ in range(3):
                            await heard_again(watch)
                    cursor = watch.cursor
                await put(store, ledger, f"quiet.unwatched.{turn}", b"once")
        last = await put(store, ledger, "quiet.end", b"end")
        async with store.watch("quiet.", cursor=cursor) as watch:
            seen += await collect_until(watch, lambda update: update.revision == last)
        # The loud keys are too many to be read one by one, and not watched.
        keys = {key for key, _ in ledger.acknowledged.values() if key.startswith("quiet.")}
        end = {key: record for key in keys if (record := await raw.last(bucket, key)) is not None}
        check_watch(seen, ledger, end, prefix="quiet.")


class TestLostOnTheWay:
    """A frame that was sent and did not arrive, on a connection that goes on: TCP does not, a bug may."""

    @pytest.mark.parametrize("prefix", ["", "k.", "k"])
    @pytest.mark.parametrize("evicts", [False, True])
    @pytest.mark.parametrize("which", ["one of many", "the last"])
    async def test_it_is_asked_for_again(
        self,
        connect: Connect,
        raw: Raw,
        bucket: str,
        monkeypatch: pytest.MonkeyPatch,
        prefix: str,
        evicts: bool,
        which: str,
    ) -> None:
        limits: dict[str, Any] = {"max_bytes": 8 * 1024 * 1024, "discard": "old"} if evicts else {}
        store = await (await connect(**QUICK)).store(StoreConfig(name=bucket, max_history=5, **limits))
        ledger, seen = Ledger(), list[KvUpdate]()
        opened = PushConsumer.open
        lossy = False
        lost: list[Frame] = []

        async def leaking(bucket: Any, on_frames: OnFrames, **options: Any) -> PushConsumer:
            def some(frames: list[Frame]) -> None:
                for frame in frames:
                    if lossy and not lost and b"lose me" in frame[3]:
                        lost.append(frame)
                    else:
                        on_frames([frame])

            return await opened(bucket, some, **options)

        monkeypatch.setattr(PushConsumer, "open", leaking)
        async with store.watch(prefix) as watch, background(read_on(watch, seen)):
            await put(store, ledger, "k.0", b"before")
            async with bounded():
                await watch.wait_hydrated()
            lossy = True
            await put(store, ledger, "k.1", b"lose me")
            last = max(ledger.acknowledged)
            if which == "one of many":
                for number in range(10):
                    last = await put(store, ledger, f"k.{number}", b"after")
            await until(lambda: watch.cursor.as_u64() == last)
            assert len(lost) == 1
            assert watch.statistics().resumes == 1
        assert [update.revision for update in seen] == sorted(ledger.acknowledged)
        check_watch(seen, ledger, await raw.contents(bucket), prefix=prefix)


class TestTold:
    """What cannot be delivered any more is said, with the reason."""

    @pytest.mark.parametrize("prefix", ["", "k."])
    @pytest.mark.parametrize("how", ["evicted", "purged"])
    @pytest.mark.parametrize("follower", ["running", "saved"])
    async def test_a_delete_marker_that_went_while_the_follower_was_away(
        self,
        connect: Connect,
        nats_server: NatsServer,
        fault_proxy: MakeProxy,
        bucket: str,
        how: Literal["evicted", "purged"],
        follower: str,
        prefix: str,
    ) -> None:
        limits: dict[str, Any] = {"max_bytes": 64 * 1024, "discard": "old"} if how == "evicted" else {}
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        store = await (await connect(proxy.url, **QUICK)).store(StoreConfig(name=bucket, **limits))
        other = await (await connect(nats_server.url)).store(bucket)
        await other.put("k.stale", b"1")
        await other.put("k.other", b"1")

        async def lose_the_marker() -> None:
            await other.delete("k.stale")
            await other.put("k.other", b"2")
            if how == "purged":
                assert await other.purge_deletes() == 1
            for number in range(40 if how == "evicted" else 0):
                await other.put(f"k.{number}", bytes(4096))

        async with AsyncExitStack() as stack:
            watch = await stack.enter_async_context(store.watch(prefix))
            assert [update.key for update in await collect(watch, 2)] == ["k.stale", "k.other"]
            async with bounded():
                await watch.wait_hydrated()
            saved = watch.cursor
            if follower == "running":
                async with away(proxy):
                    await lose_the_marker()
                with pytest.raises(CursorExpiredError) as caught:
                    await drain(watch)
            else:
                await watch.aclose()
                await lose_the_marker()
                with pytest.raises(CursorExpiredError) as caught:
                    async with bounded(), store.watch(prefix, cursor=saved):
                        pass
        assert caught.value.reason == "compacted"
        assert caught.value.cursor is not None
        assert caught.value.cursor.as_u64() == saved.as_u64()
        assert (caught.value.first_revision or 0) > (saved.as_u64() or 0) + 1

    async def test_a_mark_that_timed_out_between_two_disconnects(
        self,
        connect: Connect,
        nats_server: NatsServer,
        fault_proxy: MakeProxy,
        bucket: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if tuple(int(part) for part in nats_server.version().partition("-")[0].split(".")) < (2, 11, 2):
            return  # keys do not expire one by one there, and leave no mark
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        config = StoreConfig(name=bucket, marker_ttl=timedelta(seconds=2))
        store = await (await connect(proxy.url, **QUICK)).store(config)
        other = await (await connect(nats_server.url)).store(bucket)
        opened = open_consumer
        looks = asyncio.Event()

        async def cut_off_right_after(bucket: Any, options: Any, on_frames: OnFrames, **asked: Any) -> Any:
            # The bucket is looked at, and nothing that the new consumer sends arrives before the path is cut again.
            made = await opened(bucket, options, lambda frames: None, **asked)
            proxy.refuse()
            proxy.reset()
            monkeypatch.undo()
            looks.set()
            return made

        await other.put("a", b"1", ttl=1)
        await other.put("b", b"1")
        async with store.watch() as watch:
            await collect(watch, 2)
            async with bounded():
                await watch.wait_hydrated()
            proxy.refuse()
            proxy.reset()
            await self._last_revision(other, 3)  # the mark of the expiry of "a": for 2 s
            await asyncio.sleep(1)
            monkeypatch.setattr(feed_module, "open_consumer", cut_off_right_after)
            await proxy.heal()
            async with bounded():
                await looks.wait()
            await other.put("c", b"1")  # as many keys as before, once the mark has gone
            async with raw_client(nats_server.url) as raw:

                async def mark_is_gone() -> bool:
                    return await raw.last(bucket, "a") is None

                await eventually(mark_is_gone)
            await other.put("b", b"2")
            await proxy.heal()
            with pytest.raises(CursorExpiredError) as caught:
                await drain(watch)
            assert caught.value.reason == "compacted"
            assert watch.cursor.as_u64() == 2

    async def _last_revision(self, store: KvStore, revision: int) -> None:
        async def reached() -> bool:
            return (await store.status()).last_revision >= revision

        await eventually(reached)

    @pytest.mark.parametrize("prefix", ["", "k.", "quiet."])
    @pytest.mark.parametrize("writes", [0, 2, 3, 10])
    @pytest.mark.parametrize("follower", ["running", "saved"])
    async def test_a_bucket_made_again_while_the_follower_was_away(
        self,
        connect: Connect,
        nats_server: NatsServer,
        fault_proxy: MakeProxy,
        bucket: str,
        follower: str,
        writes: int,
        prefix: str,
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url, **QUICK)
        store = await connection.store(bucket)
        other = await connect(nats_server.url)
        await store.put_many([("k.1", b"1"), ("quiet.1", b"1"), ("k.2", b"1")])

        async def make_again() -> None:
            await other.delete_store(bucket)
            again = await other.store(bucket)
            for number in range(writes):  # fewer than the cursor has, as many, more
                await again.put(f"k.{number}", b"2")

        async with AsyncExitStack() as stack:
            watch = await stack.enter_async_context(store.watch(prefix))
            async with background(read_on(watch, [])):
                async with bounded():
                    await watch.wait_hydrated()
                await until(lambda: watch.cursor.as_u64() == 3)
            saved = watch.cursor
            if follower == "running":
                async with away(proxy):
                    await make_again()
                with pytest.raises(CursorExpiredError) as caught:
                    await drain(watch)
            else:
                await watch.aclose()
                await make_again()
                with pytest.raises(CursorExpiredError) as caught:
                    async with bounded(), store.watch(prefix, cursor=saved):
                        pass
        assert caught.value.reason == "recreated"
        assert caught.value.cursor == saved


class TestConsumers:
    async def test_they_say_whose_they_are(self, connect: Connect, raw: Raw, bucket: str) -> None:
        store = await (await connect(name="price feed/eu.west > *")).store(bucket)
        async with store.watch("k."):
            (name,) = await raw.consumers(bucket)
            answer = await raw.api(f"CONSUMER.INFO.KV_{bucket}.{name}")
        assert name.startswith("price-feed-eu-west-")
        assert f"-{os.getpid()}-watch-" in name
        metadata = answer["config"]["metadata"]
        assert {key: value for key, value in metadata.items() if key.startswith("slipstream.")} == {
            "slipstream.application": "price feed/eu.west > *",
            "slipstream.host": socket.gethostname(),
            "slipstream.pid": str(os.getpid()),
            "slipstream.purpose": "watch",
        }

    async def test_never_more_than_one_a_watch_at_any_moment_of_a_storm(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url, **QUICK)
        store = await connection.store(bucket)
        prefixes = ["", "k.", "l.", "m."]
        counts: list[int] = []
        async with AsyncExitStack() as stack:
            raw = await stack.enter_async_context(raw_client(nats_server.url))
            watches = [await stack.enter_async_context(store.watch(prefix)) for prefix in prefixes]
            await stack.enter_async_context(counting_consumers(raw, bucket, counts))
            for _ in range(20):
                before = [watch.statistics().resumes for watch in watches]
                await ticks(random.randrange(300))
                proxy.reset()
                await until(lambda: watches[0].statistics().resumes > before[0])  # noqa: B023 - awaited here
            async with asyncio.timeout(LIMIT):
                await until(connection.is_healthy)
            taken = len(counts)
            await until(lambda: len(counts) > taken + 20)
            assert counts[-1] == len(watches)
        assert max(counts) == len(watches)
        assert len(counts) > 100

    async def test_a_removal_that_takes_its_time_comes_before_the_next_consumer(
        self,
        connect: Connect,
        nats_server: NatsServer,
        fault_proxy: MakeProxy,
        bucket: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        store = await (await connect(proxy.url, **QUICK)).store(bucket)
        remove, counts = JetStreamApi.delete_consumer, list[int]()

        async def remove_late(api: JetStreamApi, stream: str, name: str) -> None:
            taken = len(counts)
            await until(lambda: len(counts) > taken + 5)  # enough to see a next consumer beside it
            await remove(api, stream, name)

        async with raw_client(nats_server.url) as raw, store.watch() as watch, counting_consumers(raw, bucket, counts):
            monkeypatch.setattr(JetStreamApi, "delete_consumer", remove_late)
            for turn in range(1, 4):
                proxy.reset()
                await until(lambda: watch.statistics().resumes >= turn)  # noqa: B023 - awaited here
            taken = len(counts)
            await until(lambda: len(counts) > taken + 10)
            assert counts[-1] == 1
        assert max(counts) == 1
