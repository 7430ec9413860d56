"""L1: keeping something local at the state of a prefix: what caches and live configurations have in common."""

from slipstream.follow.following import Following, OpenStore
from slipstream.follow.snapshot import JsonLinesSnapshot, Snapshot, SnapshotFile
from slipstream.follow.state import Change, State

__all__ = ["Change", "Following", "JsonLinesSnapshot", "OpenStore", "Snapshot", "SnapshotFile", "State"]
