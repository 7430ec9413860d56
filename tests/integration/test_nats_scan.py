"""Scans on a real server: complete under writers, cheap, through trouble, and gone without a trace.

Run as a script, this file is the writer that never pauses: `test_nats_scan.py <url> <bucket> <seed>`.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Literal, cast

import nats
import pytest

from slipstream.errors import OperationTimeoutError
from slipstream.interfaces import KvStore
from slipstream.model import KvEntry, KvUpdate, Operation, StoreConfig, VersionToken
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig, scan
from slipstream.stores.nats.bucket import Bucket
from slipstream.stores.nats.store import NatsStore
from slipstream.testing._raw import Holdings, Raw, raw_client
from slipstream.testing._waiting import background, bounded, cancelled_after, eventually
from slipstream.testing.proxy import Direction, FaultProxy
from slipstream.testing.server import NatsServer

Connect = Callable[..., Awaitable[NatsConnection]]
MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]

# Loop turns after which to cancel: each early one, then ever wider apart, past all round trips of a scan.
TICKS = [*range(61), 75, 100, 140, 200, 300, 450, 700, 1000, 1500, 2000]

KEYS = 5000
STEADY = [f"steady.{number}" for number in range(3800)]
BUSY = [f"busy.{number}" for number in range(600)]
FLEETING = [f"fleeting.{number}" for number in range(600)]
ROUNDS = 300


async def fill(store: KvStore, keys: Iterable[str], value: bytes = b"value") -> None:
    await store.put_many(dict.fromkeys(keys, value))


async def churn(store: KvStore, seed: int, started: asyncio.Event | None = None) -> None:
    """Overwrite the busy keys, make, delete and purge the fleeting ones, without a pause and without an end."""
    chance = random.Random(seed)
    while True:
        await store.put(chance.choice(BUSY), b"%d" % chance.getrandbits(32))
        fleeting = chance.choice(FLEETING)
        await chance.choice((store.delete, store.purge))(fleeting)
        await store.put(chance.choice(FLEETING), b"here")
        if started is not None:
            started.set()


async def churn_by_itself(url: str, bucket: str, seed: int) -> None:
    async with NatsConnection(NatsConnectionConfig(url=url)) as connection:  # type: ignore[arg-type]
        started = asyncio.Event()
        writing = asyncio.create_task(churn(await connection.store(bucket), seed, started))
        await started.wait()
        print("writing", flush=True)
        await writing


@asynccontextmanager
async def other_process(url: str, bucket: str, seed: int) -> AsyncIterator[None]:
    """A writer that no scan of ours holds up."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, url, bucket, str(seed), stdin=subprocess.DEVNULL, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        async with bounded():
            assert await process.stdout.readline() == b"writing\n"
        yield
        assert process.returncode is None, "the writer ended by itself"
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def four_writers(connect: Connect, url: str, bucket: str) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for seed in range(2):
            await stack.enter_async_context(other_process(url, bucket, seed))
        store = await (await connect(url)).store(bucket)
        for seed in range(2, 4):
            started = asyncio.Event()
            await stack.enter_async_context(background(churn(store, seed, started)))
            async with bounded():
                await started.wait()
        yield


class TestCompleteness:
    @pytest.mark.slow
    @pytest.mark.timeout(900)
    async def test_every_round_over_a_settled_bucket_returns_it_whole(self, connect: Connect, bucket: str) -> None:
        store = await (await connect()).store(bucket)
        expected = sorted(f"k.{number}" for number in range(KEYS))
        await fill(store, expected)
        for turn in range(ROUNDS):
            found = await store.keys() if turn % 2 else [entry.key for entry in await store.scan()]
            assert found == expected, f"round {turn}"

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    async def test_every_round_under_writers_holds_each_living_key_once(
        self, connect: Connect, bucket: str, nats_server: NatsServer
    ) -> None:
        store = await (await connect(nats_server.url)).store(bucket)
        await fill(store, [*STEADY, *BUSY, *FLEETING])
        living, known = {*STEADY, *BUSY}, {*STEADY, *BUSY, *FLEETING}
        async with four_writers(connect, nats_server.url, bucket):
            for turn in range(ROUNDS):
                found = await store.keys() if turn % 2 else [entry.key for entry in await store.scan()]
                assert found == sorted(set(found)), f"round {turn}"
                assert living <= set(found) <= known, f"round {turn}: {living - set(found)}"

    async def test_a_few_rounds_under_writers(self, connect: Connect, bucket: str, nats_server: NatsServer) -> None:
        store = await (await connect(nats_server.url)).store(bucket)
        await fill(store, [*STEADY, *BUSY, *FLEETING])
        living = {*STEADY, *BUSY}
        async with four_writers(connect, nats_server.url, bucket):
            for _ in range(5):
                assert living <= set(await store.keys())
                entries = {entry.key: entry for entry in await store.scan()}
                assert living <= set(entries)
                assert {entries[key].value for key in STEADY} == {b"value"}
                seen = [entry.key async for entry in store.iter_scan("steady.")]
                assert sorted(seen) == sorted(STEADY)

    @pytest.mark.parametrize("history", [1, 5])
    async def test_a_scan_whose_every_proof_fails_falls_back_to_the_list_of_keys(
        self, connect: Connect, bucket: str, monkeypatch: pytest.MonkeyPatch, history: int
    ) -> None:
        store = await (await connect()).store(StoreConfig(name=bucket, max_history=history))
        await fill(store, [*STEADY[:300], *BUSY])
        completed: list[str] = []
        add_missing = scan.add_missing

        async def counted(bucket: Bucket, prefix: str, found: dict[str, KvUpdate]) -> None:
            completed.append(prefix)
            await add_missing(bucket, prefix, found)

        monkeypatch.setattr(scan, "TAIL_READS", 1)
        monkeypatch.setattr(scan, "add_missing", counted)
        writers = [(await (await connect()).store(bucket)) for _ in range(2)]
        async with AsyncExitStack() as stack:
            for seed, writer in enumerate(writers):
                await stack.enter_async_context(background(churn(writer, seed)))
            async with bounded():
                while len(completed) < 3:
                    assert {*STEADY[:300], *BUSY} <= {entry.key for entry in await store.scan()}
                    assert {*STEADY[:300], *BUSY} <= set(await store.keys())
                    assert set(await store.keys("steady.1")) == {
                        key for key in STEADY[:300] if key.startswith("steady.1")
                    }

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    async def test_the_fallback_adds_exactly_what_is_missing(self, connect: Connect, bucket: str, share: float) -> None:
        store = await (await connect()).store(bucket)
        keys = [f"k.{number}" for number in range(400)]
        await fill(store, keys)
        await store.delete("k.1")
        await store.purge("k.2")
        await store.put("k.3", b"")
        await fill(store, ["l.1", "k"])
        assert isinstance(store, NatsStore)
        whole = await scan.last_updates(store._bucket, "k.")
        found = dict(random.sample(list(whole.items()), int(len(whole) * share)))
        seen_before = set(found)
        await scan.add_missing(store._bucket, "k.", found)
        assert set(found) == set(keys)
        assert {key for key, update in found.items() if update.operation is not Operation.PUT} == {"k.1", "k.2", "k.3"}
        for key in keys:
            if key in seen_before:
                assert found[key] is whole[key], "what was found is left as it is"
            # `created` comes from two places that cut its nanoseconds alike.
            assert found[key] == whole[key]
        some: dict[str, KvUpdate] = {}
        await scan.add_missing(store._bucket, "k.1", some)
        assert set(some) == {key for key in keys if key.startswith("k.1")}


class TestCost:
    async def test_a_listing_of_keys_does_not_fetch_the_values(self, nats_url: str, bucket: str) -> None:
        client = await nats.connect(nats_url)
        try:
            async with NatsConnection.from_client(client) as connection:
                store = await connection.store(bucket)
                keys = sorted(f"k.{number}" for number in range(8))
                for key in keys:
                    await store.put(key, bytes(1_000_000))
                before = client.stats["in_bytes"]
                assert await store.keys() == keys
                assert await store.keys("k.") == keys
                # Of the 16 MB, a proof that came too early fetches one value; on a busy machine it may.
                assert client.stats["in_bytes"] - before < 5_000_000
                assert sum(len(entry.value) for entry in await store.scan()) == 8_000_000
        finally:
            await client.close()


class TestNothingIsLeftBehind:
    async def test_after_a_scan(self, connect: Connect, raw: Raw, bucket: str) -> None:
        connection = await connect()
        store = await connection.store(bucket)
        await fill(store, ["a", "b"])
        holdings = Holdings(connection)
        for _ in range(3):
            await store.keys()
            assert await raw.consumers(bucket) == []
            await store.scan()
            assert await raw.consumers(bucket) == []
            await store.history("a")
            assert await raw.consumers(bucket) == []
        await holdings.no_more()

    @pytest.mark.parametrize("listing", ["keys", "scan", "iter_scan", "history"])
    async def test_after_one_that_was_cancelled_at_any_moment(
        self, connect: Connect, raw: Raw, bucket: str, listing: str
    ) -> None:
        connection = await connect()
        store = await connection.store(bucket)
        await fill(store, [f"k.{number}" for number in range(300)])
        holdings = Holdings(connection)

        async def work() -> None:
            match listing:
                case "keys":
                    await store.keys()
                case "scan":
                    await store.scan()
                case "iter_scan":
                    async with aclosing(cast("AsyncGenerator[KvEntry]", store.iter_scan())) as entries:
                        async for _ in entries:
                            pass
                case _:
                    await store.history("k.1")

        cancelled = [(await cancelled_after(count, work())).cancelled() for count in TICKS]
        assert cancelled[0]
        await work()
        await raw.no_consumers(bucket)
        await holdings.no_more()
        assert len(await store.keys()) == 300

    async def test_after_an_iteration_that_was_left_early(self, connect: Connect, raw: Raw, bucket: str) -> None:
        connection = await connect()
        store = await connection.store(bucket)
        await fill(store, [f"k.{number}" for number in range(2000)], bytes(2000))  # more than is sent ahead
        holdings = Holdings(connection)
        for _ in range(5):
            async with aclosing(cast("AsyncGenerator[KvEntry]", store.iter_scan())) as entries:
                await anext(entries)
                assert len(await raw.consumers(bucket)) == 1
            assert await raw.consumers(bucket) == []
        await holdings.no_more()

    @pytest.mark.parametrize("ping_interval", [0.2, 30.0], ids=["noticed", "unnoticed"])
    @pytest.mark.parametrize("direction", ["both", "to_client", "to_server"])
    async def test_after_one_that_timed_out_on_a_dead_path_once_that_is_healed(
        self,
        connect: Connect,
        nats_server: NatsServer,
        fault_proxy: MakeProxy,
        bucket: str,
        direction: Direction | Literal["both"],
        ping_interval: float,
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url, op_timeout=1.5, ping_interval=ping_interval)
        store = await connection.store(bucket)
        await fill(store, [f"k.{number}" for number in range(300)])
        async with raw_client(nats_server.url) as raw:
            proxy.latency(0.1)  # long enough to be caught in the middle
            scanning = asyncio.create_task(store.scan())

            async def under_way() -> bool:
                return bool(await raw.consumers(bucket))

            await eventually(under_way)
            proxy.black_hole(direction)
            async with bounded():
                with pytest.raises(OperationTimeoutError):
                    await scanning
            await proxy.heal()
            await raw.no_consumers(bucket)
        async with bounded():
            assert len(await store.keys()) == 300


class TestTrouble:
    async def test_every_read_on_a_dead_path_ends_in_time(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url, op_timeout=1.0, ping_interval=30.0)
        store = await connection.store(bucket)
        keys = [f"k.{number}" for number in range(KEYS)]
        direct = await (await connect(nats_server.url)).store(bucket)
        version = (await direct.put_many([(key, b"1") for key in keys]))[0]
        proxy.black_hole()

        async def iterate() -> None:
            async for _ in store.iter_scan():
                pass

        async def enter() -> None:
            async with store.watch():
                pass

        reads: list[Awaitable[object]] = [
            store.get("k.1"),
            store.get("k.1", min_version=version),
            store.entry("k.1"),
            store.get_many(keys),
            store.keys(),
            store.scan("k."),
            iterate(),
            store.history("k.1"),
            store.revision("k.0", version),
            store.status(),
            connection.stores(),
            enter(),
        ]
        async with bounded():
            outcomes = await asyncio.gather(*reads, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [OperationTimeoutError] * len(reads)
        await proxy.heal()

    async def test_a_scan_through_a_reset_is_whole_or_says_that_it_is_not(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        store = await (await connect(proxy.url)).store(bucket)
        expected = sorted(f"k.{number}" for number in range(3000))
        await fill(store, expected)
        whole = 0
        for _ in range(10):
            async with aclosing(cast("AsyncGenerator[KvEntry]", store.iter_scan())) as entries:
                seen = []
                async for entry in entries:
                    seen.append(entry.key)
                    if len(seen) == 100:
                        proxy.reset()
            assert sorted(seen) == expected
            scanning = asyncio.create_task(store.scan())
            for _ in range(random.randrange(200)):
                await asyncio.sleep(0)
            proxy.reset()
            whole += await self._is_whole(scanning, expected)
        assert whole, "none came to its end"

    async def test_a_scan_over_a_path_that_is_cut_anywhere_is_whole_or_says_that_it_is_not(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        store = await (await connect(proxy.url)).store(bucket)
        expected = sorted(f"k.{number}" for number in range(2000))
        await fill(store, expected)
        size = 2000 * 150
        whole = cuts = 0
        for turn in range(20):
            cut = proxy.cut_after(random.randrange(1, size), "to_client")
            work = store.keys() if turn % 2 else self._keys_of(store)
            whole += await self._is_whole(asyncio.create_task(work), expected)
            cuts += cut.is_set()
            await proxy.heal()
        assert cuts >= 10
        assert whole, "none came to its end"

    @staticmethod
    async def _keys_of(store: KvStore) -> list[str]:
        return [entry.key for entry in await store.scan()]

    @staticmethod
    async def _is_whole(scanning: asyncio.Task[list[str]] | asyncio.Task[list[KvEntry]], expected: list[str]) -> bool:
        try:
            found = await scanning
        except OperationTimeoutError:
            return False
        assert [entry if isinstance(entry, str) else entry.key for entry in found] == expected
        return True

    async def test_a_scan_over_a_bucket_that_was_made_again_meanwhile_is_of_the_new_one(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        store = await (await connect(proxy.url)).store(bucket)
        await fill(store, [f"old.{number}" for number in range(300)])
        other = await connect(nats_server.url)
        async with raw_client(nats_server.url) as raw:
            proxy.latency(0.1)
            scanning = asyncio.create_task(store.keys())

            async def under_way() -> bool:
                return bool(await raw.consumers(bucket))

            await eventually(under_way)
            proxy.black_hole("to_client")
            await other.delete_store(bucket)
            await fill(await other.store(bucket), ["new.1", "new.2"])
            await proxy.heal()
            async with bounded():
                assert await scanning == ["new.1", "new.2"]


class TestSingleRecords:
    async def test_history_revision_and_get_many_on_a_large_bucket(self, connect: Connect, bucket: str) -> None:
        store = await (await connect()).store(StoreConfig(name=bucket, max_history=5))
        keys = [f"k.{number}" for number in range(KEYS)]
        first = await store.put_many([(key, key.encode()) for key in keys])
        second = await store.put_many([(key, b"2") for key in keys[:50]])
        for key in keys[:10]:
            await store.delete(key)

        got = await store.get_many([*keys, "absent", keys[20]])
        assert list(got) == keys[10:]
        assert got["k.4999"].value == b"k.4999"
        assert got["k.20"].version == second[20]

        history = await store.history("k.3")
        assert [(update.operation, update.value) for update in history] == [
            (Operation.PUT, b"k.3"),
            (Operation.PUT, b"2"),
            (Operation.DELETE, b""),
        ]
        assert [update.version for update in history[:2]] == [first[3], second[3]]
        assert await store.history("absent") == []

        old = await store.revision("k.20", first[20])
        assert old is not None
        assert (old.value, old.version) == (b"k.20", first[20])
        assert await store.revision("k.21", first[20]) is None
        assert await store.revision("k.20", VersionToken.from_u64(10**9)) is None


class TestBucketsOfOthers:
    async def test_one_without_direct_get(self, connect: Connect, raw: Raw, bucket: str) -> None:
        answer = await raw.api(
            f"STREAM.CREATE.KV_{bucket}",
            {
                "name": f"KV_{bucket}",
                "subjects": [f"$KV.{bucket}.>"],
                "max_msgs_per_subject": 1,
                "allow_rollup_hdrs": True,
                "deny_delete": True,
                "allow_direct": False,
                "discard": "new",
            },
        )
        assert not answer["config"].get("allow_direct")
        store = await (await connect()).store(bucket)
        version = await store.put("a", b"1")
        assert await store.get("absent") is None
        entry = await store.get("a")
        assert entry is not None
        assert (entry.value, entry.version) == (b"1", version)
        assert await store.get("a", min_version=version) == entry
        assert await store.entry("a") == entry
        assert await store.get_many(["a", "absent"]) == {"a": entry}
        assert await store.keys() == ["a"]
        assert await store.scan() == [entry]
        assert [update.value for update in await store.history("a")] == [b"1"]
        await store.create("b", b"2")
        await store.delete("a")
        assert await store.get("a") is None
        assert await store.keys() == ["b"]

    async def test_one_of_nats_py(self, connect: Connect, raw: Raw, bucket: str) -> None:
        theirs = await raw.client.jetstream().create_key_value(bucket=bucket, history=5)
        for number in range(1500):
            await theirs.put(f"k.{number % 300}", b"%d" % number)
        await theirs.delete("k.0")
        await theirs.purge("k.1")
        store = await (await connect()).store(bucket)
        assert await store.keys() == sorted(f"k.{number}" for number in range(2, 300))
        entries = {entry.key: entry.value for entry in await store.scan("k.")}
        assert entries == {f"k.{number}": b"%d" % (1200 + number) for number in range(2, 300)}
        assert [update.value for update in await store.history("k.7")] == [b"%d" % n for n in range(7, 1500, 300)]
        assert [update.operation for update in await store.history("k.1")] == [Operation.PURGE]
        assert (await store.history("k.0"))[-1].operation is Operation.DELETE
        entry = await store.get("k.9")
        assert entry is not None
        await store.update("k.9", b"ours", entry.version)
        assert (await theirs.get("k.9")).value == b"ours"
        await store.create("k.0", b"again")
        assert (await theirs.get("k.0")).value == b"again"
        async with store.watch("k.1") as watch:
            update = await anext(watch)
            assert update.key.startswith("k.1")


if __name__ == "__main__":
    asyncio.run(churn_by_itself(sys.argv[1], sys.argv[2], int(sys.argv[3])))
