"""The checkers on a real bucket: many writers at once, and watches beside them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from slipstream import ConflictError, KvStore, KvUpdate
from slipstream.stores.nats import NatsConnection
from slipstream.testing._raw import Raw
from slipstream.testing._waiting import bounded
from slipstream.testing.checkers import Client, History, Kind, Ledger, Outcome, check_linearizable, check_watch

Connect = Callable[[], Awaitable[NatsConnection]]
WRITERS, ROUNDS = 6, 40
KEYS = ("a", "b.c", "b.d")
LAST = "z.last"  # written once, by nobody but the test, when all else is over


async def write(client: Client, name: int) -> None:
    chance = random.Random(name)
    for number in range(ROUNDS):
        key, value = chance.choice(KEYS), f"{name}-{number}".encode()
        try:
            match chance.randrange(4):
                case 0:
                    await client.put(key, value)
                case 1:
                    await client.create(key, value)
                case 2:
                    entry = await client.get(key)
                    if entry is not None:
                        await client.update(key, value, entry.version)
                case 3:
                    await client.delete(key)
        except ConflictError:
            continue  # recorded


async def follow(store: KvStore, prefix: str | list[str], *, ready: asyncio.Event) -> list[KvUpdate]:
    updates = []
    async with store.watch(prefix) as watch:
        ready.set()
        async for update in watch:
            if update.key == LAST:
                break
            updates.append(update)
    return updates


async def test_concurrent_writers_and_watches(connect: Connect, raw: Raw, bucket: str) -> None:
    connection = await connect()
    store = await connection.store(bucket)
    history = History()
    async with bounded(), asyncio.TaskGroup() as tasks:
        starts = [asyncio.Event(), asyncio.Event()]
        whole = tasks.create_task(follow(store, "", ready=starts[0]))
        part = tasks.create_task(follow(store, ["b.", LAST], ready=starts[1]))
        for start in starts:
            await start.wait()
        async with asyncio.TaskGroup() as writers:
            for name in range(WRITERS):
                writers.create_task(write(history.client(store, f"writer {name}"), name))
        end = await raw.contents(bucket)
        await store.put(LAST, b"now")
    assert {(action.kind, action.outcome) for action in history.actions} >= {(kind, Outcome.DONE) for kind in Kind}
    assert any(action.conflict for action in history.actions)
    check_linearizable(history.actions)
    ledger = Ledger.of(history.actions)
    check_watch(whole.result(), ledger, end)
    check_watch(part.result(), ledger, end, prefix="b.")
