"""What happens to a fold whose cursor has expired: nothing stays that is gone, nothing is read that is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from slipstream.errors import OperationTimeoutError, SnapshotError
from slipstream.interfaces import Connection, KvStore
from slipstream.model import KvEntry, KvUpdate, StoreConfig, StoreStatus, VersionToken, WatchCursor
from slipstream.replica import BatchConfig, MemorySnapshot, Replica, watch_applied
from slipstream.replica import apply as apply_module
from slipstream.stores.memory import MemoryConnection
from slipstream.stores.memory.store import MemoryStore
from slipstream.stores.nats import NatsConnection
from slipstream.stores.nats.store import NatsStore
from slipstream.testing._waiting import bounded
from tests.replica.following import (
    BrittleSnapshot,
    Table,
    follow_until,
    following,
    overwrite_all,
    values_in,
    values_of,
)

_SMALL = BatchConfig(max_items=2)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_module, "pause_after", lambda failures: 0.0)


async def hydrated(store: KvStore, values: dict[str, bytes]) -> tuple[Table, BrittleSnapshot]:
    """An application that has followed the bucket up to these values and is down now."""
    await store.put_many(values)
    table, snapshot = Table(), BrittleSnapshot()
    await follow_until(store, table, values, snapshot=snapshot)
    table.batches.clear()
    snapshot.attempts.clear()
    return table, snapshot


async def forget(store: KvStore, *keys: str) -> None:
    """Delete the keys, and the tombstones, so that nobody is told any more."""
    for key in keys:
        await store.delete(key)
    assert await store.purge_deletes() == len(keys)


# The same bucket.


async def test_what_vanished_is_removed_before_anything_that_follows(store: KvStore) -> None:
    table, snapshot = await hydrated(store, {"a": b"1", "b": b"1", "c": b"1", "d": b"1"})
    expired = snapshot.cursor
    await forget(store, "a", "b")
    await overwrite_all(store, {"c": b"2", "d": b"2", "a": b"again"})
    await follow_until(store, table, {"c": b"2", "d": b"2", "a": b"again"}, snapshot=snapshot)
    # "a" is there again, so it has not vanished: its value is simply newer.
    assert table.changes == [
        ("DELETE", "b", b""),
        ("PUT", "c", b"2"),
        ("PUT", "d", b"2"),
        ("PUT", "a", b"again"),
    ]
    removal = table.batches[0][0]
    assert removal.version.is_unknown
    assert snapshot.attempts[0] == ([("DELETE", "b", b"")], expired)  # a removal does not move the cursor
    assert values_of(snapshot) == table.values == await values_in(store)
    assert snapshot.cursor.revision == (await store.status()).last_revision


async def test_a_key_made_again_after_the_listing_ends_with_its_new_value(store: KvStore) -> None:
    """It vanishes, is removed, and is made again before the watch begins."""
    table, snapshot = await hydrated(store, {"a": b"1", "b": b"1"})
    await forget(store, "a")
    await overwrite_all(store, {"b": b"2"})

    async def apply(batch: list[KvUpdate]) -> None:
        table.apply(batch)
        if batch[0].version.is_unknown:
            await store.put("a", b"2")

    async with following(store, table, apply=apply, snapshot=snapshot):
        await table.holds({"a": b"2", "b": b"2"})
    assert table.changes == [("DELETE", "a", b""), ("PUT", "b", b"2"), ("PUT", "a", b"2")]
    assert values_of(snapshot) == table.values


async def test_deletes_in_the_gap_that_left_a_tombstone(store: KvStore) -> None:
    table, snapshot = await hydrated(store, {"a": b"1", "b": b"1", "c": b"1"})
    await overwrite_all(store, {"b": b"2", "c": b"2"})
    await store.delete("a")
    await follow_until(store, table, {"b": b"2", "c": b"2"}, snapshot=snapshot)
    assert table.changes[0] == ("DELETE", "a", b"")
    assert values_of(snapshot) == table.values


async def test_only_the_scope_is_repaired(store: KvStore) -> None:
    await store.put_many({"a.1": b"1", "a.2": b"1", "b.1": b"1"})
    table, snapshot = Table(), MemorySnapshot()
    await follow_until(store, table, {"a.1": b"1", "a.2": b"1"}, "a.", snapshot=snapshot)
    table.batches.clear()
    await forget(store, "a.1")
    await overwrite_all(store, {"a.2": b"2", "b.1": b"2"})
    await follow_until(store, table, {"a.2": b"2"}, "a.", snapshot=snapshot)
    assert table.changes == [("DELETE", "a.1", b""), ("PUT", "a.2", b"2")]


async def test_a_bucket_in_which_nothing_is_left(store: KvStore) -> None:
    table, snapshot = await hydrated(store, {"a": b"1", "b": b"1"})
    await overwrite_all(store, {"a": b"2", "b": b"2"})
    await forget(store, "a", "b")
    await follow_until(store, table, {}, snapshot=snapshot)
    async with following(store, table, snapshot=snapshot):
        await store.put("c", b"1")
        await table.holds({"c": b"1"})
    assert values_of(snapshot) == {"c": b"1"}


class _Reads:
    """What is read of the values."""

    def __init__(self) -> None:
        self.fetched: list[str] = []


class _ReadingMemory(MemoryStore):
    def __init__(self, store: MemoryStore, reads: _Reads) -> None:
        super().__init__(store._ref)
        self._reads = reads

    async def get_many(self, keys: Iterable[str]) -> dict[str, KvEntry]:
        wanted = list(keys)
        self._reads.fetched += wanted
        return await super().get_many(wanted)

    async def scan(self, prefix: str = "") -> list[KvEntry]:
        raise AssertionError("a repair reads no values that it has")

    def iter_scan(self, prefix: str = "") -> AsyncIterator[KvEntry]:
        raise AssertionError("a repair reads no values that it has")


async def test_values_that_are_held_are_not_fetched_again() -> None:
    """In memory a tombstone that was removed expires the cursors before it while older values stay."""
    values = {f"k.{number}": b"1" for number in range(200)}
    async with MemoryConnection() as connection:
        store = await connection.store("config")
        assert isinstance(store, MemoryStore)
        table, snapshot = await hydrated(store, values)
        await forget(store, "k.0")
        await store.put("k.1", b"2")
        await store.put("new", b"1")
        reads = _Reads()
        expected = {**values, "k.1": b"2", "new": b"1"}
        del expected["k.0"]
        await follow_until(_ReadingMemory(store, reads), table, expected, snapshot=snapshot)
        assert sorted(reads.fetched) == ["k.1", "new"]
        assert table.changes == [("DELETE", "k.0", b""), ("PUT", "k.1", b"2"), ("PUT", "new", b"1")]
        assert values_of(snapshot) == expected
        assert snapshot.cursor.revision == (await store.status()).last_revision


async def test_on_nats_the_listing_moves_no_values(store: KvStore, connection: Connection) -> None:
    """The values that cross the wire are those of the delta, each once."""
    if not isinstance(connection, NatsConnection):
        return
    # nats-py counts what goes through it.
    async with NatsConnection(connection._config.model_copy(update={"lane": "slow"})) as counted:
        await listing_moves_no_values(counted, await counted.store(store.name))


async def listing_moves_no_values(connection: NatsConnection, store: KvStore) -> None:
    size = 64 * 1024
    values = {f"k.{number}": b"%d" % number + b"x" * size for number in range(50)}
    table, snapshot = await hydrated(store, values)
    newer = {key: value + b"2" for key, value in values.items()}
    await overwrite_all(store, newer)
    session = connection._session
    assert session is not None
    before = session.client.stats["in_bytes"]
    await follow_until(store, table, newer, snapshot=snapshot)
    moved = session.client.stats["in_bytes"] - before
    assert len(table.changes) == 50
    assert 50 * size <= moved < 1.5 * 50 * size


async def test_a_replica_of_the_bucket_that_lags_behind_does_not_make_the_fold_older() -> None:
    """The watch goes on from where the bucket stood: what is read before must be no older than that."""
    async with MemoryConnection() as connection:
        store = await connection.store("config")
        assert isinstance(store, MemoryStore)
        table, snapshot = await hydrated(store, {"a": b"1", "b": b"1", "kept": b"1", "gone": b"1"})
        old = await store.get_many(["a", "b"])
        await forget(store, "gone")
        await store.put_many({"a": b"2", "b": b"2", "new": b"2"})

        class Lagging(MemoryStore):
            async def get_many(self, keys: Iterable[str]) -> dict[str, KvEntry]:
                return {key: old[key] for key in keys if key in old}

        expected = {"a": b"2", "b": b"2", "new": b"2", "kept": b"1"}
        await follow_until(Lagging(store._ref), table, expected, snapshot=snapshot)
        assert values_of(snapshot) == expected


async def test_a_key_that_goes_while_the_changes_are_read() -> None:
    async with MemoryConnection() as connection:
        store = await connection.store("config")
        assert isinstance(store, MemoryStore)
        table, snapshot = await hydrated(store, {"a": b"1", "b": b"1", "gone": b"1"})
        await forget(store, "gone")
        await store.put("b", b"2")

        class Removing(MemoryStore):
            async def get_many(self, keys: Iterable[str]) -> dict[str, KvEntry]:
                await store.delete("b")
                return await super().get_many(keys)

        await follow_until(Removing(store._ref), table, {"a": b"1"}, snapshot=snapshot)
        assert values_of(snapshot) == {"a": b"1"}


async def test_a_fold_that_is_overtaken_again_and_again_begins_from_the_start_and_takes_no_value_twice() -> None:
    """The bucket goes on so quickly that every position has expired when the watch is entered."""

    class Hasty(MemoryStore):
        async def status(self) -> Any:
            status = await super().status()
            await store.put("hot", b"1")
            await forget(store, "hot")
            return status

    async with MemoryConnection() as connection:
        store = await connection.store("config")
        assert isinstance(store, MemoryStore)
        table, snapshot = await hydrated(store, {"a": b"1", "b": b"1", "c": b"1"})
        await forget(store, "a")
        await store.put("b", b"2")
        hasty = Hasty(store._ref)
        await follow_until(hasty, table, {"b": b"2", "c": b"1"}, snapshot=snapshot)
        assert table.changes == [("DELETE", "a", b""), ("PUT", "b", b"2")]


# A bucket made again.


async def test_a_bucket_made_again_is_hydrated_anew(connection: Connection, store: KvStore) -> None:
    table, snapshot = await hydrated(store, {"a": b"1", "b": b"1", "c": b"1"})
    await connection.delete_store(store.name)
    again = await connection.store(store.name)
    # The revisions are the same ones, and they mean something else.
    await again.put_many({"a": b"2", "d": b"2", "c": b"2"})
    await follow_until(again, table, {"a": b"2", "d": b"2", "c": b"2"}, snapshot=snapshot)
    assert table.changes[:3] == [("DELETE", "a", b""), ("DELETE", "b", b""), ("DELETE", "c", b"")]
    assert values_of(snapshot) == table.values
    assert snapshot.cursor.incarnation == (await again.status()).incarnation


async def test_a_bucket_made_again_while_it_is_followed(connection: Connection, store: KvStore) -> None:
    snapshot = MemorySnapshot()
    await store.put_many({"a": b"1", "b": b"1"})
    async with Replica(store, snapshot=snapshot) as replica:
        await replica.ready()
        await connection.delete_store(store.name)
        again = await connection.store(store.name)
        await again.put_many({"x": b"1", "b": b"2"})
        async with bounded():
            changed = asyncio.Event()
            replica.on_change(lambda batch: changed.set())
            while values_of(snapshot) != {"x": b"1", "b": b"2"}:
                await changed.wait()
                changed.clear()
        assert replica.statistics().rebuilds == 1
    assert snapshot.cursor.incarnation == (await again.status()).incarnation


async def test_a_bucket_made_again_while_a_repair_begins() -> None:
    """Its keys have the revisions that the fold has: only the incarnation tells them apart."""
    async with MemoryConnection() as connection:
        made = await connection.store("config")
        assert isinstance(made, MemoryStore)
        table, snapshot = await hydrated(made, {"a": b"1", "b": b"1"})
        await overwrite_all(made, {"a": b"2", "b": b"2"})

        class Remade(MemoryStore):
            again = True

            async def status(self) -> StoreStatus:
                status = await super().status()
                if self.again:
                    self.again = False
                    await connection.delete_store("config")
                    await (await connection.store("config")).put_many({"a": b"3", "b": b"3"})
                return status

        await follow_until(Remade(made._ref), table, {"a": b"3", "b": b"3"}, snapshot=snapshot)
        assert values_of(snapshot) == {"a": b"3", "b": b"3"}


async def test_an_empty_bucket_made_again(connection: Connection, store: KvStore) -> None:
    _, snapshot = await hydrated(store, {"a": b"1"})
    await connection.delete_store(store.name)
    again = await connection.store(store.name)
    async with bounded(), Replica(again, snapshot=snapshot) as replica:
        await replica.ready()
        assert replica.keys() == []
        await replica.wait_for(await again.put("b", b"1"))
        assert values_of(snapshot) == {"b": b"1"}


async def test_entries_without_a_cursor_are_not_trusted(store: KvStore) -> None:
    table, snapshot = await hydrated(store, {"a": b"1", "b": b"1"})
    await forget(store, "a")
    await follow_until(store, table, {"b": b"1"}, snapshot=snapshot, cursor=WatchCursor.none())
    assert values_of(snapshot) == {"b": b"1"}


# Repairs that fail half way.


@pytest.mark.parametrize("recreated", [False, True], ids=["compacted", "made again"])
@pytest.mark.parametrize("fail_after", range(6))
async def test_a_repair_that_fails_half_way_is_repeated_with_the_same_result(
    connection: Connection, store: KvStore, fail_after: int, *, recreated: bool
) -> None:
    old = {f"k.{number}": b"1" for number in range(10)}
    new = {f"k.{number}": b"2" for number in range(5, 12)}
    table, snapshot = await hydrated(store, old)
    if recreated:
        await connection.delete_store(store.name)
        store = await connection.store(store.name)
        await store.put_many(new)
    else:
        await forget(store, *[f"k.{number}" for number in range(5)])
        await overwrite_all(store, new)
    snapshot.fail_after = fail_after
    options: dict[str, Any] = {"snapshot": snapshot, "batch": _SMALL}
    with pytest.raises(SnapshotError):
        await follow_until(store, table, {"never": b""}, **options)
    snapshot.fail_after = None
    again = Table()  # a new life of the application, whose own state is that of the snapshot
    again.values = values_of(snapshot)
    await follow_until(store, again, new, **options)
    assert values_of(snapshot) == new == await values_in(store)


async def test_a_repair_that_the_server_does_not_answer_is_an_error_at_the_start_and_repeated(
    store: KvStore,
) -> None:
    table, snapshot = await hydrated(store, {"a": b"1", "b": b"1"})
    await forget(store, "a")
    await overwrite_all(store, {"b": b"2"})
    with pytest.raises(OperationTimeoutError):
        await watch_applied(_unlisted(store), apply=table.apply, snapshot=snapshot)
    assert table.changes == []
    await follow_until(store, table, {"b": b"2"}, snapshot=snapshot)


def _unlisted(store: KvStore) -> KvStore:
    """The same bucket, whose keys cannot be listed at the moment."""

    async def versions(prefix: str = "") -> dict[str, VersionToken]:
        raise OperationTimeoutError(store=store.name)

    if isinstance(store, MemoryStore):
        copy: Any = MemoryStore(store._ref)
    else:
        assert isinstance(store, NatsStore)
        copy = NatsStore(store._bucket)
    copy.versions = versions
    return copy  # type: ignore[no-any-return]


async def test_a_backend_that_lists_no_versions_is_scanned() -> None:
    async with MemoryConnection() as connection:
        store = await connection.store(StoreConfig(name="config"))
        assert isinstance(store, MemoryStore)
        table, snapshot = await hydrated(store, {"a": b"1", "b": b"1"})
        await forget(store, "a")

        class Plain(MemoryStore):
            versions = None  # type: ignore[assignment]

        await follow_until(Plain(store._ref), table, {"b": b"1"}, snapshot=snapshot)
        assert values_of(snapshot) == {"b": b"1"}


@pytest.mark.parametrize("step", ["status", "versions"])
async def test_a_stop_during_a_repair_ends_it(store: KvStore, step: str) -> None:
    table, snapshot = await hydrated(store, {"a": b"1"})
    expired = snapshot.cursor
    await overwrite_all(store, {"a": b"2"})
    entered = asyncio.Event()

    async def wait(prefix: str = "") -> Any:
        entered.set()
        await asyncio.Event().wait()

    slow: Any = _unlisted(store)
    setattr(slow, step, wait)
    async with following(slow, table, snapshot=snapshot) as run:
        await entered.wait()
        assert await run.end() == expired
    assert values_of(snapshot) == {"a": b"1"}
