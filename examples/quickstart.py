"""The main job of slipstream from end to end. A wrong result at any step ends it with exit code 1.

Usage: python examples/quickstart.py [URL]; without a URL on embedded://, a private nats-server on this machine.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import slipstream
from slipstream import (
    Connection,
    CursorExpiredError,
    KvStore,
    KvUpdate,
    RevisionMismatchError,
    StoreConfig,
    WatchCursor,
)

TREE = {
    "app.name": b"shop",
    "service.db.host": b"db-1",
    "service.db.pool": b"10",
    "service.web.host": b"0.0.0.0",
    "service.web.port": b"8080",
}
FOLLOWED = ["service.db.", "service.web."]
RUN = secrets.token_hex(4)  # buckets of our own, whatever else the server holds


class WrongResult(Exception):
    """The store did not do what this program says that it does."""


def say(text: str) -> None:
    print(text, flush=True)


def check(what: str, actual: object, expected: object) -> None:
    if actual != expected:
        raise WrongResult(f"{what}: {actual!r} instead of {expected!r}")


def shown(updates: Iterable[KvUpdate]) -> list[str]:
    return [f"{update.operation.name} {update.key} {update.value.decode()}".strip() for update in updates]


@asynccontextmanager
async def temporary_bucket(connection: Connection, config: StoreConfig) -> AsyncIterator[KvStore]:
    store = await connection.store(config)
    try:
        yield store
    finally:
        await connection.delete_store(config.name)


async def write_and_scan(store: KvStore) -> None:
    await store.put_many(TREE)
    say(f"\n1. Wrote a configuration tree of {len(TREE)} keys.")
    entries = await store.scan("service.")
    say(f"   A scan of 'service.' finds {len(entries)} of them, in key order:")
    for entry in entries:
        say(f"     {entry.key:<18} {entry.value.decode():<9} revision {entry.revision}")
    expected = [(key, value) for key, value in sorted(TREE.items()) if key.startswith("service.")]
    check("the scan", [(entry.key, entry.value) for entry in entries], expected)


async def race(store: KvStore) -> None:
    say("\n2. Two writers read service.web.port and both want to change it, at the same time.")
    entry = await store.get("service.web.port")
    assert entry is not None
    values = [b"8081", b"9090"]
    outcomes = await asyncio.gather(
        *(store.update("service.web.port", value, entry.version) for value in values), return_exceptions=True
    )
    won = [value for value, outcome in zip(values, outcomes, strict=True) if not isinstance(outcome, BaseException)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, RevisionMismatchError)]
    check("writers that won and lost", (len(won), len(lost)), (1, 1))
    after = await store.get("service.web.port")
    check("the value after the race", after and after.value, won[0])
    say(f"   One wrote {won[0].decode()}. The other was refused by the server, and nothing of it was written:")
    say(f"     {type(lost[0]).__name__}: {lost[0].message}")


async def receive(store: KvStore, cursor: WatchCursor, *, live: dict[str, bytes]) -> tuple[list[KvUpdate], WatchCursor]:
    """Follow both prefixes until all that is there now, and then the `live` changes, have come; all of it, in order."""
    received: list[KvUpdate] = []
    async with store.watch(FOLLOWED, cursor=cursor) as watch:

        async def collect() -> None:
            async for update in watch:
                received.append(update)  # noqa: PERF401 - when it is cancelled, what it has received is kept

        async with asyncio.TaskGroup() as tasks:
            collector = tasks.create_task(collect())
            await watch.wait_hydrated()
            collector.cancel()  # a cancelled wait for the next update loses none
        for key, value in live.items():
            await store.put(key, value)
            received.append(await anext(watch))
        return received, watch.cursor


async def follow_stop_resume(store: KvStore) -> None:
    say(f"\n3. A follower watches {' and '.join(FOLLOWED)} through one consumer on the server.")
    updates, cursor = await receive(store, WatchCursor.none(), live={"service.db.pool": b"20"})
    say(f"   It receives the current state first, {len(updates) - 1} keys, and then a change as it happens:")
    say(f"     {shown(updates)[-1]}")
    current = [entry for prefix in FOLLOWED for entry in await store.scan(prefix)]
    check("what it knows", {one.key: one.value for one in updates}, {one.key: one.value for one in current})
    revisions = [update.revision or 0 for update in updates]
    check("the order of what it received", revisions, sorted(set(revisions)))
    saved = str(cursor)
    say(f"   It is stopped. Its cursor is saved, a short text that says how far it had come: {saved}")

    await store.put("service.web.host", b"127.0.0.1")
    await store.put("app.name", b"bigger shop")  # under neither prefix
    await store.delete("service.db.host")
    await store.put("service.db.url", b"db-2:5432")
    say("\n4. While it is away one key is changed, one deleted, one added, and one that it does not follow changed.")

    missed, _ = await receive(store, WatchCursor.parse(saved), live={})
    say("   Resumed from the cursor, it receives exactly what it missed, in the order of the writes:")
    for line in shown(missed):
        say(f"     {line}")
    expected = ["PUT service.web.host 127.0.0.1", "DELETE service.db.host", "PUT service.db.url db-2:5432"]
    check("what it missed", shown(missed), expected)


async def expired_cursor(store: KvStore) -> None:
    await store.put("event.0", bytes(1000))
    async with store.watch() as watch:
        await anext(watch)
        cursor = watch.cursor
    for number in range(1, 20):
        await store.put(f"event.{number}", bytes(1000))
    say("\n5. A bucket of 8 KB that drops its oldest values was written over while its follower was away.")
    try:
        async with store.watch(cursor=cursor):
            raise WrongResult("a cursor was resumed although what came after it is gone")
    except CursorExpiredError as error:
        check("why the cursor expired", error.reason, "compacted")
        say("   What the follower missed is gone. It is told so, instead of being left with a hole:")
        say(f"     {type(error).__name__}: {error.message}")


async def run(url: str) -> None:
    say(f"Connecting to {url.partition('://')[0]}:// ...")  # the rest of a URL may hold a secret
    async with asyncio.timeout(14), slipstream.connect(url, op_timeout=5, name="quickstart") as connection:
        async with temporary_bucket(connection, StoreConfig(name=f"quickstart-{RUN}")) as store:
            await write_and_scan(store)
            await race(store)
            await follow_stop_resume(store)
        small = StoreConfig(name=f"quickstart-small-{RUN}", max_bytes=8 * 1024, discard="old")
        async with temporary_bucket(connection, small) as store:
            await expired_cursor(store)
    say("\nAll of it was as it should be; the buckets are removed.")


if __name__ == "__main__":
    try:
        asyncio.run(run(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
    except (slipstream.KvError, TimeoutError, WrongResult) as error:
        sys.exit(f"FAILED: {type(error).__name__}: {error}")
