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
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from slipstream.errors import ConflictError
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.stores.nats.data_lane import DataLane
from slipstream.stores.nats.slow_lane import SlowLane
from slipstream.testing._raw import Raw, raw_client
from slipstream.testing._waiting import LIMIT, bounded, eventually, ticks
from slipstream.testing.server import NatsServer
from tests.integration.faults.operations import KEYS, Operations, Work

AT_ONCE = 16
TURNS = 60
"""Of the event loop, at most, before a cancel: past all that an operation does before it first waits."""
DELAYS = (0.0002, 0.002, 0.02)
"""Seconds, mean: an answer under way, several, and whatever has begun to wait for good."""
NAME = "storm"

Found = dict[str, object]


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
        self.tasks = _others()
        self._listeners = set(_lane(self._connection)._listeners)
        self._futures = len(_pending_futures())
        self._interests = await asyncio.to_thread(self._subscribed)

    async def no_more(self) -> None:
        """Return once there is no more than then."""

        async def look() -> Found:
            return {
                "tasks": _others() - self.tasks,
                "pending requests": _pending_requests(self._connection),
                "listeners": set(_lane(self._connection)._listeners) - self._listeners,
                "background": self._connection._background,
                "subscriptions": await asyncio.to_thread(self._subscribed) - self._interests,
                "futures": max(0, len(_pending_futures()) - self._futures),
            }

        await nothing_left(look)

    def _subscribed(self) -> Counter[str]:
        (ours,) = _connected(self._monitor)
        return Counter(ours.get("subscriptions_list") or ())


async def nothing_left(look: Callable[[], Awaitable[Found]]) -> None:
    """Return once there is nothing to be found; else fail with what there is."""
    found: Found = {}

    async def is_so() -> bool:
        found.update(await look())
        return not any(found.values())

    try:
        await eventually(is_so)
    except TimeoutError:
        pytest.fail(f"left behind: { {what: left for what, left in found.items() if left} }")


def _connected(monitor: str) -> list[dict[str, Any]]:
    """The connections of ours, as the server has them."""
    with urllib.request.urlopen(f"{monitor}/connz?subs=1", timeout=LIMIT) as answer:
        return [each for each in json.load(answer)["connections"] if each.get("name") == NAME]


def _others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


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


def config_of(server: NatsServer, lane: str, **options: Any) -> NatsConnectionConfig:
    options |= {"url": SecretStr(server.url), "name": NAME, "lane": lane, "op_timeout": LIMIT}
    return NatsConnectionConfig(**options)


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
    # Not given up meanwhile, which would clear the books, too.
    async with NatsConnection(config_of(server, lane, ping_interval=600)) as connection:
        store = await connection.store(NAME)
        await store.put("fixed", b"value")
        operations = Operations(connection, store, chance)
        storm = Storm({kind: operations.kinds[kind] for kind in operations.one_answer}, chance)
        await storm.rage(100)
        left = Left(connection, monitor_of(server))
        await left.settled()

        async def look() -> Found:
            return {"pending requests": _pending_requests(connection), "tasks": _others() - left.tasks}

        server.pause()
        try:
            await storm.rage(500)
            await nothing_left(look)
        finally:
            server.resume()
        await left.no_more()
        async with bounded():
            version = await store.put("k.0", b"after")
        last = await raw.last(NAME, "k.0")
        assert last == (version.as_u64(), b"after")


@pytest.mark.parametrize("lane", ["data", "slow"])
async def test_connections_that_are_cancelled_leave_nothing_behind(server: NatsServer, lane: str) -> None:
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
    tasks, files = _others(), _open_files()
    await storm.rage(300, at_once=4)

    async def look() -> Found:
        return {
            "connections": await asyncio.to_thread(_connected, monitor_of(server)),
            "tasks": _others() - tasks,
            "files": max(0, _open_files() - files),
        }

    await nothing_left(look)
    assert set(storm.cancelled) == {"connect", "shutdown"}
