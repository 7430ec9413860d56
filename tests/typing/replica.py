"""How the replica looks to a type checker. Never executed: `mypy tests/typing` is the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import assert_type

from obstore.store import MemoryStore

from slipstream import (
    AppendLogSnapshot,
    AuditReport,
    BatchConfig,
    KvEntry,
    KvStore,
    KvUpdate,
    Lease,
    Manifest,
    MemorySnapshot,
    ObjectStoreTransport,
    Pointer,
    Publication,
    Replica,
    ReplicaProgress,
    ReplicaStatistics,
    SnapshotStore,
    VersionToken,
    WatchCursor,
    WatchScope,
    bootstrap,
    export_artifact,
    export_round,
    import_artifact,
    watch_applied,
)


async def applied(store: KvStore, stop: asyncio.Event) -> None:
    def take(batch: list[KvUpdate]) -> None: ...

    async def take_numbers(batch: list[int]) -> None: ...

    def parse(update: KvUpdate) -> int | None:
        return len(update.value) or None

    assert_type(await watch_applied(store, "a.", apply=take, stop=stop), WatchCursor)
    assert_type(await watch_applied(store, ["a", "b"], apply=take_numbers, parse=parse), WatchCursor)
    await watch_applied(store, WatchScope.everything(), apply=take, batch=BatchConfig(max_items=5, window=0.1))
    await watch_applied(store, apply=take_numbers)  # type: ignore[arg-type]


async def replica(store: KvStore, version: VersionToken) -> None:
    snapshot, cursor = await MemorySnapshot.open()
    assert_type(snapshot, MemorySnapshot)
    assert_type(cursor, WatchCursor)
    kept: SnapshotStore = snapshot
    async with Replica(store, "a.", snapshot=kept, audit_interval=None) as replica:
        assert_type(replica, Replica)
        await replica.ready(timeout=5)
        await replica.wait_for(version)
        assert_type(replica.get("a.1"), KvEntry | None)
        assert_type(replica.range("a."), Iterator[KvEntry])
        assert_type(replica.keys(), list[str])
        assert_type(replica.cursor, WatchCursor)
        assert_type(replica.staleness, float)
        assert_type(replica.progress(), ReplicaProgress)
        assert_type(replica.statistics(), ReplicaStatistics)
        assert_type(await replica.audit(), AuditReport)
        assert_type(replica.on_change(print), Callable[[], None])


async def artifacts(store: KvStore, replica: Replica, snapshot: SnapshotStore) -> None:
    assert_type(await export_artifact(replica, "artifact", kind=AppendLogSnapshot), Manifest)
    manifest = await export_artifact(snapshot, "artifact", bucket="config", prefix=["a", "b"])
    assert_type(manifest.cursor, WatchCursor)
    assert_type(manifest.size_bytes, int)
    await export_artifact(snapshot, "artifact")  # type: ignore[call-overload]
    await export_artifact(replica, "artifact", bucket="config")  # type: ignore[call-overload]
    assert_type(
        await import_artifact("artifact", "node", kind=AppendLogSnapshot, bucket="config", prefix="a"), Manifest
    )
    transport = ObjectStoreTransport(MemoryStore(), "config")
    published = await transport.publish("artifact")
    assert_type(published, Publication)
    assert_type(published.pointer, Pointer)
    assert_type(await transport.latest(), Pointer | None)
    assert_type(await transport.fetch_latest("artifact"), Manifest | None)
    assert_type(await transport.prune(), int)
    assert_type(await export_round(replica, transport, Lease(store, "export")), Publication | None)
    assert_type(await bootstrap(transport, "node", kind=AppendLogSnapshot, bucket="config"), Manifest | None)
