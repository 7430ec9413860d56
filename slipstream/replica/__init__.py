"""L2: a local copy of a bucket that is right, survives restarts and repairs itself. It sees interfaces only.

replica, applied   what is used: `Replica`, `watch_applied`
follow             watches, applies, repairs, stops
apply, flush       one batch: its steps, and their order (pure)
repair, audit      the fold beside the bucket: after an expired cursor, and on a period
difference         what the two make of it (pure)
snapshot           what keeps the fold: memory, append_log, sqlite_snapshot, rocks_snapshot
change, order      what a batch does to a fold; its keys in order (pure)
worker, folder     a thread for what blocks; a folder with one owner
disk               what the snapshots on disk share
artifacts          a fold that is shipped to other nodes
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from slipstream.replica.append_log import AppendLogSnapshot
from slipstream.replica.applied import watch_applied
from slipstream.replica.audit import AuditReport
from slipstream.replica.batch import BatchConfig
from slipstream.replica.memory import MemorySnapshot
from slipstream.replica.progress import ReplicaProgress
from slipstream.replica.replica import Replica, ReplicaStatistics
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore
from slipstream.replica.sqlite_snapshot import SqliteSnapshot

if TYPE_CHECKING:
    from slipstream.replica.artifacts import (
        ArtifactFile,
        Manifest,
        ObjectStoreTransport,
        Pointer,
        Publication,
        RoundLease,
        bootstrap,
        export_artifact,
        export_round,
        import_artifact,
    )
    from slipstream.replica.rocks_snapshot import RocksSnapshot

__all__ = [
    "AppendLogSnapshot",
    "ArtifactFile",
    "AuditReport",
    "BatchConfig",
    "Manifest",
    "MemorySnapshot",
    "ObjectStoreTransport",
    "Pointer",
    "Publication",
    "Replica",
    "ReplicaProgress",
    "ReplicaStatistics",
    "RocksSnapshot",
    "RoundLease",
    "SnapshotStore",
    "SqliteSnapshot",
    "WatchScope",
    "bootstrap",
    "export_artifact",
    "export_round",
    "import_artifact",
    "watch_applied",
]

# Lazily: they need the extras `rocks` and `artifacts`.
_HOMES = {
    "RocksSnapshot": "slipstream.replica.rocks_snapshot",
    **dict.fromkeys(
        (
            "ArtifactFile",
            "Manifest",
            "ObjectStoreTransport",
            "Pointer",
            "Publication",
            "RoundLease",
            "bootstrap",
            "export_artifact",
            "export_round",
            "import_artifact",
        ),
        "slipstream.replica.artifacts",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
