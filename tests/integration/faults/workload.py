"""Clients that read and write the same keys of one bucket until they are told to stop, recorded for the checkers."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from slipstream import ConflictError, Connection, KvError, KvStore, KvUpdate, OperationFailedError, StoreConfig
from slipstream.testing.checkers import Client, History, Kind

KEYS = 3
KEY_SECONDS = 4.0
"""Then other keys are taken: the search for an order grows with the operations on one key."""
PAUSE_SECONDS = 0.02
NO_SUITABLE_PEERS = 10005
MIXED = (Kind.GET, Kind.GET, Kind.PUT, Kind.CREATE, Kind.UPDATE, Kind.DELETE)
READING = (Kind.GET,)
CONDITIONAL = (Kind.GET, Kind.CREATE, Kind.UPDATE)


async def new_bucket(connection: Connection, config: StoreConfig, *, within: float = 20.0) -> KvStore:
    """Make it as soon as its nodes take buckets: one that has just come back is refused for a moment more."""
    async with asyncio.timeout(within):
        while True:
            try:
                return await connection.store(config)
            except OperationFailedError as error:
                if error.err_code != NO_SUITABLE_PEERS:
                    raise
            await asyncio.sleep(0.1)


class Workload:
    """Actions on keys that all of its clients share at the moment; `stop` ends them after the one under way."""

    def __init__(self, seed: int) -> None:
        self.history = History()
        self._seed = seed
        self._stopped = asyncio.Event()
        self._clients = 0
        self._began = asyncio.get_running_loop().time()

    def stop(self) -> None:
        self._stopped.set()

    async def client(self, store: KvStore, name: str, kinds: tuple[Kind, ...] = MIXED) -> None:
        """Act until stopped. What fails is recorded as it failed, and gone on after."""
        self._clients += 1
        chance = random.Random(f"{self._seed}/{name}")
        client = self.history.client(store, name)
        number = 0
        while not self._stopped.is_set():
            number += 1
            with suppress(KvError):  # recorded
                await act(client, chance.choice(kinds), self._key(chance), f"{name}-{number}".encode())
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0, 2 * PAUSE_SECONDS)):
                    await self._stopped.wait()

    def _key(self, chance: random.Random) -> str:
        age = asyncio.get_running_loop().time() - self._began
        return f"k{age // KEY_SECONDS:.0f}.{chance.randrange(KEYS)}"


async def act(client: Client, kind: Kind, key: str, value: bytes) -> None:
    """One action; an update takes the version that a get of its own has just seen. Raises: KvError, but no conflict."""
    with suppress(ConflictError):  # one of the answers that are checked
        match kind:
            case Kind.GET:
                await client.get(key)
            case Kind.PUT:
                await client.put(key, value)
            case Kind.CREATE:
                await client.create(key, value)
            case Kind.DELETE:
                await client.delete(key)
            case Kind.UPDATE:
                entry = await client.get(key)
                if entry is not None:
                    await client.update(key, value, entry.version)


class Follower:
    """A watch of one prefix, gathered until a key of the test's own arrives."""

    def __init__(self, store: KvStore, prefix: str = "", *, last: str = "z.last") -> None:
        self._store = store
        self._prefixes = [prefix, last] if prefix else [""]
        self.last = last
        self.updates: list[KvUpdate] = []
        self.ready = asyncio.Event()
        self._grown = asyncio.Condition()

    async def run(self) -> None:
        async with self._store.watch(self._prefixes) as watch:
            self.ready.set()
            async for update in watch:
                if update.key == self.last:
                    return
                async with self._grown:
                    self.updates.append(update)
                    self._grown.notify_all()

    async def reached(self, revision: int) -> None:
        """Return once something at this revision or a later one has arrived."""
        async with self._grown:
            await self._grown.wait_for(lambda: bool(self.updates) and (self.updates[-1].revision or 0) >= revision)
