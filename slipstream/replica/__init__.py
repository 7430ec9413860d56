"""L2: a local copy of a bucket that is right, survives restarts and can be shipped. It sees interfaces only.

snapshot        what a snapshot store is
change          pure: what a batch does to a fold
worker, folder  a thread for what blocks; a folder with one owner
disk            what the stores on disk share
append_log, sqlite_snapshot, rocks_snapshot
"""

from typing import TYPE_CHECKING, Any

from slipstream.replica.append_log import AppendLogSnapshot
from slipstream.replica.snapshot import SnapshotStore
from slipstream.replica.sqlite_snapshot import SqliteSnapshot

if TYPE_CHECKING:
    from slipstream.replica.rocks_snapshot import RocksSnapshot

__all__ = ["AppendLogSnapshot", "RocksSnapshot", "SnapshotStore", "SqliteSnapshot"]


def __getattr__(name: str) -> Any:
    # Lazily: it needs the extra `rocks`.
    if name == "RocksSnapshot":
        from slipstream.replica.rocks_snapshot import RocksSnapshot

        return RocksSnapshot
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
