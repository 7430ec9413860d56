"""How much a read from a KvCache costs, beside the same read from a plain dict. One core, one process.

Usage: python benchmarks/cache.py [KEYS]
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterable

import slipstream
from slipstream.cache import KvCache

READS = 2_000_000
ROUNDS = 5


def reads_per_second(read: Callable[[Iterable[str]], None], keys: list[str]) -> float:
    """The best of some rounds: what the machine does when nobody else disturbs it."""
    best = 0.0
    for _ in range(ROUNDS):
        asked = itertools.islice(itertools.cycle(keys), READS)
        began = time.perf_counter()
        read(asked)
        best = max(best, READS / (time.perf_counter() - began))
    return best


async def main(count: int) -> None:
    async with slipstream.connect("memory://") as connection:
        store = await connection.store("benchmark")
        await store.put_many((f"user.{number}", b"value") for number in range(count))
        async with KvCache(store, "user.") as cache:
            plain = dict(cache)
            keys = list(plain)
            random.Random(7).shuffle(keys)

            # Each the way a program would write it: the attribute is looked up for every read.
            def dict_get(asked: Iterable[str]) -> None:
                for key in asked:
                    plain.get(key)

            def cache_get(asked: Iterable[str]) -> None:
                for key in asked:
                    cache.get(key)

            def dict_item(asked: Iterable[str]) -> None:
                for key in asked:
                    plain[key]

            def cache_item(asked: Iterable[str]) -> None:
                for key in asked:
                    cache[key]

            print(f"{count:,} keys, {READS:,} reads, best of {ROUNDS}, on Python {sys.version.split()[0]}")
            for name, of_dict, of_cache in [("get(key)", dict_get, cache_get), ("[key]", dict_item, cache_item)]:
                base, measured = reads_per_second(of_dict, keys), reads_per_second(of_cache, keys)
                print(
                    f"{name:9} dict {base / 1e6:5.2f} M/s   KvCache {measured / 1e6:5.2f} M/s   {measured / base:.2f}"
                )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
