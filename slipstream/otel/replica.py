"""How a replica is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import MeterProvider

from slipstream.otel.instruments import instruments
from slipstream.otel.names import NAMESPACE, REPLICA, SYSTEM, SYSTEM_NAME, ReplicaMetrics
from slipstream.otel.sampling import Observation, Point

if TYPE_CHECKING:
    from slipstream.replica import Replica


def observe_replica(
    replica: Replica, *, name: str | None = None, meter_provider: MeterProvider | None = None
) -> Observation:
    """Report how the replica is doing whenever metrics are collected: `with observe_replica(replica):`.

    It is held weakly: a replica that is dropped is forgotten. Call it in the event loop of the replica.

    Args:
        name: tells replicas of one process apart; None: the bucket's. Of those with one name the worst is reported.
        meter_provider: None: that of the process.
    Raises: RuntimeError without a running event loop.
    """
    attributes = {SYSTEM_NAME: SYSTEM, NAMESPACE: replica.bucket, REPLICA: replica.bucket if name is None else name}
    return instruments(meter_provider).replicas.add(replica, _condition, attributes)


def _condition(replica: Replica) -> list[Point]:
    progress, done = replica.progress(), replica.statistics()
    revision = replica.cursor.revision
    cursor = [] if revision is None else [Point(ReplicaMetrics.CURSOR, revision)]
    return [
        *cursor,
        Point(ReplicaMetrics.STALENESS, replica.staleness),
        Point(ReplicaMetrics.KEYS, len(replica)),
        Point(ReplicaMetrics.APPLIED, progress.done),
        Point(ReplicaMetrics.BYTES, progress.bytes),
        Point(ReplicaMetrics.PENDING, progress.expected - progress.done),
        Point(ReplicaMetrics.REPAIRS, done.repairs),
        Point(ReplicaMetrics.REBUILDS, done.rebuilds),
        Point(ReplicaMetrics.AUDITS, done.audits),
        Point(ReplicaMetrics.FAILED_AUDITS, done.failed_audits),
        Point(ReplicaMetrics.REMOVED, done.removed),
        Point(ReplicaMetrics.RESTORED, done.restored),
        Point(ReplicaMetrics.SNAPSHOT_FAILURES, done.snapshot_failures),
    ]
