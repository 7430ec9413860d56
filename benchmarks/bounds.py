"""`python benchmarks/bounds.py`: what a slow reader costs the others, and what a scan adds to the process.

Prints the p99 of `get` without a watch and beside one whose reader stalls on every key as a pending update, in turn;
and by how many MiB the process grows, at its highest, while `iter_scan` and `Watch.batches` go through all the keys.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import slipstream
from slipstream.interfaces import KvStore
from slipstream.testing.server import NatsServer

VALUE = b"v" * 256
CHUNK = 100_000


def fill(url: str, count: int) -> None:
    async def put_all() -> None:
        async with slipstream.connect(url, op_timeout=600) as conn:
            store = await conn.store("bounds")
            for start in range(0, count, CHUNK):
                await store.put_many([(f"key.{number}", VALUE) for number in range(start, min(start + CHUNK, count))])

    asyncio.run(put_all())


async def p99_of_get(store: KvStore, count: int, samples: int) -> float:
    """Milliseconds."""
    taken = []
    for number in range(samples):
        started = time.perf_counter()
        await store.get(f"key.{number % count}")
        taken.append(time.perf_counter() - started)
    return sorted(taken)[int(samples * 0.99)] * 1e3


def highest() -> float:
    """MiB that the process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def main(count: int, samples: int, rounds: int) -> None:
    async with NatsServer() as server, slipstream.connect(server.url, op_timeout=600) as conn:
        store = await conn.store("bounds")
        with ProcessPoolExecutor(1, get_context("spawn")) as others:  # what writing takes is not to be counted
            await asyncio.get_running_loop().run_in_executor(others, fill, server.url, count)
        await store.get("key.0")
        before = highest()
        seen = 0
        async for _ in store.iter_scan():
            seen += 1
        print(f"iter_scan of {seen:,} keys adds {highest() - before:.0f} MiB")
        before, seen = highest(), 0
        async with store.watch() as watch:
            async for batch in watch.batches():
                seen += len(batch)
                if seen >= count:
                    break
        print(f"batches of {seen:,} updates add {highest() - before:.0f} MiB")
        alone, beside = [], []
        for _ in range(rounds):
            alone.append(await p99_of_get(store, count, samples))
            async with store.watch() as watch:
                await anext(watch)  # type: ignore[arg-type]
                pending = watch.statistics().pending
                beside.append(await p99_of_get(store, count, samples))
        low, high = sorted(alone)[rounds // 2], sorted(beside)[rounds // 2]
        print(
            f"p99 of get: {low:.2f} ms alone, {high:.2f} ms beside {pending:,} pending updates: {high / low:.2f} times"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    asyncio.run(main(args.keys, args.samples, args.rounds))
