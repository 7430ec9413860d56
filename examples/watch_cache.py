"""A dict that a watch keeps current: reads cost nothing, and whoever has written waits until the dict knows it.

Usage: python examples/watch_cache.py [URL]
"""

from __future__ import annotations

import asyncio
import secrets
import sys

import slipstream
from slipstream import KvStore, Operation, VersionToken, Watch

PREFIX = "user."


class Cache:
    """The keys under one prefix, as of `revision`."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.revision = 0
        self._moved = asyncio.Condition()

    async def follow(self, watch: Watch) -> None:
        """Apply what the watch delivers, until cancelled."""
        async for update in watch:
            if update.operation is Operation.PUT:
                self.values[update.key] = update.value
            else:
                self.values.pop(update.key, None)
            async with self._moved:
                self.revision = update.revision or self.revision
                self._moved.notify_all()

    async def wait_for(self, version: VersionToken) -> None:
        """Return once the cache is at least as new as this write, which was under its prefix."""
        revision = version.as_u64()
        if revision is None:
            raise ValueError(f"version {version} is no revision to wait for")
        async with asyncio.timeout(5), self._moved:
            await self._moved.wait_for(lambda: self.revision >= revision)


def expect(cache: Cache, values: dict[str, bytes]) -> None:
    if cache.values != values:
        raise RuntimeError(f"the cache holds {cache.values}, not {values}")
    print(f"  cache: { {key: value.decode() for key, value in sorted(cache.values.items())} }")


async def use(store: KvStore, cache: Cache) -> None:
    expect(cache, {"user.1": b"anna", "user.2": b"berta"})

    print("write, then read what was written from the cache")
    await cache.wait_for(await store.put("user.3", b"carla"))
    expect(cache, {"user.1": b"anna", "user.2": b"berta", "user.3": b"carla"})

    print("a delete gives no version to wait for, but revisions come in order: wait for any later write")
    await store.delete("user.1")
    await cache.wait_for(await store.put("user.2", b"bea"))
    expect(cache, {"user.2": b"bea", "user.3": b"carla"})

    print("a hundred overwrites: the last one counts")
    versions = [await store.put("user.2", f"bea {number}".encode()) for number in range(100)]
    await cache.wait_for(versions[-1])
    expect(cache, {"user.2": b"bea 99", "user.3": b"carla"})


async def main(url: str) -> None:
    async with asyncio.timeout(20), slipstream.connect(url) as connection:
        store = await connection.store(f"watch-cache-{secrets.token_hex(4)}")
        try:
            await store.put_many({"user.1": b"anna", "user.2": b"berta", "order.1": b"not cached"})
            cache = Cache()
            async with store.watch(PREFIX) as watch, asyncio.TaskGroup() as tasks:
                following = tasks.create_task(cache.follow(watch))
                await watch.wait_hydrated()
                print("the cache holds what was there")
                await use(store, cache)
                following.cancel()
            print("done")
        finally:
            await connection.delete_store(store.name)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
