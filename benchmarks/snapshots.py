"""Snapshot stores: filling, reading, opening, compacting; beside a bare scan into a dict, in one run.

    python benchmarks/snapshots.py [--large] [--rounds N] [--only KIND] [--no-server] [--values BYTES] [--folder PATH]

100,000 keys in random order, with --large 1,000,000, on an embedded nats-server. The ratios are what counts: to hydrate
a replica takes at most 2 times as long as the scan with the append log, 4 with SQLite; to restart one with 1,000
changes behind 1,000,000 keys is at least 10 times quicker than to hydrate it.
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
    Replica,
    RocksSnapshot,
    SnapshotStore,
    SqliteSnapshot,
    VersionToken,
    WatchCursor,
)

BATCH = 1000
GETS = 300_000
CHANGES = 1000


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


async def followed(bucket: KvStore, kind: type[SnapshotStore], folder: Path, count: int) -> float:
    """Seconds from opening the folder until a replica with it has all that the bucket has."""
    begun = time.perf_counter()
    store, _ = await kind.open(folder)
    async with store:
        async with Replica(bucket, snapshot=store, audit_interval=None) as replica:
            await replica.ready()
            took = time.perf_counter() - begun
        assert len(store) == count
    return took


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


async def fill(bucket: KvStore, keys: list[str], value_bytes: int) -> None:
    for start in range(0, len(keys), 50_000):
        await bucket.put_many([(key, random.randbytes(value_bytes)) for key in keys[start : start + 50_000]])


async def scanned(bucket: KvStore, count: int) -> float:
    """Seconds for a bare scan into a dict."""
    begun = time.perf_counter()
    found = {entry.key: entry for entry in await bucket.scan()}
    took = time.perf_counter() - begun
    assert len(found) == count
    return took


async def compare(kinds: list[type[SnapshotStore]], keys: list[str], args: argparse.Namespace) -> None:
    """Print how long a replica takes to hydrate and to restart, beside a scan of the same bucket; interleaved."""
    count = len(keys)
    scans: list[float] = []
    hydrations: dict[type[SnapshotStore], list[float]] = {kind: [] for kind in kinds}
    restarts: dict[type[SnapshotStore], list[float]] = {kind: [] for kind in kinds}
    async with slipstream.connect("embedded://", op_timeout=120) as connection:
        bucket = await connection.store("bench")
        await fill(bucket, keys, args.values)
        for _ in range(args.rounds):
            scans.append(await scanned(bucket, count))
            for kind in kinds:
                with tempfile.TemporaryDirectory(dir=args.folder) as name:
                    gc.collect()
                    hydrations[kind].append(await followed(bucket, kind, Path(name), count))
                    await fill(bucket, random.sample(keys, CHANGES), args.values)
                    gc.collect()
                    restarts[kind].append(await followed(bucket, kind, Path(name), count))
    scan = statistics.median(scans)
    print(f"medians of {args.rounds} rounds")
    print(f"{'scan into a dict':30} {count / scan:>12,.0f} keys/s")
    for kind in kinds:
        hydration, restart = statistics.median(hydrations[kind]), statistics.median(restarts[kind])
        print(f"hydrate {kind.__name__:22} {count / hydration:>12,.0f} keys/s, {hydration / scan:.2f} times the scan")
        print(
            f"restart {kind.__name__:22} {restart:>12.3f} s to ready with {CHANGES:,} changes,"
            f" {hydration / restart:.1f} times quicker than to hydrate"
        )


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
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many")
    parser.add_argument("--values", type=int, default=256, help="bytes of a value")
    parser.add_argument("--only", help="the name of one kind: AppendLogSnapshot, SqliteSnapshot, RocksSnapshot")
    parser.add_argument("--no-server", action="store_true", help="leave out what needs a bucket")
    parser.add_argument("--folder", help="where the stores are made; else the system's temporary folder")
    sys.exit(asyncio.run(main(parser.parse_args())))
