"""Objects that are asked how they are doing whenever metrics are collected.

They are held weakly, and asked in their own event loop: collecting happens in a thread of the exporter, and nothing
that lives in a loop may be read from another thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from opentelemetry.metrics import CallbackOptions, Meter
from opentelemetry.metrics import Observation as Measured

from slipstream.otel.names import Sampled

_log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE = 1.0
"""Seconds that a collecting thread waits for an event loop; one that is blocked is not waited for again and again."""

Attributes = Mapping[str, str]
_Series = tuple[Sampled, frozenset[tuple[str, str]]]


class Point(NamedTuple):
    """A value of now; `more` are attributes beside those of the object."""

    metric: Sampled
    value: float
    more: Attributes = MappingProxyType({})


class Observation:
    """Something is observed: `with observe_replica(replica):`, or until `close`."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end

    def close(self) -> None:
        """Observe it no more; safe to repeat. What was counted stays counted."""
        end, self._end = self._end, None
        if end is not None:
            end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Sampler:
    """Makes the values of some metrics out of all objects that are observed."""

    def __init__(self, meter: Meter, metrics: Iterable[Sampled]) -> None:
        self._sources: dict[_Source[Any], None] = {}  # in their order
        self._totals: dict[_Series, float] = {}
        self._lock = threading.Lock()  # held for moments only, never while a loop is waited for
        # Each metric is collected by a call of its own. All those of one collection are given the same sample: a new
        # one is taken when a metric is asked for a second time.
        self._told: set[Sampled] = set()
        for metric in metrics:
            self._told.add(metric)
            make = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
            make(
                metric.name,
                callbacks=[partial(self._collect, metric)],
                unit=metric.unit,
                description=metric.description,
            )

    def add(self, target: T, read: Callable[[T], Iterable[Point]], attributes: Attributes) -> Observation:
        """Ask the target from now on, until the observation is closed or the target is gone.

        Args:
            read: must not hold the target; called in the running event loop, of which this is called.
            attributes: of every point.
        Raises: RuntimeError without a running event loop.
        """
        source = _Source(weakref.ref(target), read, attributes, asyncio.get_running_loop())
        with self._lock:
            self._sources[source] = None
        return Observation(partial(self._remove, source))

    def _remove(self, source: _Source[Any]) -> None:
        self._sample([source])
        with self._lock:
            self._sources.pop(source, None)

    def _collect(self, metric: Sampled, _: CallbackOptions) -> list[Measured]:
        with self._lock:
            again = metric in self._told
            if again:
                self._told.clear()
            self._told.add(metric)
            sources = list(self._sources)
        if again:
            self._sample(sources)
        with self._lock:
            values = self._totals if metric.kind == "counter" else self._combined(metric)
            return [Measured(value, dict(series)) for (one, series), value in values.items() if one is metric]

    def _sample(self, sources: list[_Source[Any]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Source[Any]]] = {}
        for source in sources:
            by_loop.setdefault(source.loop, []).append(source)
        for loop, ours in by_loop.items():
            call_in(loop, partial(self._read, ours))

    def _read(self, sources: list[_Source[Any]]) -> None:
        for source in sources:
            points = source.points()
            with self._lock:
                if points is None:
                    self._sources.pop(source, None)
                    continue
                for (metric, series), grown in source.take(points):
                    self._totals[metric, series] = self._totals.get((metric, series), 0) + grown

    def _combined(self, metric: Sampled) -> dict[_Series, float]:
        found: dict[_Series, list[float]] = {}
        for source in self._sources:
            for series, value in source.gauges.items():
                if series[0] is metric:
                    found.setdefault(series, []).append(value)
        return {series: metric.combine(values) for series, values in found.items()}


class _Source(Generic[T]):
    def __init__(
        self,
        target: weakref.ref[T],
        read: Callable[[T], Iterable[Point]],
        attributes: Attributes,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self.gauges: dict[_Series, float] = {}
        self._counted: dict[_Series, float] = {}
        self._target = target
        self._read = read
        self._attributes = attributes

    def points(self) -> list[Point] | None:
        """What it says now; nothing if it fails, None if it is gone."""
        target = self._target()
        if target is None:
            return None
        try:
            return list(self._read(target))
        except Exception:  # noqa: BLE001 - whatever it is: it is not to cost the metrics of all others
            _log.exception("a %s could not be observed", type(target).__name__)
            return []

    def take(self, points: list[Point]) -> Iterable[tuple[_Series, float]]:
        """Keep the gauges; by how much each counter has grown."""
        self.gauges = {}
        for metric, value, more in points:
            series = metric, frozenset({**self._attributes, **more}.items())
            if metric.kind == "counter":
                yield series, value - self._counted.get(series, 0)
                self._counted[series] = value
            elif math.isfinite(value):  # what is infinite is not known yet, and no number to exporters
                self.gauges[series] = value


_asked: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Future[None]] = weakref.WeakKeyDictionary()


def call_in(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    """Call it in the thread of the loop, and wait for that for `PATIENCE` at most; it may be called later than that.

    Not at all while an earlier call has not come to its turn.
    """
    if loop is _running_loop() or not loop.is_running():
        work()  # nobody else is at what lives in the loop
        return
    asked = _asked.get(loop)
    if asked is not None and not asked.done():
        return
    done: Future[None] = Future()
    _asked[loop] = done

    def call() -> None:
        try:
            work()
        finally:
            done.set_result(None)

    try:
        loop.call_soon_threadsafe(call)
        done.result(PATIENCE)
    except TimeoutError:
        _log.debug("an event loop did not answer within %g s: its metrics are as of before", PATIENCE)
    except RuntimeError:  # it has been closed meanwhile
        done.set_result(None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
