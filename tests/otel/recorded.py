"""The real SDK, with an exporter and a reader that keep everything in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer


@dataclass
class Recorded:
    """What was recorded."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    traces: TracerProvider = field(default_factory=lambda: TracerProvider(shutdown_on_exit=False))
    meters: MeterProvider = field(init=False)

    def __post_init__(self) -> None:
        self.traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)

    @property
    def providers(self) -> dict[str, Any]:
        """The arguments of `instrument`."""
        return {"tracer_provider": self.traces, "meter_provider": self.meters}

    @property
    def tracer(self) -> Tracer:
        return self.traces.get_tracer("the application")

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """Those that have ended, in the order in which they did."""
        ended = self.exporter.get_finished_spans()
        return [span for span in ended if name is None or span.name == name]

    def close(self) -> None:
        self.traces.shutdown()
        self.meters.shutdown()

    def span(self, name: str) -> ReadableSpan:
        """The only one of that name."""
        (found,) = self.spans(name)
        return found

    def points(self, metric: str) -> list[tuple[dict[str, Any], Any]]:
        """The attributes and the data point of each series of the metric, as of now."""
        return [(dict(point.attributes or {}), point) for point in self.collect().get(metric, [])]

    def collect(self) -> dict[str, list[Any]]:
        """The data points of all metrics, as of now."""
        data = self.reader.get_metrics_data()
        scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics] if data is not None else []
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}

    def value(self, metric: str, **wanted: str) -> float | None:
        """The value of the only series that has these attributes (dots written as `_`), None if there is none."""
        values = [
            point.value
            for attributes, point in self.points(metric)
            if wanted.items() <= {name.replace(".", "_"): value for name, value in attributes.items()}.items()
        ]
        assert len(values) <= 1, values
        return values[0] if values else None
