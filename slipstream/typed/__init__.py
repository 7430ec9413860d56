"""L2: the store's methods with pydantic models instead of bytes."""

from slipstream.typed.schema import Migration, Schema
from slipstream.typed.store import TypedReader, TypedStore, TypedWatcher, TypedWriter
from slipstream.typed.transaction import TypedTransaction
from slipstream.typed.values import Poison, TypedEntry, TypedUpdate
from slipstream.typed.watch import TypedWatch

__all__ = [
    "Migration",
    "Poison",
    "Schema",
    "TypedEntry",
    "TypedReader",
    "TypedStore",
    "TypedTransaction",
    "TypedUpdate",
    "TypedWatch",
    "TypedWatcher",
    "TypedWriter",
]
