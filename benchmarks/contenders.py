"""The same work through slipstream and through nats-py, on the same server and bucket."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import nats

import slipstream

IN_FLIGHT = 256


class Incomplete(Exception):
    """It ended without all of the keys."""


class Slipstream:
    """`work` is name to coroutine function; each does its work once, on `keys` unless it says otherwise."""

    def __init__(self, keys: list[str], few: list[str], value: bytes) -> None:
        self._keys, self._few, self._value = keys, few, value

    async def open(self, url: str, bucket: str) -> None:
        self._connection = slipstream.connect(url, op_timeout=600)
        await self._connection.connect()
        self._store = await self._connection.store(bucket)

    async def close(self) -> None:
        await self._connection.shutdown()

    async def put(self) -> None:
        for key in self._few:
            await self._store.put(key, self._value)

    async def get(self) -> None:
        for key in self._few:
            await self._store.get(key)

    async def put_in_flight(self) -> None:
        await in_flight(self._few, lambda key: self._store.put(key, self._value))

    async def get_in_flight(self) -> None:
        await in_flight(self._few, self._store.get)

    async def put_many(self) -> None:
        await self._store.put_many((key, self._value) for key in self._keys)

    async def get_many(self) -> None:
        _complete(len(await self._store.get_many(self._keys)), self._keys)

    async def scan(self) -> None:
        _complete(len(await self._store.scan()), self._keys)

    async def keys(self) -> None:
        _complete(len(await self._store.keys()), self._keys)

    async def hydrate_batches(self) -> None:
        seen = 0
        async with self._store.watch() as watch:
            async for batch in watch.batches():
                seen += len(batch)
                if watch.hydrated or seen >= len(self._keys):
                    break
        _complete(seen, self._keys)

    async def hydrate_each(self) -> None:
        seen = 0
        async with self._store.watch() as watch:
            async for _ in watch:
                seen += 1
                if seen >= len(self._keys):
                    break
        _complete(seen, self._keys)

    async def latencies(self, count: int) -> list[float]:
        """Seconds from before a put until its update is there, one at a time."""
        taken = []
        key = _fresh_key()
        async with self._store.watch(key) as watch:
            await watch.wait_hydrated()
            for number in range(count):
                before = time.perf_counter()
                writing = asyncio.create_task(self._store.put(key, b"%d" % number))
                await anext(watch)  # type: ignore[arg-type]
                taken.append(time.perf_counter() - before)
                await writing
        await self._store.purge(key)
        return taken


class NatsPy:
    def __init__(self, keys: list[str], few: list[str], value: bytes) -> None:
        self._keys, self._few, self._value = keys, few, value

    async def open(self, url: str, bucket: str) -> None:
        self._client = await nats.connect(url, error_cb=_quiet)
        self._kv = await self._client.jetstream(timeout=60).key_value(bucket)

    async def close(self) -> None:
        await self._client.close()

    async def put(self) -> None:
        for key in self._few:
            await self._kv.put(key, self._value)

    async def get(self) -> None:
        for key in self._few:
            await self._kv.get(key)

    async def put_in_flight(self) -> None:
        await in_flight(self._few, lambda key: self._kv.put(key, self._value))

    async def get_in_flight(self) -> None:
        await in_flight(self._few, self._kv.get)

    async def keys(self) -> None:
        _complete(len(await self._kv.keys()), self._keys)

    async def hydrate(self) -> None:
        seen = 0
        watcher = await self._kv.watchall()
        try:
            async for entry in watcher:
                if entry is None:
                    break
                seen += 1
        finally:
            await watcher.stop()
        _complete(seen, self._keys)

    async def latencies(self, count: int) -> list[float]:
        taken = []
        key = _fresh_key()
        watcher: Any = await self._kv.watch(key)
        await watcher.updates()  # the mark of the end of the initial state
        for number in range(count):
            before = time.perf_counter()
            writing = asyncio.create_task(self._kv.put(key, b"%d" % number))
            await watcher.updates(timeout=30)
            taken.append(time.perf_counter() - before)
            await writing
        await watcher.stop()
        await self._kv.purge(key)
        return taken


async def in_flight(keys: list[str], work: Callable[[str], Awaitable[object]]) -> None:
    """`IN_FLIGHT` tasks that share the keys."""
    shared: Iterator[str] = iter(keys)

    async def worker() -> None:
        for key in shared:
            await work(key)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(IN_FLIGHT, len(keys))):
            tasks.create_task(worker())


def _fresh_key() -> str:
    """One without a marker from the last round: a watch would have that to hand out first."""
    return f"latency.{secrets.token_hex(4)}"


def _complete(seen: int, keys: list[str]) -> None:
    if seen < len(keys):
        raise Incomplete(f"{seen} of {len(keys)} keys")


async def _quiet(error: Exception) -> None:
    """Slow consumer errors of nats-py: what they come to shows in the number of keys."""
