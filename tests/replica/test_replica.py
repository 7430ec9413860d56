"""`Replica`: its life, what it tells, and its audits."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from slipstream.errors import (
    InvalidKeyError,
    NotConnectedError,
    OperationTimeoutError,
    SnapshotError,
    StoreNotFoundError,
)
from slipstream.interfaces import Connection, KvStore
from slipstream.model import KvEntry, KvUpdate, Operation, StoreConfig, StoreStatus, VersionToken, WatchCursor
from slipstream.replica import AuditReport, BatchConfig, MemorySnapshot, Replica
from slipstream.replica import apply as apply_module
from slipstream.stores.memory import MemoryConnection
from slipstream.stores.memory.store import MemoryStore
from slipstream.stores.nats.store import NatsStore
from slipstream.testing._raw import raw_client
from slipstream.testing._waiting import bounded, cancelled_after, eventually, ticks
from tests.replica.following import BrittleSnapshot, values_in, values_of

QUICK = BatchConfig(progress_interval=0.05)


async def test_it_holds_what_the_bucket_holds(store: KvStore) -> None:
    versions = await store.put_many({"b": b"1", "a.2": b"2", "a.1": b"3", "gone": b"4"})
    await store.delete("gone")
    async with bounded(), Replica(store) as replica:
        await replica.ready()
        assert replica.get("b") == await store.get("b")
        entry = replica.get("a.1")
        assert entry is not None
        assert (entry.key, entry.value, entry.version) == ("a.1", b"3", versions[2])
        assert replica.get("gone") is None
        assert replica.keys() == ["a.1", "a.2", "b"]
        assert [entry.key for entry in replica.range("a.")] == ["a.1", "a.2"]
        assert len(replica) == 3
        assert "b" in replica
        assert "gone" not in replica
        assert replica.cursor.revision == (await store.status()).last_revision


async def test_an_empty_bucket_is_ready_at_once(store: KvStore) -> None:
    async with bounded(), Replica(store) as replica:
        await replica.ready()
        assert replica.keys() == []
        assert replica.progress().fraction == 1.0


async def test_of_no_prefixes_it_is_ready_and_empty(store: KvStore) -> None:
    await store.put("a", b"1")
    async with bounded(), Replica(store, []) as replica:
        await replica.ready()
        assert replica.keys() == []


async def test_what_was_written_can_be_read_after_waiting_for_it(store: KvStore) -> None:
    async with bounded(), Replica(store) as replica:
        for number in range(50):
            version = await store.put("k", b"%d" % number)
            await replica.wait_for(version)
            entry = replica.get("k")
            assert entry is not None
            assert entry.version == version


async def test_waiting_for_a_write_that_is_not_followed(store: KvStore) -> None:
    async with bounded(), Replica(store, "a.", batch=QUICK) as replica:
        await store.put("a.1", b"1")
        await replica.wait_for(await store.put("b", b"1"))
        assert replica.keys() == ["a.1"]


async def test_waiting_for_what_does_not_come(store: KvStore) -> None:
    async with bounded(), Replica(store) as replica:
        with pytest.raises(OperationTimeoutError, match="revision 99"):
            await replica.wait_for(VersionToken.from_u64(99), timeout=0.05)
        with pytest.raises(ValueError, match="no revision"):
            await replica.wait_for(VersionToken.unknown())
        await replica.wait_for(VersionToken.from_u64(0))


async def test_it_is_stale_before_it_is_ready_and_current_afterwards(store: KvStore) -> None:
    replica = Replica(store)
    assert replica.staleness == math.inf
    async with bounded(), replica:
        await replica.ready()
        await replica.wait_for(await store.put("a", b"1"))

        async def current() -> bool:
            return replica.staleness < 5

        await eventually(current)
    then = replica.staleness
    await asyncio.sleep(0.02)
    assert replica.staleness > then  # nobody follows any more


async def test_progress(store: KvStore) -> None:
    await store.put_many({f"k.{number:03}": b"12345" for number in range(100)})
    async with bounded(), Replica(store, batch=BatchConfig(max_items=10)) as replica:
        await replica.ready()
        progress = replica.progress()
    assert (progress.done, progress.expected, progress.bytes, progress.fraction) == (100, 100, 1000, 1.0)
    assert progress.rate > 0
    assert replica.progress().rate == progress.rate  # of the way to ready, not of the time since


async def test_progress_is_told_on_the_way(store: KvStore) -> None:
    await store.put_many({f"k.{number:03}": b"1" for number in range(100)})
    seen: list[tuple[int, int]] = []

    def look(batch: Sequence[KvUpdate]) -> None:
        progress = replica.progress()
        seen.append((progress.done + len(batch), progress.expected))

    replica = Replica(store, batch=BatchConfig(max_items=10), on_change=look)
    async with bounded(), replica:
        await replica.ready()
    assert [done for done, _ in seen] == list(range(10, 101, 10))
    assert [expected for _, expected in seen] == [100] * 10


async def test_nothing_is_applied_while_it_is_paused(store: KvStore) -> None:
    async with bounded(), Replica(store) as replica:
        await replica.wait_for(await store.put("a", b"1"))
        async with replica.paused() as cursor:
            version = await store.put("a", b"2")

            async def arrived() -> bool:
                return replica._follower._in_hand == 1

            await eventually(arrived)
            entry = replica.get("a")
            assert entry is not None
            assert (entry.value, replica.cursor) == (b"1", cursor)
        await replica.wait_for(version)
        entry = replica.get("a")
        assert entry is not None
        assert entry.value == b"2"


async def test_changes_are_told_once_they_can_be_read(store: KvStore) -> None:
    told: list[tuple[Operation, str, bytes | None]] = []

    def listen(batch: Sequence[KvUpdate]) -> None:
        for update in batch:
            entry = replica.get(update.key)
            told.append((update.operation, update.key, None if entry is None else entry.value))

    async with bounded(), Replica(store) as replica:
        await replica.ready()
        end = replica.on_change(listen)
        await replica.wait_for(await store.put("a", b"1"))
        await store.delete("a")
        await replica.wait_for(await store.put("b", b"1"))
        end()
        end()
        await replica.wait_for(await store.put("c", b"1"))
    assert told == [(Operation.PUT, "a", b"1"), (Operation.DELETE, "a", None), (Operation.PUT, "b", b"1")]


async def test_a_callback_that_fails_is_logged_and_hurts_nobody(
    store: KvStore, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def fail(batch: Sequence[KvUpdate]) -> None:
        raise LookupError("not mine")

    async with bounded(), Replica(store, on_change=fail) as replica:
        replica.on_change(lambda batch: told.extend(update.key for update in batch))
        await replica.wait_for(await store.put("a", b"1"))
    assert told == ["a"]
    assert "not mine" in caplog.text


async def test_a_restart_takes_only_what_changed(store: KvStore) -> None:
    snapshot = MemorySnapshot()
    await store.put_many({f"k.{number}": b"1" for number in range(50)})
    async with bounded(), Replica(store, snapshot=snapshot) as replica:
        await replica.ready()
    await store.put("k.7", b"2")
    await store.delete("k.8")
    async with bounded(), Replica(store, snapshot=snapshot) as replica:
        assert replica.get("k.9") is not None  # it can be read before it is ready
        await replica.ready()
        assert replica.progress().done == 2
        assert values_of(snapshot) == await values_in(store)


async def test_leaving_it_saves_what_has_arrived(store: KvStore) -> None:
    snapshot = MemorySnapshot()
    version = (await store.put_many({"a": b"1", "b": b"1"}))[-1]
    async with Replica(store, snapshot=snapshot, batch=BatchConfig(window=30.0)) as replica:

        async def arrived() -> bool:
            return replica.progress().expected == 2

        await eventually(arrived)
    assert sorted(values_of(snapshot)) == ["a", "b"]
    assert snapshot.cursor.revision == version.as_u64()
    assert replica.keys() == ["a", "b"]


async def test_its_task_is_gone_when_it_is_left(store: KvStore) -> None:
    before = asyncio.all_tasks()
    for turns in (0, 1, 2, 5, 20, 100):
        replica = Replica(store)
        async with bounded(), replica:
            await ticks(turns)

        async def over() -> bool:
            return not {task for task in asyncio.all_tasks() - before if "slipstream-replica" in task.get_name()}

        await eventually(over)


async def test_cancelled_while_it_is_waited_for(store: KvStore) -> None:
    async with bounded(), Replica(store) as replica:
        task = await cancelled_after(3, replica.wait_for(VersionToken.from_u64(99)))
        assert task.cancelled()
        await replica.wait_for(await store.put("a", b"1"))


async def test_it_is_entered_once_and_before_it_is_used(store: KvStore) -> None:
    replica = Replica(store)
    with pytest.raises(RuntimeError, match="enter the replica first"):
        await replica.ready()
    async with replica:
        with pytest.raises(RuntimeError, match="entered once"):
            await replica.__aenter__()
    await replica.aclose()


@pytest.mark.parametrize("interval", [0, -1.0, math.nan, timedelta(0)])
def test_an_audit_interval_is_above_zero(interval: Any) -> None:
    with pytest.raises(ValueError, match="audit_interval"):
        Replica(_nowhere(), audit_interval=interval)


def test_a_bad_prefix_is_refused_where_it_is_made() -> None:
    with pytest.raises(InvalidKeyError):
        Replica(_nowhere(), ["a", "b.*"])


def _nowhere() -> Any:
    return None  # never looked at


# Failing.


async def test_a_bucket_that_is_deleted_ends_it_and_who_waits_is_told(
    connection: Connection, store: KvStore, caplog: pytest.LogCaptureFixture
) -> None:
    version = await store.put("a", b"1")
    async with Replica(store) as replica:
        await replica.wait_for(version)
        await connection.delete_store(store.name)
        with pytest.raises(StoreNotFoundError):
            await replica.wait_for(VersionToken.from_u64(99))
        assert replica.keys() == ["a"]
        await replica.ready()  # it was
    assert "has stopped following" in caplog.text


async def test_a_failure_that_nobody_was_told_comes_out_at_the_end(store: KvStore, monkeypatch: Any) -> None:
    monkeypatch.setattr(apply_module, "pause_after", lambda failures: 0.0)
    snapshot = BrittleSnapshot()
    snapshot.failing = 100

    async def use() -> None:
        async with Replica(store, snapshot=snapshot) as replica:
            await store.put("a", b"1")

            async def given_up() -> bool:
                return replica.statistics().snapshot_failures == 17

            await eventually(given_up)

    with pytest.raises(SnapshotError, match="the disk is full"):
        await use()


async def test_a_failure_does_not_hide_the_error_of_the_block(store: KvStore) -> None:
    snapshot = BrittleSnapshot()
    snapshot.failing, snapshot.error = 100, RuntimeError("not this one")

    async def use() -> None:
        async with Replica(store, snapshot=snapshot):
            await store.put("a", b"1")
            raise LookupError("this one")

    with pytest.raises(LookupError, match="this one"):
        await use()


async def test_a_store_that_is_not_there_is_an_error_at_once(connection: Connection, store: KvStore) -> None:
    await connection.delete_store(store.name)
    async with bounded(), Replica(store) as replica:
        with pytest.raises(StoreNotFoundError):
            await replica.ready()


async def test_a_shutdown_of_the_connection_ends_it(connection: Connection, store: KvStore) -> None:
    async with bounded(), Replica(store) as replica:
        await replica.ready()
        await connection.shutdown()
        with pytest.raises(NotConnectedError):
            await replica.wait_for(VersionToken.from_u64(99))


# Audits.


async def started(store: KvStore, values: dict[str, bytes]) -> MemorySnapshot:
    """The snapshot of a replica that has followed the bucket up to these values."""
    await store.put_many(values)
    snapshot = MemorySnapshot()
    async with bounded(), Replica(store, snapshot=snapshot, audit_interval=None) as replica:
        await replica.ready()
    return snapshot


async def remove_without_a_trace(store: KvStore, key: str, nats_url: str) -> None:
    """As an administrator does, or a limit: nobody is told."""
    if isinstance(store, NatsStore):
        async with raw_client(nats_url) as raw:
            await raw.api(f"STREAM.PURGE.KV_{store.name}", {"filter": f"$KV.{store.name}.{key}"})
    else:
        assert isinstance(store, MemoryStore)
        stream = store._ref.find().stream
        record = stream.last(key)
        assert record is not None
        stream._remove(record)


async def test_an_audit_at_the_start_finds_what_went_while_it_was_away(store: KvStore) -> None:
    """The tombstone was removed behind the cursor, so that no update tells of it."""
    snapshot = await started(store, {"a": b"1", "b": b"1", "c": b"1"})
    await store.delete("b")
    await store.put("last", b"1")
    async with bounded(), Replica(store, snapshot=snapshot, audit_interval=None) as replica:
        await replica.ready()
    await snapshot.apply([_put_again("b", 2)], snapshot.cursor)  # as if it had been away
    await store.purge_deletes()
    told: list[KvUpdate] = []
    async with bounded(), Replica(store, snapshot=snapshot, on_change=told.extend) as replica:

        async def audited() -> bool:
            return replica.statistics().audits == 1

        await eventually(audited)
        statistics = replica.statistics()
    assert (statistics.removed, statistics.restored, statistics.repairs) == (1, 0, 0)
    assert [(update.operation, update.key, update.version.is_unknown) for update in told] == [
        (Operation.DELETE, "b", True)
    ]
    assert values_of(snapshot) == await values_in(store)


def _put_again(key: str, revision: int) -> KvUpdate:
    return KvUpdate(operation=Operation.PUT, key=key, value=b"1", version=VersionToken.from_u64(revision))


async def test_a_periodic_audit_finds_what_an_administrator_removed(store: KvStore, nats_url: str) -> None:
    snapshot = await started(store, {"a": b"1", "b": b"1", "c": b"1"})
    async with bounded(), Replica(store, snapshot=snapshot, audit_interval=0.05, batch=QUICK) as replica:
        await replica.ready()
        await remove_without_a_trace(store, "b", nats_url)

        async def removed() -> bool:
            return replica.keys() == ["a", "c"]

        await eventually(removed)
        statistics = replica.statistics()
    assert statistics.removed + statistics.repairs >= 1
    assert statistics.restored == 0


async def test_a_fresh_replica_begins_without_an_audit(store: KvStore) -> None:
    async with bounded(), Replica(store) as replica:
        await replica.wait_for(await store.put("a", b"1"))
        assert replica.statistics().audits == 0
        assert await replica.audit() == AuditReport()
        assert replica.statistics().audits == 1


async def test_an_audit_finds_what_expired_without_a_mark(connection: Connection, bucket_name: str) -> None:
    store = await connection.store(StoreConfig(name=bucket_name, max_age=1.0, marker_ttl=None))
    try:
        async with bounded(), Replica(store, audit_interval=0.1) as replica:
            await replica.wait_for(await store.put("a", b"1"))

            async def gone() -> bool:
                return replica.keys() == []

            await eventually(gone)
    finally:
        await connection.delete_store(store.name)


@pytest.fixture
def bucket_name() -> str:
    return f"test-{secrets.token_hex(8)}"


async def test_an_audit_restores_what_the_fold_should_have_had(store: KvStore) -> None:
    snapshot = await started(store, {"a": b"1", "b": b"2", "c": b"3"})
    lost = KvUpdate(operation=Operation.DELETE, key="b")
    old = KvUpdate(operation=Operation.PUT, key="c", value=b"old", version=VersionToken.from_u64(1))
    await snapshot.apply([lost, old], snapshot.cursor)
    async with bounded(), Replica(store, snapshot=snapshot, audit_interval=None) as replica:
        await replica.ready()
        assert await replica.audit() == AuditReport(removed=0, restored=2)
        assert await replica.audit() == AuditReport()
        assert replica.statistics().restored == 2
    assert values_of(snapshot) == {"a": b"1", "b": b"2", "c": b"3"}


class _Pausing(MemoryStore):
    """Does something right after the listing of an audit, before the audit acts on it."""

    async def versions(self, prefix: str = "") -> dict[str, VersionToken]:
        listed = await super().versions(prefix)
        await self.meanwhile()
        return listed

    async def meanwhile(self) -> None: ...


async def test_an_audit_leaves_a_key_alone_whose_put_is_on_its_way() -> None:
    async with MemoryConnection() as connection:
        made = await connection.store("config")
        assert isinstance(made, MemoryStore)
        snapshot = await started(made, {"a": b"1", "b": b"1"})
        store = _Pausing(made._ref)
        told: list[tuple[Operation, str]] = []
        async with bounded(), Replica(store, snapshot=snapshot, audit_interval=None) as replica:
            await replica.ready()
            replica.on_change(lambda batch: told.extend((update.operation, update.key) for update in batch))
            await store.delete("b")  # so that the listing lacks it

            async def meanwhile() -> None:
                await replica.wait_for(await made.put("b", b"2"))
                await replica.wait_for(await made.put("new", b"1"))

            store.meanwhile = meanwhile  # type: ignore[method-assign]
            assert await replica.audit() == AuditReport()
        assert values_of(snapshot) == {"a": b"1", "b": b"2", "new": b"1"}
        assert told == [(Operation.PUT, "b"), (Operation.PUT, "new")]


async def test_an_audit_of_a_bucket_made_again_compares_nothing() -> None:
    async with MemoryConnection() as connection:
        made = await connection.store("config")
        assert isinstance(made, MemoryStore)
        snapshot = await started(made, {"a": b"1", "b": b"1"})
        store = _Pausing(made._ref)
        async with bounded(), Replica(store, snapshot=snapshot, audit_interval=None) as replica:
            await replica.ready()

            async def meanwhile() -> None:
                await connection.delete_store("config")
                await (await connection.store("config")).put_many({"x": b"1", "b": b"2"})

            store.meanwhile = meanwhile  # type: ignore[method-assign]
            assert await replica.audit() == AuditReport(compared=False)
            store.meanwhile = _nothing  # type: ignore[method-assign]

            async def anew() -> bool:
                return values_of(snapshot) == {"x": b"1", "b": b"2"}

            await eventually(anew)
            assert replica.statistics().audits == 0


async def test_an_audit_that_is_overtaken_by_a_bucket_made_again_removes_nothing() -> None:
    """The new bucket has a key at the revision at which the old one had lost it."""
    async with MemoryConnection() as connection:
        made = await connection.store("config")
        assert isinstance(made, MemoryStore)
        snapshot = await started(made, {"a": b"1", "b": b"1"})
        await remove_without_a_trace(made, "b", "")

        class Remade(MemoryStore):
            async def status(self) -> StoreStatus:
                status = await super().status()
                await connection.delete_store("config")
                await (await connection.store("config")).put_many({"a": b"2", "b": b"2"})

                async def anew() -> bool:
                    return values_of(snapshot) == {"a": b"2", "b": b"2"}

                await eventually(anew)
                return status

        async with bounded(), Replica(made, snapshot=snapshot, audit_interval=None) as replica:
            await replica.ready()
            replica._store = Remade(made._ref)  # what follows keeps the one it has
            assert await replica.audit() == AuditReport()
            assert values_of(snapshot) == {"a": b"2", "b": b"2"}


async def _nothing() -> None: ...


async def test_an_audit_before_anything_was_followed_compares_nothing(store: KvStore) -> None:
    async with bounded(), Replica(store) as replica:
        report = await replica.audit()
    assert report in (AuditReport(compared=False), AuditReport())
    assert (report.removed, report.restored) == (0, 0)


async def test_audits_beside_busy_writers_repair_nothing(store: KvStore) -> None:
    """Nothing was lost, so whatever an audit repaired would be its own mistake."""
    leaving = False

    async def write() -> None:
        number = 0
        while not leaving:
            number += 1
            await store.put(f"k.{number % 20}", b"%d" % number)
            await store.delete(f"k.{(number * 7) % 20}")

    async with bounded(), Replica(store, audit_interval=None) as replica:
        writing = asyncio.create_task(write())
        await replica.ready()
        restored = 0
        for _ in range(20):
            restored += (await replica.audit()).restored
        leaving = True
        await writing
        await replica.wait_for(await store.put("last", b"1"))
        assert {entry.key: entry.value for entry in replica.range()} == await values_in(store)
    assert restored == 0


async def test_an_audit_that_fails_is_counted_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    async with MemoryConnection() as connection:
        made = await connection.store("config")
        assert isinstance(made, MemoryStore)

        class Failing(MemoryStore):
            failures = 2

            async def get_many(self, keys: Iterable[str]) -> dict[str, KvEntry]:
                if self.failures:
                    self.failures -= 1
                    raise OperationTimeoutError(store="config")
                return await super().get_many(keys)

        snapshot = await started(made, {"a": b"1"})
        async with bounded(), Replica(Failing(made._ref), snapshot=snapshot, audit_interval=0.01) as replica:

            async def audited() -> bool:
                return replica.statistics().audits >= 1

            await eventually(audited)
            assert replica.statistics().failed_audits == 2
        assert "an audit failed" in caplog.text


class _Lingering(MemorySnapshot):
    """Has done what it was asked for some time before it says so, as one on disk whose caller is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.linger = False
        self.done = asyncio.Event()

    async def apply(self, batch: Sequence[KvUpdate], cursor: WatchCursor) -> None:
        await super().apply(batch, cursor)
        if self.linger:
            self.done.set()
            await asyncio.Event().wait()


async def test_an_audit_that_is_cancelled_while_it_repairs_tells_what_it_has_repaired() -> None:
    async with MemoryConnection() as connection:
        store = await connection.store("config")
        await store.put_many({"a": b"1", "b": b"1", "c": b"1"})
        snapshot, told = _Lingering(), list[KvUpdate]()
        quiet = BatchConfig(progress_interval=60.0)
        async with bounded(), Replica(store, snapshot=snapshot, audit_interval=None, batch=quiet) as replica:
            await replica.ready()
            replica.on_change(told.extend)
            await remove_without_a_trace(store, "b", "")
            snapshot.linger = True
            auditing = asyncio.create_task(replica.audit())
            await snapshot.done.wait()
            snapshot.linger = False
            auditing.cancel()
            await asyncio.wait({auditing})
            assert auditing.cancelled()
            assert replica.keys() == ["a", "c"]
            assert [(update.operation, update.key) for update in told] == [(Operation.DELETE, "b")]
            statistics = replica.statistics()
            assert (statistics.audits, statistics.removed) == (1, 1)
            assert await replica.audit() == AuditReport()


async def test_an_audit_that_is_cancelled_before_it_repairs_tells_nothing() -> None:
    async with MemoryConnection() as connection:
        store = await connection.store("config")
        snapshot = await started(store, {"a": b"1", "b": b"1"})
        told = list[KvUpdate]()
        async with bounded(), Replica(store, snapshot=snapshot, audit_interval=None, on_change=told.extend) as replica:
            await replica.ready()
            await remove_without_a_trace(store, "b", "")
            for turns in range(12):
                auditing = await cancelled_after(turns, replica.audit())
                repaired = replica.keys() == ["a"]
                assert [update.key for update in told] == (["b"] if repaired else [])
                assert replica.statistics().removed == int(repaired)
                assert repaired or auditing.cancelled()
            assert repaired, "the last one had time enough"


async def test_snapshots_are_of_one_cursor(store: KvStore) -> None:
    snapshot = MemorySnapshot()
    assert (snapshot.cursor, len(snapshot), list(snapshot.range())) == (WatchCursor.none(), 0, [])
    async with bounded(), snapshot:
        async with Replica(store, snapshot=snapshot) as replica:
            await replica.wait_for(await store.put("a", b"1"))
            assert snapshot.cursor == replica.cursor
        assert replica.keys() == ["a"]  # nobody follows any more
        await snapshot.clear()
        assert (snapshot.cursor, len(snapshot)) == (WatchCursor.none(), 0)
    with pytest.raises(SnapshotError, match="closed"):
        replica.get("a")
