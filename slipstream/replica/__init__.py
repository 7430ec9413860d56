"""L2: a local copy of a bucket that is right, survives restarts and repairs itself. Sees the interfaces only.

replica, applied   what is used: `Replica`, `watch_applied`
follow             watches, applies, repairs, stops
apply, flush       one batch: its steps, and their order (pure)
repair, audit      the fold beside the bucket: after an expired cursor, and on a period
difference         what the two make of it (pure)
snapshot, memory   what keeps the fold
"""

from slipstream.replica.applied import watch_applied
from slipstream.replica.audit import AuditReport
from slipstream.replica.batch import BatchConfig
from slipstream.replica.memory import MemorySnapshot
from slipstream.replica.progress import ReplicaProgress
from slipstream.replica.replica import Replica, ReplicaStatistics
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore

__all__ = [
    "AuditReport",
    "BatchConfig",
    "MemorySnapshot",
    "Replica",
    "ReplicaProgress",
    "ReplicaStatistics",
    "SnapshotStore",
    "WatchScope",
    "watch_applied",
]
