"""Reading one key or several: what a read returns, how fresh it is, and what reads as absent."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from slipstream.errors import OperationTimeoutError
from slipstream.interfaces import Connection, KvStore, Reads
from slipstream.model import Operation, StoreConfig, VersionToken
from slipstream.testing._waiting import bounded, collect_until, ticks
from slipstream.testing.contract.base import (
    ABSENCES,
    EMPTY_VALUES,
    TOMBSTONES,
    BackendContract,
    ConnectAgain,
    MakeAbsent,
    each,
)

# More than the 1024 subjects that one multi-key request of a NATS server answers.
_MANY = 1500


class ReadContract(BackendContract):
    """`get`, `entry`, `get_many`, `history` and `revision`."""

    async def test_get_returns_key_value_version_and_time(self, store: KvStore) -> None:
        version = await store.put("node.a", b"value")
        entry = await store.get("node.a")
        assert entry is not None
        assert (entry.key, entry.value, entry.version) == ("node.a", b"value", version)
        assert entry.revision == version.as_u64()
        assert entry.created is not None
        assert entry.created.utcoffset() == timedelta(0)

    async def test_get_returns_the_last_of_several_values(self, store: KvStore) -> None:
        await store.put("k", b"1")
        await store.put("k", b"2")
        version = await store.put("k", b"3")
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"3", version)

    async def test_entry_is_as_get_on_a_live_key(self, store: KvStore) -> None:
        await store.put("k", b"value")
        assert await store.entry("k") == await store.get("k")
        assert (await store.entry("k")) is not None

    async def test_a_key_is_not_confused_with_its_neighbours(self, store: KvStore) -> None:
        await store.put_many({"node": b"1", "node.a": b"2", "node.a.b": b"3", "nodes": b"4"})
        entry = await store.get("node.a")
        assert entry is not None
        assert entry.value == b"2"
        assert await store.get("node.b") is None

    async def test_get_many_returns_the_present_ones_in_the_order_asked_for(self, store: KvStore) -> None:
        await store.put_many({"a": b"1", "b": b"2", "c": b"3"})
        found = await store.get_many(["c", "missing", "a", "b"])
        assert list(found) == ["c", "a", "b"]
        assert [entry.value for entry in found.values()] == [b"3", b"1", b"2"]
        assert [entry.key for entry in found.values()] == ["c", "a", "b"]

    async def test_get_many_takes_duplicates_and_any_iterable(self, store: KvStore) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        found = await store.get_many(key for key in ("b", "a", "b", "a"))
        assert list(found) == ["b", "a"]

    async def test_get_many_of_nothing_is_empty(self, store: KvStore) -> None:
        await store.put("a", b"1")
        assert await store.get_many([]) == {}

    async def test_get_many_returns_more_keys_than_one_request_holds(self, store: KvStore) -> None:
        wanted = [f"k.{number}" for number in range(_MANY)]
        versions = await store.put_many([(key, key.encode()) for key in wanted])
        found = await store.get_many(reversed(wanted))
        assert list(found) == wanted[::-1]
        assert [found[key].version for key in wanted] == versions
        assert all(found[key].value == key.encode() for key in wanted)

    @pytest.mark.parametrize("reads", ["leader", "session", "any"])
    async def test_a_handle_reads_its_own_writes(self, connection: Connection, bucket: str, reads: Reads) -> None:
        store = await connection.store(bucket, reads=reads)
        for number in range(20):
            version = await store.put("k", b"%d" % number)
            entry = await store.get("k")
            assert entry is not None
            assert entry.version == version

    async def test_an_acknowledged_write_is_seen_by_another_connection(
        self, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        other = await (await connect_again()).store(store.name)
        version = await store.put("k", b"value")
        entry = await other.get("k")
        assert entry is not None
        assert entry.version == version

    async def test_min_version_that_is_there_is_answered(self, store: KvStore) -> None:
        version = await store.put("k", b"value")
        later = await store.put("another", b"value")
        for wanted in (version, later):
            entry = await store.get("k", min_version=wanted)
            assert entry is not None
            assert entry.version == version
        assert await store.get("missing", min_version=later) is None

    async def test_min_version_waits_for_the_write(self, store: KvStore) -> None:
        before = (await store.put("k", b"old")).as_u64()
        assert before is not None
        async with bounded(), asyncio.TaskGroup() as group:
            reading = group.create_task(store.get("k", min_version=VersionToken.from_u64(before + 1)))
            await ticks(20)
            assert not reading.done()
            await store.put("k", b"new")
        entry = reading.result()
        assert entry is not None
        assert entry.value == b"new"

    async def test_min_version_that_never_arrives_times_out(self, store: KvStore, connect_again: ConnectAgain) -> None:
        version = await store.put("k", b"value")
        impatient = await (await connect_again(op_timeout=1.0)).store(store.name)
        async with bounded():
            with pytest.raises(OperationTimeoutError) as caught:
                await impatient.get("k", min_version=VersionToken.from_u64((version.as_u64() or 0) + 100))
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.retryable
        assert not caught.value.outcome_unknown
        assert await impatient.get("k") is not None

    async def test_history_is_oldest_first_with_its_tombstones(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=10))
        await store.put("k", b"1")
        await store.put("another", b"-")
        await store.put("k", b"2")
        await store.delete("k")
        await store.put("k", b"")
        await store.put("k", b"3")
        updates = await store.history("k")
        assert [(update.operation, update.value) for update in updates] == [
            (Operation.PUT, b"1"),
            (Operation.PUT, b"2"),
            (Operation.DELETE, b""),
            (Operation.DELETE, b""),
            (Operation.PUT, b"3"),
        ]
        assert [update.revision for update in updates] == [1, 3, 4, 5, 6]
        assert {update.key for update in updates} == {"k"}

    async def test_history_holds_max_history_revisions(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=3))
        for number in range(5):
            await store.put("k", b"%d" % number)
        assert [update.value for update in await store.history("k")] == [b"2", b"3", b"4"]

    async def test_history_is_one_revision_by_default(self, store: KvStore) -> None:
        await store.put("k", b"1")
        version = await store.put("k", b"2")
        assert [update.version for update in await store.history("k")] == [version]

    async def test_history_of_a_key_never_written_is_empty(self, store: KvStore) -> None:
        await store.put("k.a", b"1")
        assert await store.history("k") == []

    async def test_revision_returns_that_write_of_the_key(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=5))
        first = await store.put("k", b"1")
        second = await store.put("k", b"2")
        await store.delete("k")
        for version, value in ((first, b"1"), (second, b"2")):
            update = await store.revision("k", version)
            assert update is not None
            assert (update.operation, update.key, update.value, update.version) == (Operation.PUT, "k", value, version)
        marker = await store.revision("k", VersionToken.from_u64(3))
        assert marker is not None
        assert (marker.operation, marker.value, marker.entry) == (Operation.DELETE, b"", None)

    async def test_revision_of_another_key_is_none(self, store: KvStore) -> None:
        version = await store.put("a", b"1")
        await store.put("b", b"2")
        assert await store.revision("b", version) is None

    async def test_revision_no_longer_held_or_not_yet_written_is_none(self, store: KvStore) -> None:
        overwritten = await store.put("k", b"1")
        await store.put("k", b"2")
        assert await store.revision("k", overwritten) is None
        assert await store.revision("k", VersionToken.from_u64(99)) is None


class AbsenceContract(BackendContract):
    """No record, a tombstone of any kind and an empty value all read as absent."""

    @each(ABSENCES)
    async def test_every_read_agrees_that_an_absent_key_is_absent(
        self, store: KvStore, make_absent: MakeAbsent
    ) -> None:
        await make_absent(store, "k")
        await store.put("live", b"value")
        assert await store.get("k") is None
        assert list(await store.get_many(["k", "live"])) == ["live"]
        assert "k" not in await store.keys()
        assert "k" not in [entry.key for entry in await store.scan()]
        assert "k" not in [entry.key async for entry in store.iter_scan()]
        assert "live" in await store.keys()

    @each(TOMBSTONES)
    async def test_the_watch_agrees(self, store: KvStore, make_absent: MakeAbsent) -> None:
        async with store.watch() as watch:
            await make_absent(store, "k")
            await store.put("last", b"value")
            updates = await collect_until(watch, lambda update: update.key == "last")
        tombstone = [update for update in updates if update.key == "k"][-1]
        assert tombstone.operation in (Operation.DELETE, Operation.PURGE)
        assert (tombstone.value, tombstone.entry, tombstone.expired) == (b"", None, False)

    @each(EMPTY_VALUES)
    async def test_entry_shows_the_raw_record_of_an_empty_value(self, store: KvStore, make_absent: MakeAbsent) -> None:
        await make_absent(store, "k")
        entry = await store.entry("k")
        assert entry is not None
        assert (entry.key, entry.value, entry.revision) == ("k", b"", (await store.status()).last_revision)

    @each({name: how for name, how in ABSENCES.items() if name not in EMPTY_VALUES})
    async def test_entry_of_a_marker_or_of_nothing_is_none(self, store: KvStore, make_absent: MakeAbsent) -> None:
        await make_absent(store, "k")
        assert await store.entry("k") is None

    @each(TOMBSTONES)
    async def test_a_key_lives_again_after_a_put(self, store: KvStore, make_absent: MakeAbsent) -> None:
        await make_absent(store, "k")
        version = await store.put("k", b"again")
        entry = await store.get("k")
        assert entry is not None
        assert entry.version == version
        assert await store.keys() == ["k"]
