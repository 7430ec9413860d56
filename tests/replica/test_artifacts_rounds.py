"""One exporter a round, and nodes with an empty disk that start from what it has published."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore as MemoryObjects

from slipstream.coordination import Lease
from slipstream.errors import ArtifactError, FencedError
from slipstream.interfaces import Connection, KvStore
from slipstream.model import KvUpdate
from slipstream.replica import (
    AppendLogSnapshot,
    ObjectStoreTransport,
    Replica,
    SnapshotStore,
    bootstrap,
    export_round,
)
from slipstream.testing._waiting import bounded
from tests.replica.artifacts import leftovers, names_in, on_each_disk
from tests.replica.following import overwrite_all, values_in, values_of

VALUES = {f"k.{number:03}": b"1" for number in range(300)}


@pytest.fixture
async def leases(connection: Connection) -> AsyncIterator[KvStore]:
    """The bucket that the leases are in; it is not the one that is exported."""
    store = await connection.store(f"leases-{secrets.token_hex(4)}")
    yield store
    await connection.delete_store(store.name)


@asynccontextmanager
async def followed(store: KvStore) -> AsyncIterator[Replica]:
    async with bounded(), Replica(store, audit_interval=None) as replica:
        await replica.ready()
        yield replica


# An empty disk.


@on_each_disk
async def test_a_node_with_an_empty_disk_takes_the_artifact_and_then_the_delta_alone(
    store: KvStore, leases: KvStore, kind: type[SnapshotStore], tmp_path: Path
) -> None:
    """The bucket no longer has its old history. Counted is what is delivered: a replay of the bucket brings 300."""
    transport = ObjectStoreTransport(MemoryObjects())
    await overwrite_all(store, VALUES)
    status = await store.status()
    assert status.first_revision == status.last_revision - len(VALUES) + 1 > 1
    async with followed(store) as replica:
        assert await export_round(replica, transport, Lease(leases, "export"), kind=kind, workspace=tmp_path)
    await store.put("k.007", b"2")
    await store.delete("k.008")
    await store.put("new", b"1")

    folder = tmp_path / "node"
    manifest = await bootstrap(transport, folder, kind=kind, bucket=store.name)
    assert manifest is not None
    snapshot, cursor = await kind.open(folder)
    assert (cursor, len(snapshot)) == (manifest.cursor, len(VALUES))
    told: list[KvUpdate] = []
    async with bounded(), snapshot, Replica(store, snapshot=snapshot, on_change=told.extend) as node:
        await node.ready()
        watch = node._follower._watch
        assert watch is not None
        assert watch.statistics().delivered == node.progress().done == 3
        assert node.statistics().repairs == node.statistics().rebuilds == 0
        assert sorted(update.key for update in told) == ["k.007", "k.008", "new"]
        assert values_of(snapshot) == await values_in(store)
    # The next start goes on from its own disk.
    assert await bootstrap(transport, folder, kind=kind, bucket=store.name) is None
    assert leftovers(tmp_path) == []


async def test_a_node_that_begins_with_nothing_is_delivered_everything(store: KvStore) -> None:
    """What the test above counts: without the artifact it would be this."""
    await store.put_many(VALUES)
    async with followed(store) as node:
        watch = node._follower._watch
        assert watch is not None
        assert watch.statistics().delivered == len(VALUES)


async def test_an_artifact_that_is_too_old_is_repaired_like_any_cursor(
    store: KvStore, leases: KvStore, tmp_path: Path
) -> None:
    transport = ObjectStoreTransport(MemoryObjects())
    await store.put_many({**VALUES, "gone": b"1"})
    async with followed(store) as replica:
        await export_round(replica, transport, Lease(leases, "export"), workspace=tmp_path)
    await store.delete("gone")
    await store.purge_deletes()
    await overwrite_all(store, dict.fromkeys(VALUES, b"2"))
    await bootstrap(transport, tmp_path / "node", kind=AppendLogSnapshot, bucket=store.name)
    snapshot, _ = await AppendLogSnapshot.open(tmp_path / "node")
    async with bounded(), snapshot, Replica(store, snapshot=snapshot, audit_interval=None) as node:
        await node.ready()
        assert node.statistics().repairs == 1
        assert values_of(snapshot) == await values_in(store)


async def test_without_an_artifact_a_node_reads_the_bucket(tmp_path: Path) -> None:
    transport = ObjectStoreTransport(MemoryObjects())
    assert await bootstrap(transport, tmp_path / "node", kind=AppendLogSnapshot, bucket="config") is None
    assert names_in(tmp_path) == []


async def test_an_artifact_of_something_else_is_not_taken(store: KvStore, leases: KvStore, tmp_path: Path) -> None:
    transport = ObjectStoreTransport(MemoryObjects())
    await store.put("a", b"1")
    async with followed(store) as replica:
        await export_round(replica, transport, Lease(leases, "export"), workspace=tmp_path)
    with pytest.raises(ArtifactError, match="take one of this bucket"):
        await bootstrap(transport, tmp_path / "node", kind=AppendLogSnapshot, bucket="other")
    assert names_in(tmp_path) == []


# Rounds.


async def test_of_two_exporters_in_a_round_one_exports(store: KvStore, leases: KvStore, tmp_path: Path) -> None:
    transport = ObjectStoreTransport(MemoryObjects())
    await store.put_many(VALUES)
    async with followed(store) as one, followed(store) as other:
        outcomes = await asyncio.gather(
            *(export_round(replica, transport, Lease(leases, "export"), workspace=tmp_path) for replica in (one, other))
        )
        assert sorted(outcome is None for outcome in outcomes) == [False, True]
        pointer = await transport.latest()
        # The lease is free again, the round is not over.
        assert await export_round(other, transport, Lease(leases, "export"), workspace=tmp_path) is None
        await other.wait_for(await store.put("k.001", b"2"))
        assert await export_round(other, transport, Lease(leases, "export"), workspace=tmp_path) is None
        assert await transport.latest() == pointer
        # The next round.
        published = await export_round(other, transport, Lease(leases, "export"), interval=0, workspace=tmp_path)
        assert published is not None
        assert published.moved
        assert published.pointer.cursor == other.cursor
        # Nothing is new since.
        assert await export_round(one, transport, Lease(leases, "export"), interval=0, workspace=tmp_path) is None
    assert names_in(tmp_path) == []


async def test_a_bucket_made_again_does_not_wait_for_the_next_round(
    connection: Connection, store: KvStore, leases: KvStore, tmp_path: Path
) -> None:
    transport = ObjectStoreTransport(MemoryObjects())
    await store.put_many(VALUES)
    async with followed(store) as replica:
        assert await export_round(replica, transport, Lease(leases, "export"), workspace=tmp_path)
    await connection.delete_store(store.name)
    again = await connection.store(store.name)
    await again.put("a", b"1")
    async with followed(again) as replica:
        published = await export_round(replica, transport, Lease(leases, "export"), workspace=tmp_path)
        assert published is not None
        assert published.pointer.cursor == replica.cursor


class Held:
    """A transport whose publication waits right before the pointer is moved."""

    def __init__(self, transport: ObjectStoreTransport, patch: pytest.MonkeyPatch) -> None:
        self.reached, self.free = asyncio.Event(), asyncio.Event()
        replace = transport._objects.replace

        async def wait(name: str, content: bytes, *, expected: Any) -> bool:
            self.reached.set()
            await self.free.wait()
            return await replace(name, content, expected=expected)

        patch.setattr(transport._objects, "replace", wait)


async def test_while_one_exports_the_others_do_nothing_and_do_not_wait(
    store: KvStore, leases: KvStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = ObjectStoreTransport(MemoryObjects())
    held = Held(transport, monkeypatch)
    await store.put_many(VALUES)
    async with followed(store) as replica:
        exporting = asyncio.create_task(export_round(replica, transport, Lease(leases, "export"), workspace=tmp_path))
        await held.reached.wait()
        assert await export_round(replica, transport, Lease(leases, "export"), workspace=tmp_path) is None
        assert not exporting.done()
        held.free.set()
        published = await exporting
        assert published is not None
        assert published.moved


async def test_an_exporter_that_loses_its_lease_is_stopped(
    store: KvStore, leases: KvStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = ObjectStoreTransport(MemoryObjects())
    held, lease = Held(transport, monkeypatch), Lease(leases, "export")
    await store.put_many(VALUES)
    async with followed(store) as replica:
        exporting = asyncio.create_task(export_round(replica, transport, lease, workspace=tmp_path))
        await held.reached.wait()
        await lease.resign()
        with pytest.raises(FencedError):
            await exporting
        assert await transport.latest() is None
        assert names_in(tmp_path) == []
        monkeypatch.undo()
        assert await export_round(replica, transport, Lease(leases, "export"), workspace=tmp_path)


class Unaware:
    """A lease whose holder stood still, and does not know that it has lost it."""

    async def try_acquire(self) -> object:
        return object()

    async def __aenter__(self) -> object:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


async def test_one_that_does_not_know_it_has_lost_its_lease_cannot_move_the_pointer_back(
    store: KvStore, leases: KvStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = MemoryObjects()
    stale, other = ObjectStoreTransport(objects), ObjectStoreTransport(objects)
    held = Held(stale, monkeypatch)
    await store.put_many(VALUES)
    async with followed(store) as replica:
        exporting = asyncio.create_task(export_round(replica, stale, Unaware(), workspace=tmp_path))
        await held.reached.wait()
        await replica.wait_for(await store.put("k.001", b"2"))
        newer = await export_round(replica, other, Lease(leases, "export"), workspace=tmp_path)
        assert newer is not None
        assert newer.moved
        held.free.set()
        late = await exporting
        assert late is not None
        assert (late.moved, late.pointer) == (False, newer.pointer)
        assert await other.latest() == newer.pointer


async def test_a_failed_round_lets_the_lease_go(
    store: KvStore, leases: KvStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = ObjectStoreTransport(MemoryObjects())
    await store.put_many(VALUES)

    async def fail(*_: Any) -> Sequence[Any]:
        raise ArtifactError(message="the object store failed")

    async with followed(store) as replica:
        monkeypatch.setattr(transport._objects, "write", fail)
        with pytest.raises(ArtifactError):
            await export_round(replica, transport, Lease(leases, "export"), workspace=tmp_path)
        monkeypatch.undo()
        assert await export_round(replica, transport, Lease(leases, "export"), workspace=tmp_path)
    assert names_in(tmp_path) == []
