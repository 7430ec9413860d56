"""How quick the server is from here."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from slipstream.cli.connecting import open_connection
from slipstream.cli.exits import Exit, UsageError
from slipstream.cli.options import DEFAULTS, Options
from slipstream.cli.output import Output
from slipstream.cli.render import seconds
from slipstream.interfaces import KvStore
from slipstream.model import StoreConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Some operations: all of them in `total` seconds; those that were timed one by one in `each`."""

    name: str
    count: int
    total: float
    each: Sequence[float] = ()

    def record(self) -> dict[str, Any]:
        """Times in seconds."""
        record: dict[str, Any] = {
            "operation": self.name,
            "count": self.count,
            "seconds": self.total,
            "per_second": self.count / self.total if self.total else None,
        }
        return record | self.percentiles()

    def percentiles(self) -> dict[str, float]:
        if len(self.each) < 2:
            return {}
        cuts = statistics.quantiles(self.each, n=100, method="inclusive")
        return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(self.each)}


async def bench(
    *,
    count: Annotated[int, Parameter(help="Operations of each kind.")] = 1000,
    size: Annotated[int, Parameter(help="Bytes of a value.")] = 256,
    replicas: Annotated[int, Parameter(help="Servers of a cluster that hold the store.")] = 1,
    storage: Annotated[Literal["persistent", "memory"], Parameter(help="Of the store.")] = "persistent",
    options: Options = DEFAULTS,
) -> int:
    """Measure puts, gets, a scan and a watch on a store of its own, which is deleted at the end.

    One operation after the other where percentiles are shown: they are what a caller waits for.
    """
    if count < 1 or size < 1:
        raise UsageError("--count and --size are at least 1")
    out = options.output()
    config = StoreConfig(name=f"bench-{secrets.token_hex(8)}", storage=storage, num_replicas=replicas)
    async with open_connection(options) as connection:
        store = await connection.store(config)
        try:
            results = await _measure(store, count, secrets.token_bytes(size))
        finally:
            await asyncio.shield(connection.delete_store(config.name))
    _tell(out, results)
    return Exit.OK


async def _measure(store: KvStore, count: int, value: bytes) -> list[Measured]:
    keys = [f"key.{number}" for number in range(count)]
    return [
        await _one_by_one("put", keys, lambda key: store.put(key, value)),
        await _together("put, pipelined", count, lambda: store.put_many((key, value) for key in keys)),
        await _one_by_one("get", keys, store.get),
        await _together("get, together", count, lambda: store.get_many(keys)),
        await _together("scan", count, store.scan),
        await _deliveries(store, keys, value),
    ]


async def _one_by_one(name: str, keys: list[str], operation: Callable[[str], Awaitable[object]]) -> Measured:
    each = []
    began = time.perf_counter()
    for key in keys:
        started = time.perf_counter()
        await operation(key)
        each.append(time.perf_counter() - started)
    return Measured(name=name, count=len(keys), total=time.perf_counter() - began, each=each)


async def _together(name: str, count: int, operation: Callable[[], Awaitable[object]]) -> Measured:
    began = time.perf_counter()
    await operation()
    return Measured(name=name, count=count, total=time.perf_counter() - began)


async def _deliveries(store: KvStore, keys: list[str], value: bytes) -> Measured:
    """From the beginning of a put until a watch has handed it out."""
    each = []
    async with store.watch("delivered.") as watching:
        await watching.wait_hydrated()
        began = time.perf_counter()
        for key in keys:
            started = time.perf_counter()
            await store.put(f"delivered.{key}", value)
            await anext(watching)
            each.append(time.perf_counter() - started)
    return Measured(name="put to watch", count=len(keys), total=time.perf_counter() - began, each=each)


def _tell(out: Output, results: list[Measured]) -> None:
    if out.json:
        for result in results:
            out.record(result.record(), "")
        return
    rows = []
    for result in results:
        percentiles = result.percentiles()
        rows.append(
            (
                result.name,
                f"{result.count / result.total:,.0f}/s",
                *(seconds(percentiles[name]) if name in percentiles else "" for name in ("p50", "p95", "p99", "max")),
            )
        )
    out.table(rows, head=("operation", "rate", "p50", "p95", "p99", "max"))
