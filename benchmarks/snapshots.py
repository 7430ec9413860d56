"""Snapshot stores: filling, reading, opening, compacting; beside a bare scan into a dict, in one run.

    python benchmarks/snapshots.py [--large] [--only KIND] [--no-server] [--values BYTES] [--folder PATH]

100,000 keys in random order, with --large 1,000,000, on an embedded nats-server. The ratios are what counts: hydrating
(a watch, applied in batches of 1000) takes at most 2 times as long as the scan with the append log, 4 with SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import slipstream
from slipstream import (
    AppendLogSnapshot,
    KvStore,
    KvUpdate,
    Operation,
    RocksSnapshot,
    SnapshotStore,
    SqliteSnapshot,
    VersionToken,
    WatchCursor,
)

BATCH = 1000
GETS = 300_000


def rate(count: int, begun: float) -> str:
    return f"{count / (time.perf_counter() - begun):>12,.0f}"


def resident_bytes() -> int:
    """What the process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@asynccontextmanager
async def pauses() -> AsyncIterator[list[float]]:
    """How long, in ms, the event loop let a task wait that wanted to run every millisecond."""
    seen: list[float] = []

    async def tick() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            seen.append((time.perf_counter() - begun) * 1000 - 1)

    task = asyncio.create_task(tick())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait({task})


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def shown(seen: list[float]) -> str:
    return f"p50 {statistics.median(seen):.1f} ms, p99 {percentile(seen, 0.99):.1f} ms, longest {max(seen):.1f} ms"


def updates(keys: list[str], value_bytes: int, first: int = 1) -> list[KvUpdate]:
    return [
        KvUpdate(
            operation=Operation.PUT,
            key=key,
            value=random.randbytes(value_bytes),
            version=VersionToken.from_u64(revision),
        )
        for revision, key in enumerate(keys, first)
    ]


async def applied(store: SnapshotStore, changes: list[KvUpdate]) -> None:
    for start in range(0, len(changes), BATCH):
        batch = changes[start : start + BATCH]
        await store.apply(batch, WatchCursor.from_version(batch[-1].version))


async def hydrated(bucket: KvStore, kind: type[SnapshotStore], count: int, folder: str | None) -> float:
    """Seconds until the store holds what the bucket holds."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        store, _ = await kind.open(name)
        async with store, bucket.watch() as watch:
            begun = time.perf_counter()
            async for batch in watch.batches(BATCH):
                await store.apply(batch, watch.cursor)
                if len(store) >= count:
                    break
            return time.perf_counter() - begun


async def measure(kind: type[SnapshotStore], keys: list[str], args: argparse.Namespace) -> None:
    """Print what this kind does by itself."""
    count = len(keys)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        changes = updates(keys, args.values)
        before = resident_bytes()
        store, _ = await kind.open(Path(name) / "applied")
        async with pauses() as seen:
            begun = time.perf_counter()
            await applied(store, changes)
            print(f"  apply          {rate(count, begun)} keys/s; pauses {shown(seen)}")
        # Values and versions are shared with the changes, which stay: added to what the store holds by itself.
        shared = (args.values + 33) + 40 + 41 if kind is AppendLogSnapshot else 0
        print(f"  memory         {(resident_bytes() - before) / count + shared:>12,.0f} bytes/key")
        wanted = [keys[n % count] for n in range(GETS)]
        begun = time.perf_counter()
        for key in wanted:
            store.get(key)
        print(f"  get            {rate(GETS, begun)} /s")
        if isinstance(store, AppendLogSnapshot):
            await compacted(store, changes)
        await store.close()
        size = sum(path.stat().st_size for path in (Path(name) / "applied").rglob("*") if path.is_file())
        print(f"  disk           {size / count:>12,.0f} bytes/key")
        del store, changes
        gc.collect()
        before = resident_bytes()
        async with pauses() as seen:
            begun = time.perf_counter()
            store, _ = await kind.open(Path(name) / "applied")
            print(f"  open           {time.perf_counter() - begun:>12.2f} s; pauses {shown(seen)}")
        print(f"  memory then    {(resident_bytes() - before) / count:>12,.0f} bytes/key")
        await store.close()


async def compacted(store: AppendLogSnapshot, changes: list[KvUpdate]) -> None:
    """Compact while batches go on."""
    await applied(store, changes[: len(changes) // 2])
    async with pauses() as seen:
        begun = time.perf_counter()
        work = asyncio.create_task(store.compact())
        while not work.done():
            await applied(store, changes[:BATCH])
            await asyncio.sleep(0.01)
        await work
        print(f"  compact        {time.perf_counter() - begun:>12.2f} s; pauses {shown(seen)}")


async def compare(kinds: list[type[SnapshotStore]], keys: list[str], args: argparse.Namespace) -> None:
    """Print how long hydrating takes, beside a scan of the same bucket."""
    count = len(keys)
    async with slipstream.connect("embedded://", op_timeout=120) as connection:
        bucket = await connection.store("bench")
        for start in range(0, count, 50_000):
            await bucket.put_many([(key, random.randbytes(args.values)) for key in keys[start : start + 50_000]])
        begun = time.perf_counter()
        found = {entry.key: entry for entry in await bucket.scan()}
        scan = time.perf_counter() - begun
        print(f"{'scan into a dict':30} {len(found) / scan:>12,.0f} keys/s")
        del found
        for kind in kinds:
            gc.collect()
            took = await hydrated(bucket, kind, count, args.folder)
            print(f"hydrate {kind.__name__:22} {count / took:>12,.0f} keys/s, {took / scan:.2f} times the scan")


async def main(args: argparse.Namespace) -> None:
    count = 1_000_000 if args.large else 100_000
    random.seed(1)
    keys = [f"node.{number:07}" for number in range(count)]
    random.shuffle(keys)
    kinds = [kind for kind in (AppendLogSnapshot, SqliteSnapshot, RocksSnapshot) if args.only in (None, kind.__name__)]
    print(f"{count:,} keys of {args.values} bytes")
    if not args.no_server:
        await compare(kinds, keys, args)
    for kind in kinds:
        print(f"\n{kind.__name__}")
        await measure(kind, keys, args)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="1,000,000 keys")
    parser.add_argument("--values", type=int, default=256, help="bytes of a value")
    parser.add_argument("--only", help="the name of one kind: AppendLogSnapshot, SqliteSnapshot, RocksSnapshot")
    parser.add_argument("--no-server", action="store_true", help="leave out what needs a bucket: scan and hydrate")
    parser.add_argument("--folder", help="where the stores are made; else the system's temporary folder")
    sys.exit(asyncio.run(main(parser.parse_args())))
