"""What spans, metrics and attributes are called, and how an operation ended. Pure.

`db.*` and `error.type` are OpenTelemetry's semantic conventions for databases, as far as they are stable; literal here,
because the package that holds them is none (opentelemetry-semantic-conventions 0.x).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from slipstream.errors import BulkWriteError, KvError, OperationFailedError

SCOPE = "slipstream"
"""The name of the tracer and of the meter."""
SYSTEM = "slipstream"
"""`db.system.name`: the system as the client knows it. A store does not say what keeps it."""

SYSTEM_NAME = "db.system.name"
NAMESPACE = "db.namespace"
OPERATION = "db.operation.name"
BATCH_SIZE = "db.operation.batch.size"
STATUS_CODE = "db.response.status_code"
ERROR_TYPE = "error.type"
OUTCOME = "slipstream.outcome"
ATTEMPTS = "slipstream.attempts"
KEY = "slipstream.key"
PREFIX = "slipstream.prefix"
CONNECTION = "slipstream.connection.name"
STATE = "slipstream.connection.state"
REPLICA = "slipstream.replica.name"
LEASE = "slipstream.lease.name"
REASON = "slipstream.lease.reason"

Outcome = Literal["done", "refused", "partial", "unknown", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is measured. `{...}` as a unit is a count of that."""

    name: str
    unit: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(Metric):
    """A metric whose values are asked for when metrics are collected.

    Attributes:
        kind: a counter only grows, and keeps what objects counted that are gone.
        combine: makes one value of those of all objects with the same attributes; of counters it is the sum.
    """

    kind: Literal["counter", "gauge"]
    combine: Callable[[Iterable[float]], float] = sum


DURATION = Metric(name="db.client.operation.duration", unit="s", description="Duration of operations on stores")
DURATION_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Seconds; those that the semantic conventions ask for."""
BATCHES = Metric(name="slipstream.batch.size", unit="{item}", description="Items in one operation or batch")
BATCH_BOUNDS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)

WATCH_FAILURES = Metric(
    name="slipstream.watch.failures", unit="{watch}", description="Blocks of a watch that an error of the store ended"
)
CONNECTION_EVENTS = Metric(
    name="slipstream.connection.events", unit="{event}", description="Changes of the state of a connection"
)
LEASE_TERMS = Metric(name="slipstream.lease.terms", unit="{term}", description="Terms that have begun here")
LEASE_LOST = Metric(name="slipstream.lease.lost", unit="{term}", description="Terms that were lost before their end")
LEASE_HELD = Metric(name="slipstream.lease.held", unit="{term}", description="Terms that last: 1 while held here")


class WatchMetrics:
    """Of all open watches of a bucket together."""

    OPEN = Sampled(name="slipstream.watch.open", unit="{watch}", description="Open watches", kind="gauge")
    DELIVERED = Sampled(
        name="slipstream.watch.delivered", unit="{update}", description="Updates handed out", kind="counter"
    )
    PENDING = Sampled(
        name="slipstream.watch.pending", unit="{update}", description="Updates yet to be handed out", kind="gauge"
    )
    RESUMES = Sampled(
        name="slipstream.watch.resumes",
        unit="{resume}",
        description="Watches set up anew behind the scenes",
        kind="counter",
    )
    LAST_HEARD = Sampled(
        name="slipstream.watch.last_heard",
        unit="s",
        description="Time since the server was heard from, on the watch where that is longest ago",
        kind="gauge",
        combine=max,
    )


class ReplicaMetrics:
    """Of replicas; of several with one name the worst, or the sum of counts."""

    STALENESS = Sampled(
        name="slipstream.replica.staleness",
        unit="s",
        description="Time since the copy was known to be level with the bucket; none before the first time",
        kind="gauge",
        combine=max,
    )
    CURSOR = Sampled(
        name="slipstream.replica.cursor",
        unit="{revision}",
        description="Revision up to which everything is applied",
        kind="gauge",
        combine=min,
    )
    KEYS = Sampled(name="slipstream.replica.keys", unit="{key}", description="Keys in the copy", kind="gauge")
    APPLIED = Sampled(
        name="slipstream.replica.applied.updates", unit="{update}", description="Updates applied", kind="counter"
    )
    BYTES = Sampled(
        name="slipstream.replica.applied.size", unit="By", description="Keys and values applied", kind="counter"
    )
    PENDING = Sampled(
        name="slipstream.replica.pending", unit="{update}", description="Updates known of, not applied", kind="gauge"
    )
    REPAIRS = Sampled(
        name="slipstream.replica.repairs",
        unit="{repair}",
        description="Repairs after an expired cursor",
        kind="counter",
    )
    REBUILDS = Sampled(
        name="slipstream.replica.rebuilds", unit="{rebuild}", description="New beginnings", kind="counter"
    )
    AUDITS = Sampled(
        name="slipstream.replica.audit.done", unit="{audit}", description="Audits carried out", kind="counter"
    )
    FAILED_AUDITS = Sampled(
        name="slipstream.replica.audit.failed", unit="{audit}", description="Audits that failed", kind="counter"
    )
    REMOVED = Sampled(
        name="slipstream.replica.audit.removed", unit="{key}", description="Keys that audits removed", kind="counter"
    )
    RESTORED = Sampled(
        name="slipstream.replica.audit.restored", unit="{key}", description="Keys that audits restored", kind="counter"
    )
    SNAPSHOT_FAILURES = Sampled(
        name="slipstream.replica.snapshot.failures",
        unit="{failure}",
        description="Failures of the snapshot",
        kind="counter",
    )


class ConnectionMetrics:
    """Of connections."""

    COUNT = Sampled(
        name="slipstream.connection.count", unit="{connection}", description="Connections by state", kind="gauge"
    )


def metrics_of(group: type) -> tuple[Sampled, ...]:
    """All of a group."""
    return tuple(value for value in vars(group).values() if isinstance(value, Sampled))


def outcome_of(error: BaseException | None) -> Outcome:
    """How an operation ended: for a write, what became of it.

    `refused`: with an error, and nothing was written. `cancelled`: by the caller, and of a write nothing is known.
    """
    if error is None:
        return "done"
    if not isinstance(error, Exception):
        return "cancelled"
    if isinstance(error, KvError) and error.outcome_unknown:
        return "unknown"
    if isinstance(error, BulkWriteError) and error.versions:
        return "partial"
    return "refused"


def error_type(error: BaseException) -> str:
    """The `error.type`: the name of the class."""
    return type(error).__qualname__


def status_code(error: BaseException) -> str | None:
    """What the server answered, in its own numbers; None where it did not."""
    if not isinstance(error, OperationFailedError):
        return None
    code = error.err_code if error.err_code is not None else error.code
    return None if code is None else str(code)


# A reason is a text for people: that of a failed renewal is an error's, which names keys. A label has few values.
_REASONS = {
    "somebody else has won it": "superseded",
    "the server or somebody else has removed it": "removed",
    "the bucket is gone": "bucket_gone",
    "it was resigned": "resigned",
    "its keepalive has ended": "keepalive_ended",
    "it was not renewed in time: the event loop or the process stood still": "stood_still",
}


def reason_label(reason: str | None) -> str:
    """The short name of why a lease was lost: one of seven."""
    return _REASONS.get(reason or "", "not_renewed")
