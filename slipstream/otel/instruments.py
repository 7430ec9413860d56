"""What is made once for a meter provider, whatever is instrumented with it."""

from __future__ import annotations

import weakref

from opentelemetry import metrics
from opentelemetry.metrics import Counter, Meter, MeterProvider

from slipstream.otel.names import (
    BATCH_BOUNDS,
    BATCHES,
    CONNECTION_EVENTS,
    DURATION,
    DURATION_BOUNDS,
    LEASE_HELD,
    LEASE_LOST,
    LEASE_TERMS,
    SCOPE,
    WATCH_FAILURES,
    ConnectionMetrics,
    Metric,
    ReplicaMetrics,
    WatchMetrics,
    metrics_of,
)
from slipstream.otel.sampling import Sampler


class Instruments:
    """The metrics of slipstream."""

    def __init__(self, meter: Meter) -> None:
        self.duration = meter.create_histogram(
            DURATION.name,
            unit=DURATION.unit,
            description=DURATION.description,
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS,
        )
        self.batch_size = meter.create_histogram(
            BATCHES.name,
            unit=BATCHES.unit,
            description=BATCHES.description,
            explicit_bucket_boundaries_advisory=BATCH_BOUNDS,
        )
        self.watch_failures = _counter(meter, WATCH_FAILURES)
        self.connection_events = _counter(meter, CONNECTION_EVENTS)
        self.lease_terms = _counter(meter, LEASE_TERMS)
        self.lease_lost = _counter(meter, LEASE_LOST)
        self.lease_held = meter.create_up_down_counter(
            LEASE_HELD.name, unit=LEASE_HELD.unit, description=LEASE_HELD.description
        )
        self.watches = Sampler(meter, metrics_of(WatchMetrics))
        self.replicas = Sampler(meter, metrics_of(ReplicaMetrics))
        self.connections = Sampler(meter, metrics_of(ConnectionMetrics))


def _counter(meter: Meter, metric: Metric) -> Counter:
    return meter.create_counter(metric.name, unit=metric.unit, description=metric.description)


_of_the_process: Instruments | None = None
_of_providers: weakref.WeakKeyDictionary[MeterProvider, Instruments] = weakref.WeakKeyDictionary()


def instruments(provider: MeterProvider | None) -> Instruments:
    """Those of the provider, made when they are first asked for; None: of the process, also if it is set later.

    One set for each: a meter forgets the callbacks of an instrument that it has already (SDK 1.45), so two sets would
    each report half.
    """
    global _of_the_process  # noqa: PLW0603 - as the meter provider of the process is one
    if provider is None or provider is metrics.get_meter_provider():
        if _of_the_process is None:
            _of_the_process = Instruments(metrics.get_meter(SCOPE))
        return _of_the_process
    found = _of_providers.get(provider)
    if found is None:
        found = _of_providers[provider] = Instruments(provider.get_meter(SCOPE))
    return found
