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
    from slipstream.cache import KvCache
    from slipstream.config import LiveConfig
    from slipstream.follow import JsonLinesSnapshot
    from slipstream.stores.nats import NatsConnection
    from slipstream.typed import TypedEntry, TypedStore, TypedUpdate

__all__ = [
    "AlreadyExistsError",
    "ArtifactError",
    "AuthenticationError",
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
    "JsonLinesSnapshot",
    "KeyNotFoundError",
    "KvCache",
    "KvEntry",
    "KvError",
    "KvReader",
    "KvStore",
    "KvUpdate",
    "KvWatcher",
    "KvWriter",
    "LiveConfig",
    "NatsConnection",
    "NotConnectedError",
    "Operation",
    "OperationFailedError",
    "OperationTimeoutError",
    "PermissionDeniedError",
    "Placement",
    "RevisionMismatchError",
    "SerializationError",
    "SnapshotCorruptedError",
    "SnapshotError",
    "StoreConfig",
    "StoreFullError",
    "StoreNotFoundError",
    "StoreStatus",
    "Transaction",
    "TypedEntry",
    "TypedStore",
    "TypedUpdate",
    "UnsupportedError",
    "ValueTooLargeError",
    "VersionToken",
    "Watch",
    "WatchCursor",
    "WatchError",
    "WatchStatistics",
    "connect",
]


# Lazily, so that `import slipstream` imports no NATS client (tests/unit/test_public_api.py) and little else.
_LAZY = {
    "JsonLinesSnapshot": "slipstream.follow",
    "KvCache": "slipstream.cache",
    "LiveConfig": "slipstream.config",
    "NatsConnection": "slipstream.stores.nats",
    "TypedEntry": "slipstream.typed",
    "TypedStore": "slipstream.typed",
    "TypedUpdate": "slipstream.typed",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
