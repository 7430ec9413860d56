"""L2: a prefix in memory, read at the speed of a dict and kept current by a watch."""

from slipstream.cache.cache import KvCache
from slipstream.cache.index import Index
from slipstream.follow import JsonLinesSnapshot, Snapshot, SnapshotFile

__all__ = ["Index", "JsonLinesSnapshot", "KvCache", "Snapshot", "SnapshotFile"]
