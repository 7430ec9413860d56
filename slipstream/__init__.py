"""slipstream: a replicated key-value store for asyncio programs, on NATS JetStream.

async with slipstream.connect("nats://127.0.0.1:4222") as conn:
    store = await conn.store("config")
    version = await store.put("node.eu-1", b"up")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from slipstream.connect import connect
from slipstream.errors import (
    AlreadyExistsError,
    ArtifactError,
    AuthenticationError,
    BulkWriteError,
    ConflictError,
    ConnectionFailedError,
    CursorExpiredError,
    DeserializationError,
    FencedError,
    InvalidKeyError,
    KeyNotFoundError,
    KvError,
    NotConnectedError,
    OperationFailedError,
    OperationTimeoutError,
    PermissionDeniedError,
    RevisionMismatchError,
    SerializationError,
    SnapshotCorruptedError,
    SnapshotError,
    StoreFullError,
    StoreNotFoundError,
    UnsupportedError,
    ValueTooLargeError,
    WatchError,
)
from slipstream.interfaces import (
    Connection,
    KvReader,
    KvStore,
    KvWatcher,
    KvWriter,
    Transaction,
    Watch,
)
from slipstream.model import (
    ConnectionCapabilities,
    Drift,
    KvEntry,
    KvUpdate,
    Operation,
    Placement,
    StoreConfig,
    StoreStatus,
    VersionToken,
    WatchCursor,
    WatchStatistics,
)

if TYPE_CHECKING:
    from slipstream.replica import (
        AppendLogSnapshot,
        AuditReport,
        BatchConfig,
        MemorySnapshot,
        Replica,
        ReplicaProgress,
        ReplicaStatistics,
        RocksSnapshot,
        SnapshotStore,
        SqliteSnapshot,
        WatchScope,
        watch_applied,
    )
    from slipstream.stores.nats import NatsConnection

__all__ = [
    "AlreadyExistsError",
    "AppendLogSnapshot",
    "ArtifactError",
    "AuditReport",
    "AuthenticationError",
    "BatchConfig",
    "BulkWriteError",
    "ConflictError",
    "Connection",
    "ConnectionCapabilities",
    "ConnectionFailedError",
    "CursorExpiredError",
    "DeserializationError",
    "Drift",
    "FencedError",
    "InvalidKeyError",
    "KeyNotFoundError",
    "KvEntry",
    "KvError",
    "KvReader",
    "KvStore",
    "KvUpdate",
    "KvWatcher",
    "KvWriter",
    "MemorySnapshot",
    "NatsConnection",
    "NotConnectedError",
    "Operation",
    "OperationFailedError",
    "OperationTimeoutError",
    "PermissionDeniedError",
    "Placement",
    "Replica",
    "ReplicaProgress",
    "ReplicaStatistics",
    "RevisionMismatchError",
    "RocksSnapshot",
    "SerializationError",
    "SnapshotCorruptedError",
    "SnapshotError",
    "SnapshotStore",
    "SqliteSnapshot",
    "StoreConfig",
    "StoreFullError",
    "StoreNotFoundError",
    "StoreStatus",
    "Transaction",
    "UnsupportedError",
    "ValueTooLargeError",
    "VersionToken",
    "Watch",
    "WatchCursor",
    "WatchError",
    "WatchScope",
    "WatchStatistics",
    "connect",
    "watch_applied",
]


_HOMES = {
    "AppendLogSnapshot": "slipstream.replica",
    "AuditReport": "slipstream.replica",
    "BatchConfig": "slipstream.replica",
    "MemorySnapshot": "slipstream.replica",
    "NatsConnection": "slipstream.stores.nats",
    "Replica": "slipstream.replica",
    "ReplicaProgress": "slipstream.replica",
    "ReplicaStatistics": "slipstream.replica",
    "RocksSnapshot": "slipstream.replica",
    "SnapshotStore": "slipstream.replica",
    "SqliteSnapshot": "slipstream.replica",
    "WatchScope": "slipstream.replica",
    "watch_applied": "slipstream.replica",
}


def __getattr__(name: str) -> Any:
    # Lazily, so that `import slipstream` imports no NATS client and no database (tests/unit/test_public_api.py).
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
