"""`python benchmarks/otel.py`: what `slipstream.otel.instrument` costs for each operation.

The same store as it is, instrumented without an SDK, with an SDK that samples nothing, and with one that records every
span. They take turns in several rounds; which begins moves on. Shown are the medians, by the clock. In memory an
operation is nothing but Python, so that the difference is the wrapper's and the SDK's; on a server it is what a program
sees.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

sys.path.insert(0, str(Path(__file__).parent.parent))

import slipstream
from slipstream.interfaces import KvStore
from slipstream.otel import instrument
from slipstream.testing.server import NatsServer

VALUE = b"v" * 256
PLAIN = "as it is"


class Nowhere(SpanExporter):
    """Takes what a real one would send."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def with_sdk(store: KvStore, sampler: Sampler, stack: AsyncExitStack) -> KvStore:
    traces = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    traces.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=100_000))
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    stack.callback(traces.shutdown)
    stack.callback(meters.shutdown)
    return instrument(store, tracer_provider=traces, meter_provider=meters)


def contenders(store: KvStore, stack: AsyncExitStack) -> dict[str, KvStore]:
    return {
        PLAIN: store,
        "no SDK": instrument(store),
        "SDK, not sampled": with_sdk(store, ALWAYS_OFF, stack),
        "SDK, every span": with_sdk(store, ALWAYS_ON, stack),
    }


def works(count: int) -> dict[str, Callable[[KvStore], Awaitable[None]]]:
    keys = [f"key.{number}" for number in range(count)]

    async def put(store: KvStore) -> None:
        for key in keys:
            await store.put(key, VALUE)

    async def get(store: KvStore) -> None:
        for key in keys:
            await store.get(key)

    async def watch(store: KvStore) -> None:
        seen = 0
        async with store.watch() as updates:
            async for _ in updates:
                seen += 1
                if seen == count:
                    break

    return {"put": put, "get": get, "an update of a watch": watch}


async def measure(store: KvStore, count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds for one operation, by work and contender."""
    costs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    async with AsyncExitStack() as stack:
        stores = list(contenders(store, stack).items())
        for number in range(rounds + 1):
            turn = number % len(stores)
            for name, work in works(count).items():
                for who, one in stores[turn:] + stores[:turn]:
                    began = time.perf_counter()
                    await work(one)
                    if number:  # the first one warms up
                        costs[name][who].append((time.perf_counter() - began) / count * 1e6)
    return {name: {who: statistics.median(each) for who, each in found.items()} for name, found in costs.items()}


def table(where: str, found: dict[str, dict[str, float]]) -> list[str]:
    lines = []
    for name, costs in found.items():
        plain = costs[PLAIN]
        cells = [f"{plain:.1f}", *(f"{cost:.1f} ({cost - plain:+.1f})" for who, cost in costs.items() if who != PLAIN)]
        lines.append(f"| {name}, {where} | {' | '.join(cells)} |")
    return lines


async def main(count: int, rounds: int) -> None:
    async with slipstream.connect("memory://") as connection:
        rows = table("in memory", await measure(await connection.store("otel"), count, rounds))
    async with NatsServer() as server, slipstream.connect(server.url) as connection:
        rows += table("on a server", await measure(await connection.store("otel"), count, rounds))
        version = server.version()
    print(
        f"| µs for each | {PLAIN} | no SDK | SDK, not sampled | SDK, every span |\n| --- | ---: | ---: | ---: | ---: |"
    )
    print("\n".join(rows))
    print(
        f"\n{count:,} operations one by one, values of {len(VALUE)} bytes, medians of {rounds} rounds, "
        f"Python {sys.version.split()[0]}, nats-server {version}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    asyncio.run(main(args.operations, args.rounds))
