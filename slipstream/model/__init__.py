"""L0: the values that every layer speaks in. All are immutable; constructors take keywords only.

    times     what the server's times are to us
    tokens    versions and cursors
    entries   what a key holds, and what happened to it
    config    how a bucket is made
    status    how buckets, watches and servers are doing

Backends make entries and updates by `new_entry`, `new_update` and `new_puts`, which cost less than the constructors.
"""

from types import FunctionType

from slipstream.model.config import Placement, StoreConfig
from slipstream.model.entries import (
    KvEntry,
    KvUpdate,
    Marks,
    Operation,
    entries_of,
    expiring,
    new_entry,
    new_puts,
    new_update,
)
from slipstream.model.status import (
    ConnectionCapabilities,
    ConnectionEvent,
    ConnectionState,
    Drift,
    StoreStatus,
    WatchStatistics,
)
from slipstream.model.times import Moment, parse_time, time_from_ns, to_datetime
from slipstream.model.tokens import VersionToken, WatchCursor

__all__ = [
    "ConnectionCapabilities",
    "ConnectionEvent",
    "ConnectionState",
    "Drift",
    "KvEntry",
    "KvUpdate",
    "Marks",
    "Moment",
    "Operation",
    "Placement",
    "StoreConfig",
    "StoreStatus",
    "VersionToken",
    "WatchCursor",
    "WatchStatistics",
    "entries_of",
    "expiring",
    "new_entry",
    "new_puts",
    "new_update",
    "parse_time",
    "time_from_ns",
    "to_datetime",
]

# Pickles name what they hold by its home: it is this package, in whichever of its modules it is written. So those with
# classes do without `from __future__ import annotations`, whose names would be looked for here.
for _value in [globals()[_name] for _name in __all__]:
    if isinstance(_value, type | FunctionType):
        _value.__module__ = __name__
