"""Ten thousand cancels at random awaits of every kind of operation, and then a look at what is left.

Each operation is cancelled after a random number of turns of the event loop, or after a random moment of real time,
so that a cancel meets what waits for the server as well as what does not wait at all; one in four is cancelled again
while it cleans up. Counted are what this process holds, and what the server holds for it, in the server's own words.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from slipstream.errors import ConflictError, StoreNotFoundError
from slipstream.interfaces import KvStore, Transaction
from slipstream.model import VersionToken, WatchCursor
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.stores.nats.data_lane import DataLane
from slipstream.stores.nats.slow_lane import SlowLane
from slipstream.testing._raw import Raw, raw_client
from slipstream.testing._waiting import LIMIT, bounded, eventually, ticks
from slipstream.testing.server import NatsServer

AT_ONCE = 16
TURNS = 60
"""Of the event loop, at most, before a cancel: past all that an operation does before it first waits."""
DELAYS = (0.0002, 0.002, 0.02)
"""Seconds, mean: an answer under way, several, and whatever has begun to wait for good."""
KEYS = [f"k.{number}" for number in range(40)]
NAME = "storm"

Work = Callable[[], Awaitable[object]]


class Operations:
    """Every kind of operation, each as often as one likes. Conflicts with each other are no failures."""

    def __init__(self, connection: NatsConnection, store: KvStore, chance: random.Random) -> None:
        self._connection = connection
        self._store = store
        self._chance = chance
        self.kinds: dict[str, Work] = {
            "get": lambda: store.get(self._key()),
            "entry": lambda: store.entry(self._key()),
            "get of a version to come": lambda: store.get("fixed", min_version=VersionToken.from_u64(10**9)),
            "get_many": lambda: store.get_many(KEYS),
            "keys": lambda: store.keys("k."),
            "scan": lambda: store.scan("k."),
            "iter_scan": self._iter_scan,
            "iter_scan left early": self._iter_scan_left_early,
            "history": lambda: store.history(self._key()),
            "revision": lambda: store.revision("fixed", VersionToken.from_u64(1)),
            "put": lambda: store.put(self._key(), b"put"),
            "put_many": lambda: store.put_many([(key, b"put_many") for key in KEYS]),
            "create": lambda: store.create(self._key(), b"create"),
            "update": self._update,
            "delete": lambda: store.delete(self._key()),
            "purge": lambda: store.purge(self._key()),
            "purge_deletes": lambda: store.purge_deletes(),
            "status": lambda: store.status(),
            "store": lambda: connection.store(store.name),
            "stores": lambda: connection.stores(),
            "a store made and deleted": self._make_and_delete_store,
            "watch entered and left": self._enter_watch,
            "watch read": self._read_watch,
            "watch of prefixes after a cursor": self._resume_watch,
            "watch in batches": self._read_batches,
            "wait_hydrated": self._wait_hydrated,
            "watch left": self._leave_watch,
        }
        if connection.capabilities.transactions:
            self.kinds |= {"transaction": self._transact, "atomically": lambda: store.atomically(self._increment)}
        if connection.capabilities.fencing:
            self.kinds["fenced put"] = self._put_fenced
        # What makes no consumer, whose removal goes on in the background until the server has answered.
        listing = ("keys", "scan", "history", "watch", "wait_hydrated", "purge_deletes")
        self.one_answer = [kind for kind in self.kinds if not any(word in kind for word in listing)]

    def _key(self) -> str:
        return self._chance.choice(KEYS)

    async def _iter_scan(self) -> None:
        async with aclosing(_generator(self._store)) as entries:
            async for _ in entries:
                await asyncio.sleep(0)

    async def _iter_scan_left_early(self) -> None:
        async with aclosing(_generator(self._store)) as entries:
            async for _ in entries:
                return

    async def _update(self) -> None:
        key = self._key()
        entry = await self._store.entry(key)
        if entry is not None:
            await self._store.update(key, b"update", entry.version)

    async def _make_and_delete_store(self) -> None:
        name = f"{NAME}-{self._chance.randrange(3)}"
        with suppress(StoreNotFoundError):  # deleted by another one meanwhile
            await self._connection.store(name)
            await self._connection.delete_store(name)

    async def _enter_watch(self) -> None:
        async with self._store.watch():
            pass

    async def _read_watch(self) -> None:
        async with self._store.watch() as watch:
            async for _ in watch:
                await asyncio.sleep(0)

    async def _resume_watch(self) -> None:
        cursor = WatchCursor.from_u64((await self._store.status()).last_revision)
        async with self._store.watch(["k.1", "k.2", "k.30"], cursor=cursor) as watch:
            async for _ in watch:
                pass

    async def _read_batches(self) -> None:
        async with self._store.watch("k.") as watch:
            async for _ in watch.batches(max_items=5, max_wait=0.001):
                pass

    async def _wait_hydrated(self) -> None:
        async with self._store.watch(self._chance.choice(["", "nothing."])) as watch:
            await watch.wait_hydrated()

    async def _leave_watch(self) -> None:
        async with self._store.watch() as watch:
            await anext(watch)
            await watch.aclose()

    async def _transact(self) -> None:
        async with self._store.transaction() as txn:
            await self._increment(txn)

    async def _increment(self, txn: Transaction) -> None:
        first, second = self._chance.sample(KEYS, 2)
        await txn.get(first)
        txn.put(first, b"transaction")
        txn.put(second, b"transaction")

    async def _put_fenced(self) -> None:
        fence = await self._store.entry("fixed")
        assert fence is not None
        await self._store.fenced("fixed", fence.version).put(self._key(), b"fenced")


def _generator(store: KvStore) -> Any:
    return store.iter_scan("k.")


class Storm:
    """Starts operations and cancels them, several at once; counts what was really cancelled, by kind."""

    def __init__(self, kinds: dict[str, Work], chance: random.Random) -> None:
        self._kinds = kinds
        self._chance = chance
        self.cancelled: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()

    async def rage(self, cancels: int, *, at_once: int = AT_ONCE) -> None:
        """Until there were so many cancels."""
        ends_at = self.cancelled.total() + cancels

        async def work() -> None:
            while self.cancelled.total() < ends_at:
                await self._cancel_one(self._chance.choice(list(self._kinds)))

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())

    async def _cancel_one(self, kind: str) -> None:
        task = asyncio.ensure_future(_run(self._kinds[kind]))
        await self._moment()
        cancelled = task.cancel()
        if self._chance.random() < 0.25:
            await ticks(self._chance.randrange(5))
            cancelled = task.cancel() or cancelled
        done, _ = await asyncio.wait({task}, timeout=LIMIT)
        assert done, f"{kind} still runs {LIMIT} s after it was cancelled: {task}"
        if cancelled:
            assert task.cancelled(), f"{kind} swallowed its cancel: {task}"
            self.cancelled[kind] += 1
        else:
            task.result()
            self.finished[kind] += 1

    async def _moment(self) -> None:
        if self._chance.random() < 0.5:
            await ticks(self._chance.randrange(TURNS))
        else:
            await asyncio.sleep(self._chance.expovariate(1 / self._chance.choice(DELAYS)))


async def _run(work: Work) -> None:
    with suppress(ConflictError):
        await work()


class Left:
    """What there is in this process, and what the server has for a connection by its own count."""

    def __init__(self, connection: NatsConnection, monitor: str) -> None:
        self._connection = connection
        self._monitor = monitor

    async def settled(self) -> None:
        """Remember what there is now."""
        self.tasks = asyncio.all_tasks()
        self._futures = len(_pending_futures())
        self._interests = await asyncio.to_thread(self._subscribed)

    async def no_more(self) -> None:
        """Return once there is no more than then."""
        seen: dict[str, object] = {}

        async def reached() -> bool:
            seen["tasks"] = asyncio.all_tasks() - self.tasks - {asyncio.current_task()}
            seen["pending requests"] = _pending_requests(self._connection)
            seen["listeners"] = _lane(self._connection)._listeners
            seen["background"] = self._connection._background
            seen["subscriptions"] = await asyncio.to_thread(self._subscribed) - self._interests
            seen["futures"] = max(0, len(_pending_futures()) - self._futures)
            return not any(seen.values())

        try:
            await eventually(reached)
        except TimeoutError:
            pytest.fail(f"left behind: { {what: found for what, found in seen.items() if found} }")

    def _subscribed(self) -> Counter[str]:
        with urllib.request.urlopen(f"{self._monitor}/connz?subs=1", timeout=LIMIT) as answer:
            connections = json.load(answer)["connections"]
        (ours,) = (each for each in connections if each.get("name") == NAME)
        return Counter(ours.get("subscriptions_list") or ())


def _lane(connection: NatsConnection) -> DataLane | SlowLane:
    assert connection._session is not None
    return connection._session.lane


def _pending_requests(connection: NatsConnection) -> list[object]:
    """In the lane, and in nats-py, which makes buckets."""
    assert connection._session is not None
    return [*_lane(connection)._pending, *connection._session.client._resp_map]


def _pending_futures() -> list[object]:
    return [
        found
        for found in gc.get_objects()
        if issubclass(type(found), asyncio.Future) and not issubclass(type(found), asyncio.Task) and not found.done()
    ]


def _blocks() -> int:
    """Pieces of memory that Python has allocated, as a leak of any kind of object would need."""
    gc.collect()
    return sys.getallocatedblocks()


def _open_files() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - iterdir() holds one of its own


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    async with NatsServer(config='http: "127.0.0.1:-1"') as server:
        yield server


@pytest.fixture
async def raw(server: NatsServer) -> AsyncIterator[Raw]:
    async with raw_client(server.url) as client:
        yield client


def monitor_of(server: NatsServer) -> str:
    (file,) = Path(server.directory).glob(f"*_{server.pid}.ports")
    found: str = json.loads(file.read_text())["monitoring"][0]
    return found


def config_of(server: NatsServer, lane: str) -> NatsConnectionConfig:
    return NatsConnectionConfig(url=SecretStr(server.url), name=NAME, lane=lane, op_timeout=LIMIT)  # type: ignore[arg-type]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("lane", "cancels"), [("data", 10_000), ("slow", 4_000)])
async def test_a_storm_of_cancels_leaves_nothing_behind(server: NatsServer, raw: Raw, lane: str, cancels: int) -> None:
    chance = random.Random(4)
    files = _open_files()
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(NatsConnection(config_of(server, lane)))
        store = await connection.store(NAME)
        await store.put("fixed", b"value")
        await store.put_many([(key, b"value") for key in KEYS])
        operations = Operations(connection, store, chance)
        storm = Storm(operations.kinds, chance)
        left = Left(connection, monitor_of(server))
        await storm.rage(cancels // 10)  # what is set up once, is set up now
        await left.settled()
        blocks = []
        for _ in range(2):
            await storm.rage(cancels // 2)
            await left.no_more()
            blocks.append(_blocks())
        assert all(storm.cancelled[kind] > cancels / len(operations.kinds) / 4 for kind in operations.kinds), (
            storm.cancelled
        )
        for name in await connection.stores():
            await raw.no_consumers(name)
        # Far below one for each cancel; what is allocated varies by some hundred by itself.
        assert blocks[1] - blocks[0] < cancels / 2 / 4
        async with bounded():
            version = await store.put("k.0", b"after")
            entry = await store.get("k.0")
            assert entry is not None
            assert (entry.value, entry.version) == (b"after", version)
            scanned = {entry.key: (entry.revision, entry.value) for entry in await store.scan()}
        assert scanned == {key: found for key, found in (await raw.contents(NAME)).items() if found[1]}
    assert _open_files() == files


@pytest.mark.parametrize("lane", ["data", "slow"])
async def test_what_is_cancelled_while_the_server_stands_still_waits_for_no_answer(
    server: NatsServer, raw: Raw, lane: str
) -> None:
    """Where an answer comes, it takes the request out of the books by itself. Here none does."""
    chance = random.Random(4)
    async with NatsConnection(config_of(server, lane)) as connection:
        store = await connection.store(NAME)
        await store.put("fixed", b"value")
        operations = Operations(connection, store, chance)
        storm = Storm({kind: operations.kinds[kind] for kind in operations.one_answer}, chance)
        await storm.rage(100)
        left = Left(connection, monitor_of(server))
        await left.settled()
        server.pause()
        try:
            await storm.rage(500)
            assert not _pending_requests(connection)
            assert not asyncio.all_tasks() - left.tasks
        finally:
            server.resume()
        await left.no_more()
        async with bounded():
            version = await store.put("k.0", b"after")
        last = await raw.last(NAME, "k.0")
        assert last == (version.as_u64(), b"after")


@pytest.mark.parametrize("lane", ["data", "slow"])
async def test_connections_that_are_cancelled_leave_nothing_behind(server: NatsServer, raw: Raw, lane: str) -> None:
    async def connect_and_leave() -> None:
        async with NatsConnection(config_of(server, lane)) as connection:
            await connection.stores()

    async def shut_down_twice() -> None:
        connection = NatsConnection(config_of(server, lane))
        try:
            await connection.connect()
        finally:
            try:
                await connection.shutdown()
            finally:
                await connection.shutdown()

    storm = Storm({"connect": connect_and_leave, "shutdown": shut_down_twice}, random.Random(4))
    await storm.rage(10)
    tasks, files = asyncio.all_tasks(), _open_files()
    await storm.rage(300, at_once=4)

    async def nothing_left() -> bool:
        answer = await asyncio.to_thread(urllib.request.urlopen, f"{monitor_of(server)}/connz", timeout=LIMIT)
        with answer:
            connected = [each for each in json.load(answer)["connections"] if each.get("name") == NAME]
        return not connected and asyncio.all_tasks() <= tasks and _open_files() <= files

    await eventually(nothing_left)
    assert set(storm.cancelled) == {"connect", "shutdown"}
