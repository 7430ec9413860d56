"""Replicas whose snapshot is on disk: restarts, repairs, and a process that is killed while it follows."""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import slipstream
from slipstream.interfaces import Connection, KvStore
from slipstream.model import WatchCursor
from slipstream.replica import AppendLogSnapshot, Replica, RocksSnapshot, SnapshotStore, SqliteSnapshot
from slipstream.testing._waiting import LIMIT, background, bounded
from tests.replica.following import Table, follow_until, overwrite_all, values_in, values_of

KEYS = [f"k.{number:02}" for number in range(40)]

on_each_disk = pytest.mark.parametrize(
    "kind", [AppendLogSnapshot, SqliteSnapshot, RocksSnapshot], ids=lambda kind: kind.__name__
)


async def hydrated(store: KvStore, kind: type[SnapshotStore], folder: Path) -> None:
    """A first life, which leaves the bucket's content in the folder."""
    snapshot, cursor = await kind.open(folder)
    assert cursor.is_none
    async with bounded(), snapshot, Replica(store, snapshot=snapshot) as replica:
        await replica.ready()


@on_each_disk
async def test_a_restart_takes_only_what_changed(store: KvStore, kind: type[SnapshotStore], tmp_path: Path) -> None:
    await store.put_many(dict.fromkeys(KEYS, b"1"))
    await hydrated(store, kind, tmp_path)
    await store.put("k.07", b"2")
    await store.delete("k.08")
    snapshot, cursor = await kind.open(tmp_path)
    assert cursor.revision == len(KEYS)
    async with bounded(), snapshot, Replica(store, snapshot=snapshot) as replica:
        assert replica.keys() == KEYS  # it can be read before it is ready
        await replica.ready()
        assert replica.progress().done == 2
        assert replica.get("k.07") == await store.get("k.07")
        assert values_of(snapshot) == await values_in(store)


@on_each_disk
async def test_an_expired_cursor_is_repaired(store: KvStore, kind: type[SnapshotStore], tmp_path: Path) -> None:
    await store.put_many(dict.fromkeys(KEYS, b"1"))
    await hydrated(store, kind, tmp_path)
    for key in KEYS[30:]:
        await store.delete(key)
    await store.purge_deletes()
    await overwrite_all(store, dict.fromkeys(KEYS[:30], b"2"))
    snapshot, _ = await kind.open(tmp_path)
    async with bounded(), snapshot, Replica(store, snapshot=snapshot, audit_interval=None) as replica:
        await replica.ready()
        assert replica.statistics().repairs == 1
    snapshot, cursor = await kind.open(tmp_path)
    async with snapshot:
        assert values_of(snapshot) == await values_in(store) == dict.fromkeys(KEYS[:30], b"2")
        assert cursor.revision == (await store.status()).last_revision


@on_each_disk
async def test_a_bucket_made_again_is_another_one(
    connection: Connection, store: KvStore, kind: type[SnapshotStore], tmp_path: Path
) -> None:
    await store.put_many(dict.fromkeys(KEYS, b"1"))
    await hydrated(store, kind, tmp_path)
    await connection.delete_store(store.name)
    again = await connection.store(store.name)
    await again.put_many({"k.00": b"2", "new": b"2"})  # at revisions that the fold has, too
    snapshot, _ = await kind.open(tmp_path)
    async with bounded(), snapshot, Replica(again, snapshot=snapshot, audit_interval=None) as replica:
        await replica.ready()
    snapshot, cursor = await kind.open(tmp_path)
    async with snapshot:
        assert values_of(snapshot) == {"k.00": b"2", "new": b"2"}
        assert cursor.incarnation == (await again.status()).incarnation


@on_each_disk
async def test_state_of_ones_own_goes_on_where_it_was(
    store: KvStore, kind: type[SnapshotStore], tmp_path: Path
) -> None:
    table = Table()
    for life in range(3):
        await store.put_many({"a": b"%d" % life, f"life.{life}": b"1"})
        await store.delete(f"life.{life - 1}")
        table.batches.clear()
        async with bounded(), (await kind.open(tmp_path))[0] as snapshot:
            cursor = await follow_until(store, table, {"a": b"%d" % life, f"life.{life}": b"1"}, snapshot=snapshot)
            assert values_of(snapshot) == table.values
            assert snapshot.cursor == cursor
        assert len(table.changes) <= 3


# A process that is killed.

# It follows until then, and says how far its copy has come.
CHILD = """
import asyncio, sys
import slipstream
from slipstream import BatchConfig, Replica

async def main(url, bucket, kind, folder):
    snapshot, _ = await getattr(slipstream, kind).open(folder)
    async with slipstream.connect(url) as connection:
        store = await connection.store(bucket)
        batch = BatchConfig(max_items=5, window=0.002, progress_interval=0.05)
        async with Replica(store, snapshot=snapshot, batch=batch) as replica:
            replica.on_change(lambda _: print(replica.cursor.revision or 0, flush=True))
            await replica.ready()
            await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class Followed:
    """How far the process says that it has come; keeps who writes from overwriting all that could be checked."""

    AHEAD = len(KEYS) // 2

    def __init__(self) -> None:
        self.revision: int | None = None
        self._moved = asyncio.Event()

    def note(self, revision: int) -> None:
        self.revision = revision
        self._moved.set()

    async def near(self, revision: int) -> None:
        """Return once this is not too far ahead. Before it has said anything, nothing is."""
        while self.revision is not None and revision > self.revision + self.AHEAD:
            self._moved.clear()
            await self._moved.wait()


async def follow_and_be_killed(followed: Followed, *arguments: str) -> int:
    """Let a process follow for a while; the last revision that it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said = 0
    try:
        async with asyncio.timeout(3 * LIMIT):
            for _ in range(random.randint(1, 15)):
                line = await process.stdout.readline()
                assert line, (await process.stderr.read()).decode()
                said = int(line)
                followed.note(said)
    finally:
        process.kill()
        rest, _ = await process.communicate()
    return max([said, *map(int, rest.split())])


async def write_on(store: KvStore, followed: Followed) -> None:
    """Write for as long as somebody follows, values of some size; what was deleted goes without a trace at times."""
    written = 0
    while True:
        await followed.near(written)
        key = random.choice(KEYS)
        if random.random() < 0.02:
            await store.purge_deletes()
        elif random.random() < 0.3:
            await store.delete(key)
        else:
            written = (await store.put(key, random.randbytes(random.choice([10, 5000])))).as_u64() or 0


@asynccontextmanager
async def opened(kind: type[SnapshotStore], folder: Path) -> AsyncIterator[tuple[SnapshotStore, WatchCursor]]:
    async with bounded():
        snapshot, cursor = await kind.open(folder)
    async with snapshot:
        yield snapshot, cursor


async def check(snapshot: SnapshotStore, cursor: WatchCursor, store: KvStore) -> int:
    """What was last written up to the cursor is in the fold; returns of how many keys that can be told."""
    checked = 0
    for key in KEYS:
        for last in await store.history(key):  # one, or none
            if (last.revision or 0) <= (cursor.revision or 0):  # else the fold may have the value before that, or none
                assert snapshot.get(key) == last.entry, key
                checked += 1
    return checked


@pytest.mark.timeout(120)
@on_each_disk
async def test_a_process_that_is_killed_leaves_what_its_cursor_names(
    nats_url: str, kind: type[SnapshotStore], tmp_path: Path
) -> None:
    """Everything is overwritten while it starts again, so that its cursor expires: it is killed in repairs, too."""
    async with slipstream.connect(nats_url) as connection:
        store = await connection.store(f"test-{secrets.token_hex(8)}")
        try:
            await store.put_many(dict.fromkeys(KEYS, b"1"))
            reached = checked = 0
            for _ in range(5):
                followed = Followed()
                async with background(write_on(store, followed)):
                    said = await follow_and_be_killed(followed, nats_url, store.name, kind.__name__, str(tmp_path))
                async with opened(kind, tmp_path) as (snapshot, cursor):
                    assert (cursor.revision or 0) >= max(said, reached), "what had been told is gone"
                    reached = cursor.revision or 0
                    checked += await check(snapshot, cursor, store)
            assert checked
            async with opened(kind, tmp_path) as (snapshot, _):
                async with bounded(), Replica(store, snapshot=snapshot, audit_interval=None) as replica:
                    await replica.wait_for(await store.put("k.00", b"last"))
                    report = await replica.audit()  # what was purged while nobody followed, and no cursor expired
                assert (report.compared, report.restored) == (True, 0)
                assert values_of(snapshot) == await values_in(store)
        finally:
            await connection.delete_store(store.name)
