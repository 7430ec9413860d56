"""Every kind of operation on a store, to be cancelled, cut off and repeated."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

from slipstream.errors import StoreNotFoundError
from slipstream.interfaces import KvStore, Transaction
from slipstream.model import VersionToken, WatchCursor
from slipstream.stores.nats import NatsConnection

KEYS = [f"k.{number}" for number in range(40)]
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
        name = f"{self._store.name}-{self._chance.randrange(3)}"
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
