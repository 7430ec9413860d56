"""slipstream: a replicated key-value store for asyncio programs, on NATS JetStream.

async with slipstream.connect("nats://127.0.0.1:4222") as conn:
    store = await conn.store("config")
    version = await store.put("node.eu-1", b"up")
"""

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
from slipstream.replica import (
    AuditReport,
    BatchConfig,
    MemorySnapshot,
    Replica,
    ReplicaProgress,
    ReplicaStatistics,
    SnapshotStore,
    WatchScope,
    watch_applied,
)

if TYPE_CHECKING:
    from slipstream.stores.nats import NatsConnection

__all__ = [
    "AlreadyExistsError",
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
    "SerializationError",
    "SnapshotCorruptedError",
    "SnapshotError",
    "SnapshotStore",
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


def __getattr__(name: str) -> Any:
    # Lazily, so that `import slipstream` imports no NATS client (tests/unit/test_public_api.py).
    if name == "NatsConnection":
        from slipstream.stores.nats import NatsConnection

        return NatsConnection
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
