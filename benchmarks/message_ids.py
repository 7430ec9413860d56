"""`python benchmarks/message_ids.py`: what it costs that every write carries a message id (`retry_writes`).

One connection with and one without, on one server and bucket, take turns in several rounds; which of them begins
alternates. Shown are the medians, by the clock and in CPU: the client builds and sends some 50 bytes more, the server
remembers each id for two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import slipstream
from benchmarks.contenders import IN_FLIGHT, in_flight
from slipstream.interfaces import KvStore
from slipstream.testing.server import NatsServer

VALUE = b"v" * 256
WITH, WITHOUT = "with", "without"


class Cost(NamedTuple):
    """Microseconds for one write: by the clock, of the client's CPU, of the server's."""

    wall: float
    client: float
    server: float


@dataclass
class Work:
    """What is done with one store, so many writes of it."""

    writes: int
    run: Callable[[KvStore], Awaitable[object]]
    costs: dict[str, list[Cost]] = field(default_factory=lambda: defaultdict(list))

    def median(self, who: str) -> Cost:
        return Cost(*map(statistics.median, zip(*self.costs[who], strict=True)))


def works(keys: list[str], few: list[str]) -> dict[str, Work]:
    async def one_by_one(store: KvStore) -> None:
        for key in few:
            await store.put(key, VALUE)

    async def many_at_once(store: KvStore) -> None:
        await in_flight(keys, lambda key: store.put(key, VALUE))

    async def pipelined(store: KvStore) -> None:
        await store.put_many((key, VALUE) for key in keys)

    return {
        "sequential put": Work(len(few), one_by_one),
        f"put, {IN_FLIGHT} in flight": Work(len(keys), many_at_once),
        "put_many": Work(len(keys), pipelined),
    }


def server_seconds(pid: int) -> float:
    """CPU that the process has had; 0 where the system does not say so like Linux."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


async def measure(work: Work, store: KvStore, pid: int) -> Cost:
    wall, client, server = time.perf_counter(), time.process_time(), server_seconds(pid)
    await work.run(store)
    spent = time.perf_counter() - wall, time.process_time() - client, server_seconds(pid) - server
    return Cost(*(seconds / work.writes * 1e6 for seconds in spent))


def table(found: dict[str, Work]) -> list[str]:
    lines = [
        "| work | with /s | without /s | costs | client CPU µs | without | server CPU µs | without |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, work in found.items():
        on, off = work.median(WITH), work.median(WITHOUT)
        cells = [
            name,
            f"{1e6 / on.wall:,.0f}",
            f"{1e6 / off.wall:,.0f}",
            f"{on.wall / off.wall - 1:+.0%}",
            *(f"{cost:.1f}" for cost in (on.client, off.client, on.server, off.server)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


async def main(count: int, few: int, rounds: int) -> None:
    load = os.getloadavg()[0]
    keys = [f"key.{number}" for number in range(count)]
    found = works(keys, keys[:few])
    async with NatsServer() as server, AsyncExitStack() as stack:
        stores = {}
        for who in (WITH, WITHOUT):
            conn = await stack.enter_async_context(
                slipstream.connect(server.url, op_timeout=600, retry_writes=who == WITH)
            )
            stores[who] = await conn.store("message-ids")
            await stores[who].put_many((key, VALUE) for key in keys)  # what is new is not to be counted
        for number in range(rounds):
            for work in found.values():
                for who in (WITH, WITHOUT) if number % 2 else (WITHOUT, WITH):
                    work.costs[who].append(await measure(work, stores[who], server.pid))
        print("\n".join(table(found)))
        print(
            f"\n{count:,} keys ({few:,} one by one), values of {len(VALUE)} bytes, medians of {rounds} rounds, "
            f"nats-server {server.version()}; load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--few", type=int, default=5_000, help="writes one by one")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    asyncio.run(main(args.keys, args.few, args.rounds))
