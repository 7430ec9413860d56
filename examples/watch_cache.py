"""A cache that a watch keeps current: reads cost what a dict costs, own writes are read, users are found by city.

Usage: python examples/watch_cache.py [URL]
"""

from __future__ import annotations

import asyncio
import secrets
import sys

from pydantic import BaseModel

import slipstream
from slipstream import KvCache, TypedStore


class User(BaseModel):
    name: str
    city: str


def show(key: str, old: User | None, new: User | None) -> None:
    print(f"  {key}: {old.name if old else 'nobody'} -> {new.name if new else 'nobody'}")


def expect(cache: KvCache[User], names: dict[str, str]) -> None:
    found = {key: user.name for key, user in sorted(cache.items())}
    if found != names:
        raise RuntimeError(f"the cache holds {found}, not {names}")
    print(f"  cache: {found}")


async def use(users: TypedStore[User], cache: KvCache[User]) -> None:
    expect(cache, {"user.1": "anna", "user.2": "berta"})
    by_city = cache.index(lambda key, user: [user.city])
    cache.on_change(show)

    print("write, then read what was written from the cache")
    await cache.wait_for(await users.put("user.3", User(name="carla", city="Rome")))
    expect(cache, {"user.1": "anna", "user.2": "berta", "user.3": "carla"})
    print(f"  in Rome: {by_city['Rome']}")

    print("a delete gives no version to wait for, but revisions come in order: wait for any later write")
    await users.delete("user.1")
    await cache.wait_for(await users.put("user.2", User(name="bea", city="Paris")))
    expect(cache, {"user.2": "bea", "user.3": "carla"})
    print(f"  in Rome: {by_city['Rome']}")

    entry = cache.entry("user.2")
    if entry is None:
        raise RuntimeError("the cache has lost user.2")
    print("the version to compare and swap with is in the cache, too")
    await cache.wait_for(await users.update("user.2", User(name="beatrice", city="Paris"), entry.version))
    expect(cache, {"user.2": "beatrice", "user.3": "carla"})


async def main(url: str) -> None:
    async with asyncio.timeout(20), slipstream.connect(url) as connection:
        store = await connection.store(f"watch-cache-{secrets.token_hex(4)}")
        users = TypedStore(store, User)
        try:
            await users.put("user.1", User(name="anna", city="Rome"))
            await users.put("user.2", User(name="berta", city="Berlin"))
            await store.put("order.1", b"not cached")
            async with KvCache(store, "user.", decode=users.decode) as cache:
                print("the cache holds what was there")
                await use(users, cache)
            print("done")
        finally:
            await connection.delete_store(store.name)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
