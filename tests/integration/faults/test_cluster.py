"""A bucket with three copies, while its leader is killed, paused and cut off, and while a copy lags behind."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest
import pytest_asyncio
from nats.errors import NoRespondersError

from slipstream import AlreadyExistsError, KvEntry, KvStore, StoreConfig, VersionToken
from slipstream.interfaces import Reads
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.stores.nats.store import NatsStore
from slipstream.testing._raw import Raw, raw_client
from slipstream.testing.checkers import Client, History, Ledger, Outcome, check_watch
from slipstream.testing.cluster import ClusterNode, NatsCluster, Placement
from tests.integration.faults.workload import Follower, new_bucket

NOTICED_SECONDS = 6  # what the row says
MOVED_SECONDS = 4.0  # two attempts at servers that take connections and say nothing
BACK_SECONDS = 2.0  # the row's bound, from the moment on when the bucket has a leader again
FAULT_SECONDS = 15.0
WRITERS = 4
LAG_SECONDS = 0.2
LAST = "z.last"
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

Open = Callable[[str], Awaitable[NatsConnection]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[NatsCluster]:
    async with NatsCluster() as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: NatsCluster) -> NatsCluster:
    """Whole again, whatever the test before has broken."""
    await running.restore()
    return running


@pytest_asyncio.fixture(loop_scope="module")
async def open_at() -> AsyncIterator[Open]:
    """`await open_at(url)`: a connection with the default timeout."""
    async with AsyncExitStack() as stack:

        async def make(url: str) -> NatsConnection:
            return await stack.enter_async_context(NatsConnection(NatsConnectionConfig(url=url)))  # type: ignore[arg-type]

        yield make


@pytest_asyncio.fixture(loop_scope="module")
async def bucket(cluster: NatsCluster, open_at: Open) -> str:
    """A new bucket with a copy on each node. It keeps what is overwritten: what was written twice would show."""
    name = f"test-{secrets.token_hex(8)}"
    await new_bucket(await open_at(cluster.url), StoreConfig(name=name, num_replicas=3, max_history=10))
    await cluster.in_sync(name)
    return name


async def write_on(client: Client, name: str, stop: asyncio.Event) -> None:
    """Put one key after the other until stopped; nothing may fail."""
    for number in itertools.count():
        await client.put(f"{name}.{number}", f"{name}-{number}".encode())
        with suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await stop.wait()
                return


async def led_again(raw: Raw, bucket: str) -> int:
    """The revision of the first raw put that is answered, asked for again and again."""
    while True:
        with suppress(TimeoutError, NoRespondersError):
            answer = json.loads((await raw.client.request(f"$KV.{bucket}.probe", b"probe", timeout=0.2)).data)
            if "error" not in answer:
                return int(answer["seq"])
        await asyncio.sleep(0.02)


async def left(connection: NatsConnection, node: ClusterNode) -> None:
    """Return once the node is not the one that operations go to."""
    while connection.is_healthy() and str(node.port) in where(connection):  # noqa: ASYNC110 - as below
        await asyncio.sleep(0.01)


async def away_from(connection: NatsConnection, node: ClusterNode) -> None:
    """Return once the connection is up at another node."""
    while not connection.is_healthy() or str(node.port) in where(connection):  # noqa: ASYNC110 - nobody announces it here
        await asyncio.sleep(0.02)


def where(connection: NatsConnection) -> str:
    assert connection._session is not None
    return connection._session.where


def stored_once(history: History, stream: dict[int, tuple[str, bytes]]) -> None:
    """Every put was acknowledged and is there, once, at its revision."""
    at = {change: [number for number in stream if stream[number] == change] for change in stream.values()}
    for action in history.actions:
        assert action.outcome is Outcome.DONE, str(action)
        assert at.get((action.key, action.value)) == [action.revision], str(action)


class TestLeaderKilled:
    @pytest.mark.slow
    @pytest.mark.parametrize("home", ["leader", "follower"])
    async def test_every_put_succeeds_once_and_the_watch_is_back(
        self, cluster: NatsCluster, open_at: Open, bucket: str, home: str
    ) -> None:
        placement = await cluster.placement(bucket)
        leader, (other, third) = placement.leader, placement.followers
        store = await (await open_at(leader.url if home == "leader" else other.url)).store(bucket)
        elsewhere = await (await open_at(third.url)).store(bucket)
        history, follower, stop = History(), Follower(store), asyncio.Event()
        async with asyncio.timeout(100), raw_client(third.url) as raw, asyncio.TaskGroup() as tasks:
            tasks.create_task(follower.run())
            await follower.ready.wait()
            writers = []
            for number in range(WRITERS):
                client = history.client(store if number % 2 else elsewhere, f"w{number}")
                writers.append(tasks.create_task(write_on(client, f"w{number}", stop)))
            await follower.reached(20)
            await leader.kill()
            await led_again(raw, bucket)
            await cluster.meta_leader()  # which makes consumers; it may have been the same node
            back = await led_again(raw, bucket)
            async with asyncio.timeout(BACK_SECONDS):
                await follower.reached(back)
            await follower.reached(back + 20 * WRITERS)
            stop.set()
            await asyncio.gather(*writers)
            await leader.start()
            await cluster.ready()
            await cluster.in_sync(bucket)
            stream, end = await raw.stream(bucket), await raw.contents(bucket)
            await store.put(LAST, b"now")
        assert len(history.actions) > WRITERS * 10
        stored_once(history, stream)
        ledger = Ledger.of(history.actions)
        for key, value in stream.values():
            if key == "probe":
                ledger.allow(key, value)
        check_watch(follower.updates, ledger, end)


def paused(cluster: NatsCluster, node: ClusterNode) -> Callable[[], Awaitable[None]]:
    node.pause()

    async def resume() -> None:
        node.resume()

    return resume


def cut_off(cluster: NatsCluster, node: ClusterNode) -> Callable[[], Awaitable[None]]:
    cluster.isolate(node)
    return cluster.heal


class TestLeaderGoneForAWhile:
    @pytest.mark.slow
    @pytest.mark.parametrize("fault", [paused, cut_off])
    async def test_the_client_moves_on_and_nothing_stale_lands(
        self,
        cluster: NatsCluster,
        open_at: Open,
        bucket: str,
        fault: Callable[[NatsCluster, ClusterNode], Callable[[], Awaitable[None]]],
    ) -> None:
        placement = await cluster.placement(bucket)
        leader = placement.leader
        connection = await open_at(leader.url)
        store, elsewhere = (
            await connection.store(bucket),
            await (await open_at(placement.followers[0].url)).store(bucket),
        )
        assert str(leader.port) in where(connection)
        history, follower, stop = History(), Follower(store), asyncio.Event()
        async with asyncio.timeout(100), raw_client(placement.followers[1].url) as raw, asyncio.TaskGroup() as tasks:
            tasks.create_task(follower.run())
            await follower.ready.wait()
            writers = [
                tasks.create_task(write_on(history.client(store, f"w{number}"), f"w{number}", stop))
                for number in range(WRITERS)
            ]
            await follower.reached(20)
            over = fault(cluster, leader)
            began = asyncio.get_running_loop().time()
            in_flight = tasks.create_task(history.client(store, "in flight").put("contested", b"older"))
            async with asyncio.timeout(NOTICED_SECONDS):
                await left(connection, leader)
            async with asyncio.timeout(MOVED_SECONDS):
                await away_from(connection, leader)
            await in_flight
            newer = await history.client(elsewhere, "elsewhere").put("contested", b"newer")
            await follower.reached(newer.as_u64() or 0)  # while the fault lasts
            await asyncio.sleep(began + FAULT_SECONDS - asyncio.get_running_loop().time())  # the fault's length
            await over()
            await cluster.ready()
            await cluster.in_sync(bucket)
            stop.set()
            await asyncio.gather(*writers)
            stream, end = await raw.stream(bucket), await raw.contents(bucket)
            assert await raw.last(bucket, "contested") == (newer.as_u64(), b"newer")
            await store.put(LAST, b"now")
        assert len(history.actions) > WRITERS * 10
        stored_once(history, stream)
        check_watch(follower.updates, Ledger.of(history.actions), end)


async def many(read: Callable[[], Awaitable[KvEntry | None]]) -> list[KvEntry | None]:
    """At once: a direct get is answered by any copy, one in three of them is the one that lags."""
    return list(await asyncio.gather(*(read() for _ in range(12))))


async def expect_at_least(store: KvStore, version: VersionToken) -> None:
    for entry in await many(lambda: store.get("key", min_version=version)):
        assert entry is not None
        assert entry.version == version


class TestLaggingReplica:
    """The leader's writes reach one follower late, and a client is connected to that one. Others make the majority."""

    @pytest_asyncio.fixture(loop_scope="module")
    async def lagging(self, cluster: NatsCluster, bucket: str) -> Placement:
        """The leader, and the followers: first the one that lags."""
        placement = await cluster.placement(bucket)
        slow = placement.followers[0]
        cluster.delay(placement.leader, slow, LAG_SECONDS)
        return placement

    @pytest_asyncio.fixture(loop_scope="module")
    async def at_leader(self, lagging: Placement, open_at: Open, bucket: str) -> KvStore:
        return await (await open_at(lagging.leader.url)).store(bucket)

    async def at_slow(self, lagging: Placement, open_at: Open, bucket: str, reads: Reads | None = None) -> KvStore:
        connection = await open_at(lagging.followers[0].url)
        assert str(lagging.followers[0].port) in where(connection)
        return await connection.store(bucket, reads=reads)

    async def test_default_reads_are_not_older_than_what_was_acknowledged(
        self, lagging: Placement, at_leader: KvStore, open_at: Open, bucket: str
    ) -> None:
        leader_reads = await self.at_slow(lagging, open_at, bucket)
        any_reads = await self.at_slow(lagging, open_at, bucket, "any")
        stale = 0
        for number in range(4):
            version = await at_leader.put("key", b"%d" % number)
            stale += sum(old is None or old.version != version for old in await many(lambda: any_reads.get("key")))
            version = await at_leader.put("key", b"%d" % number)
            fresh = await many(lambda: leader_reads.get("key"))
            fresh += [await leader_reads.entry("key"), (await leader_reads.get_many(["key", "other"]))["key"]]
            for entry in fresh:
                assert entry is not None
                assert (entry.version, entry.value) == (version, b"%d" % number)
        assert stale, "the replica did not lag: this test would show nothing"

    async def test_listings_are_not_older_than_what_was_acknowledged(
        self, lagging: Placement, at_leader: KvStore, open_at: Open, bucket: str
    ) -> None:
        store = await self.at_slow(lagging, open_at, bucket)
        for number in range(2):
            await at_leader.put(f"key.{number}", b"value")
            assert await store.keys("key.") == [f"key.{each}" for each in range(number + 1)]
            version = await at_leader.put("key.0", b"newer")
            assert (await store.scan("key."))[0].version == version

    async def test_a_deleted_key_can_be_created(
        self, lagging: Placement, at_leader: KvStore, open_at: Open, bucket: str
    ) -> None:
        store = await self.at_slow(lagging, open_at, bucket)
        for number in range(2):
            await at_leader.create("key", b"theirs")
            with pytest.raises(AlreadyExistsError):
                await store.create("key", b"ours")
            await at_leader.delete("key")
            await store.create("key", b"%d" % number)
            await at_leader.delete("key")

    async def test_a_session_reads_its_own_writes(
        self, lagging: Placement, at_leader: KvStore, open_at: Open, bucket: str
    ) -> None:
        store = await self.at_slow(lagging, open_at, bucket, "session")
        assert isinstance(store, NatsStore)
        for number in range(3):
            version = await store.put("key", b"%d" % number)
            for entry in await many(lambda: store.get("key")):
                assert entry is not None
                assert entry.version == version
            # As a write of this handle from before its connection moved here: the answer to one that is made here
            # takes as long as the write takes to this copy.
            version = await at_leader.put("key", b"moved")
            store._bucket.own_writes["key"] = version.as_u64() or 0
            for entry in await many(lambda: store.get("key")):
                assert entry is not None
                assert entry.version == version

    async def test_a_version_from_elsewhere_is_waited_for(
        self, lagging: Placement, at_leader: KvStore, open_at: Open, bucket: str
    ) -> None:
        for reads in ("session", "any"):
            store = await self.at_slow(lagging, open_at, bucket, reads)
            for number in range(2):
                version = await at_leader.put("key", b"%s-%d" % (reads.encode(), number))
                await expect_at_least(store, version)
