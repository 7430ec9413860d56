"""One operation: a span that is the parent of what happens inside, and how long it took with which outcome."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from time import perf_counter
from types import TracebackType
from typing import Self

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, TracerProvider

from slipstream.otel.instruments import Instruments, instruments
from slipstream.otel.names import (
    BATCH_SIZE,
    ERROR_TYPE,
    KEY,
    NAMESPACE,
    OPERATION,
    OUTCOME,
    PREFIX,
    SCOPE,
    STATUS_CODE,
    SYSTEM,
    SYSTEM_NAME,
    error_type,
    outcome_of,
    status_code,
)

_Attributes = Mapping[str, str | list[str]]


class Telemetry:
    """Where spans and measurements go, and whether keys may be in them."""

    def __init__(
        self, *, keys: bool, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
    ) -> None:
        self.keys = keys
        self.tracer: Tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        self.instruments: Instruments = instruments(meter_provider)

    def of_bucket(self, name: str | None) -> Operations:
        """The operations on a bucket; None: those on a connection."""
        return Operations(self, name)


class Operations:
    """Begins operations: `with operations.begin("get", key=key):`."""

    def __init__(self, telemetry: Telemetry, bucket: str | None) -> None:
        self.telemetry = telemetry
        self.attributes: dict[str, str] = {SYSTEM_NAME: SYSTEM}
        if bucket is not None:
            self.attributes[NAMESPACE] = bucket
        self._bucket = bucket
        self._known: dict[str, Kind] = {}

    def begin(self, name: str, *, key: str | None = None, prefix: str | list[str] | None = None) -> Operation:
        """An operation that begins when its block is entered."""
        kind = self._known.get(name)
        if kind is None:
            kind = self._known[name] = Kind(name, self._bucket, self.attributes)
        return Operation(self.telemetry, kind, self._named(kind, key, prefix))

    def count_batch(self, name: str, size: int) -> None:
        """Measure how many items there were in one batch."""
        self.telemetry.instruments.batch_size.record(size, {**self.attributes, OPERATION: name})

    def _named(self, kind: Kind, key: str | None, prefix: str | list[str] | None) -> _Attributes:
        if not self.telemetry.keys:
            return kind.attributes
        found: dict[str, str | list[str]] = {**kind.attributes}
        if key is not None:
            found[KEY] = key
        if prefix is not None:
            found[PREFIX] = prefix
        return found


class Kind:
    """What all operations of one name on one bucket have in common; made once, because every operation needs it."""

    __slots__ = ("attributes", "done", "span_name")

    def __init__(self, name: str, bucket: str | None, attributes: dict[str, str]) -> None:
        self.span_name = name if bucket is None else f"{name} {bucket}"
        self.attributes = {**attributes, OPERATION: name}
        self.done = {**self.attributes, OUTCOME: outcome_of(None)}


class Operation:
    """One operation. By itself it is the current span for as long as its block lasts; see `aside`."""

    __slots__ = ("_attributes", "_began", "_is_current", "_kind", "_span", "_telemetry", "_token")

    def __init__(self, telemetry: Telemetry, kind: Kind, attributes: _Attributes) -> None:
        self._telemetry = telemetry
        self._kind = kind
        self._attributes = attributes
        self._is_current = True
        self._token: Token[Context] | None = None
        self._span: Span = trace.INVALID_SPAN
        self._began = 0.0

    def aside(self) -> Self:
        """For a generator, whose block goes on while it has yielded: its span is current in `step` alone."""
        self._is_current = False
        return self

    def __enter__(self) -> Self:
        self._span = self._telemetry.tracer.start_span(
            self._kind.span_name, kind=SpanKind.CLIENT, attributes=self._attributes
        )
        if self._is_current and self._span.get_span_context().is_valid:  # without an SDK there is nothing to pass on
            self._token = context.attach(trace.set_span_in_context(self._span))
        self._began = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = perf_counter() - self._began
        if self._token is not None:
            context.detach(self._token)
        left_early = isinstance(error, GeneratorExit) and not self._is_current  # a generator, which has done its work
        if error is None or left_early:
            self._telemetry.instruments.duration.record(took, self._kind.done)
        else:
            self._failed(error, took)
        self._span.end()

    def step(self) -> Token[Context]:
        """Make the span current until `context.detach(token)`."""
        return context.attach(trace.set_span_in_context(self._span))

    def set_attribute(self, name: str, value: int) -> None:
        """Of the span alone."""
        self._span.set_attribute(name, value)

    def set_size(self, size: int) -> None:
        """How many items it has, which is measured, too."""
        if size != 1:  # by the conventions one alone is no batch
            self._span.set_attribute(BATCH_SIZE, size)
        self._telemetry.instruments.batch_size.record(size, self._kind.attributes)

    def _failed(self, error: BaseException, took: float) -> None:
        found: dict[str, str] = {OUTCOME: outcome_of(error)}
        if isinstance(error, Exception):
            # No message: it names the key, and that of somebody else's error may hold anything.
            found[ERROR_TYPE] = error_type(error)
            self._span.set_status(StatusCode.ERROR)
        self._span.set_attributes(found)
        code = status_code(error)
        if code is not None:
            self._span.set_attribute(STATUS_CODE, code)
        self._telemetry.instruments.duration.record(took, {**self._kind.attributes, **found})
