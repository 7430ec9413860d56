"""The watching role, observed: what is handed out one by one is not touched, the watch is asked for its statistics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Self

from slipstream.errors import KvError
from slipstream.interfaces import KvWatcher, Watch
from slipstream.model import KvUpdate, WatchCursor, WatchStatistics
from slipstream.otel.names import ERROR_TYPE, WatchMetrics, error_type
from slipstream.otel.operations import Operations
from slipstream.otel.sampling import Observation, Point


class InstrumentedWatcher(KvWatcher):
    def __init__(self, watcher: KvWatcher, operations: Operations) -> None:
        self._watcher = watcher
        self._operations = operations

    def watch(self, prefix: str | Iterable[str] = "", *, cursor: WatchCursor | None = None) -> Watch:
        prefixes = prefix if isinstance(prefix, str) else list(prefix)
        return InstrumentedWatch(self._watcher.watch(prefixes, cursor=cursor), self._operations, prefixes)


class InstrumentedWatch(Watch):
    """Entering it is an operation; while it is open, its statistics are among the metrics of the bucket."""

    def __init__(self, watch: Watch, operations: Operations, prefix: str | list[str]) -> None:
        self._watch = watch
        self._operations = operations
        self._prefix = prefix
        self._observation: Observation | None = None

    async def __aenter__(self) -> Self:
        with self._operations.begin("watch", prefix=self._prefix):
            await self._watch.__aenter__()
        sampler = self._operations.telemetry.instruments.watches
        self._observation = sampler.add(self, _statistics, self._operations.attributes)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if isinstance(error, KvError):
            failed = {**self._operations.attributes, ERROR_TYPE: error_type(error)}
            self._operations.telemetry.instruments.watch_failures.add(1, failed)
        await self._watch.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[KvUpdate]:
        return aiter(self._watch)  # nothing stands between the watch and whoever iterates

    async def __anext__(self) -> KvUpdate:
        return await anext(self._watch)

    def batches(self, max_items: int = 1000, max_wait: float = 0.01) -> AsyncIterator[list[KvUpdate]]:
        return _Batches(self._watch.batches(max_items, max_wait), self._operations)

    @property
    def cursor(self) -> WatchCursor:
        return self._watch.cursor

    @property
    def hydrated(self) -> bool:
        return self._watch.hydrated

    async def wait_hydrated(self) -> None:
        await self._watch.wait_hydrated()

    def statistics(self) -> WatchStatistics:
        return self._watch.statistics()

    async def aclose(self) -> None:
        self._end()
        await self._watch.aclose()

    def _end(self) -> None:
        if self._observation is not None:
            self._observation.close()


class _Batches(AsyncIterator[list[KvUpdate]]):
    """No generator: a cancelled one would be finished, and this can be asked again."""

    def __init__(self, batches: AsyncIterator[list[KvUpdate]], operations: Operations) -> None:
        self._batches = batches
        self._operations = operations

    async def __anext__(self) -> list[KvUpdate]:
        batch = await anext(self._batches)
        self._operations.count_batch("watch", len(batch))
        return batch


def _statistics(watch: Watch) -> list[Point]:
    now = watch.statistics()
    return [
        Point(WatchMetrics.OPEN, 1),
        Point(WatchMetrics.DELIVERED, now.delivered),
        Point(WatchMetrics.PENDING, now.pending),
        Point(WatchMetrics.RESUMES, now.resumes),
        Point(WatchMetrics.LAST_HEARD, now.last_heard),
    ]
