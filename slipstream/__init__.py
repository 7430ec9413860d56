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
    from slipstream.coordination import (
        Barrier,
        Counter,
        FencingToken,
        Leader,
        LeaderElection,
        Lease,
        Lock,
        Lost,
        MemberChange,
        MemberEvent,
        Membership,
        Permit,
        Semaphore,
        Term,
    )
    from slipstream.stores.nats import NatsConnection

__all__ = [
    "AlreadyExistsError",
    "ArtifactError",
    "AuthenticationError",
    "Barrier",
    "BulkWriteError",
    "ConflictError",
    "Connection",
    "ConnectionCapabilities",
    "ConnectionFailedError",
    "Counter",
    "CursorExpiredError",
    "DeserializationError",
    "Drift",
    "FencedError",
    "FencingToken",
    "InvalidKeyError",
    "KeyNotFoundError",
    "KvEntry",
    "KvError",
    "KvReader",
    "KvStore",
    "KvUpdate",
    "KvWatcher",
    "KvWriter",
    "Leader",
    "LeaderElection",
    "Lease",
    "Lock",
    "Lost",
    "MemberChange",
    "MemberEvent",
    "Membership",
    "NatsConnection",
    "NotConnectedError",
    "Operation",
    "OperationFailedError",
    "OperationTimeoutError",
    "PermissionDeniedError",
    "Permit",
    "Placement",
    "RevisionMismatchError",
    "Semaphore",
    "SerializationError",
    "SnapshotCorruptedError",
    "SnapshotError",
    "StoreConfig",
    "StoreFullError",
    "StoreNotFoundError",
    "StoreStatus",
    "Term",
    "Transaction",
    "UnsupportedError",
    "ValueTooLargeError",
    "VersionToken",
    "Watch",
    "WatchCursor",
    "WatchError",
    "WatchStatistics",
    "connect",
]

# Imported when they are asked for, so that `import slipstream` imports no NATS client (tests/unit/test_public_api.py)
# and nobody pays for what they do not use.
_HOMES = {
    "slipstream.coordination": (
        "Barrier",
        "Counter",
        "FencingToken",
        "Leader",
        "LeaderElection",
        "Lease",
        "Lock",
        "Lost",
        "MemberChange",
        "MemberEvent",
        "Membership",
        "Permit",
        "Semaphore",
        "Term",
    ),
    "slipstream.stores.nats": ("NatsConnection",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
