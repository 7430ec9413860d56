"""Unconditional writes: put, put_many, delete, purge, purge_deletes, and the values that they take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from slipstream.interfaces import Connection, KvStore
from slipstream.model import Operation, StoreConfig, VersionToken
from slipstream.testing.contract.base import TOMBSTONES, BackendContract, MakeAbsent, each

VALUES = {
    "one byte": b"x",
    "a NUL": b"\x00",
    "protocol lookalike": b"\r\nPUB x 1\r\n\r\n+OK\r\nHMSG \x00",
    "every byte": bytes(range(256)),
    "looks like a tombstone": b"KV-Operation: DEL\r\n\r\n",
    "whitespace": b" \t\r\n ",
    "200 KiB": bytes(range(256)) * 800,
}

NOT_BYTES: list[Any] = ["text", "", None, 7, ["list"], {"key": "value"}]

_MANY = 2000

AnyWrite = Callable[[KvStore, Any], Awaitable[object]]

WRITES: dict[str, AnyWrite] = {
    "put": lambda store, value: store.put("k", value),
    "create": lambda store, value: store.create("k", value),
    "update": lambda store, value: store.update("k", value, VersionToken.from_u64(1)),
    "put_many mapping": lambda store, value: store.put_many({"a": b"fine", "k": value}),
    "put_many pairs": lambda store, value: store.put_many([("a", b"fine"), ("k", value)]),
}

_ITEMS = [("b", b"1"), ("a", b"2"), ("c", b"3")]

ITEMS: dict[str, Callable[[], Mapping[str, bytes] | Iterable[tuple[str, bytes]]]] = {
    "mapping": lambda: dict(_ITEMS),
    "list": lambda: list(_ITEMS),
    "generator": lambda: (item for item in _ITEMS),
}


class WriteContract(BackendContract):
    """`put`, `put_many`, `delete`, `purge` and `purge_deletes`."""

    @pytest.mark.parametrize("value", list(VALUES.values()), ids=list(VALUES))
    async def test_a_value_comes_back_as_it_was_put(self, store: KvStore, value: bytes) -> None:
        async with store.watch() as watch:
            version = await store.put("k", value)
            update = await anext(watch)
        assert (update.operation, update.value, update.version) == (Operation.PUT, value, version)
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == value
        assert [found.value for found in await store.scan()] == [value]
        assert [found.value for found in (await store.get_many(["k"])).values()] == [value]
        assert [found.value for found in await store.history("k")] == [value]

    @pytest.mark.parametrize("write", list(WRITES.values()), ids=list(WRITES))
    async def test_what_is_not_bytes_is_a_type_error_and_nothing_is_written(
        self, store: KvStore, write: AnyWrite
    ) -> None:
        for value in NOT_BYTES:
            with pytest.raises(TypeError):
                await write(store, value)
        assert (await store.status()).last_revision == 0

    async def test_an_empty_value_is_stored_and_reads_as_absent(self, store: KvStore) -> None:
        version = await store.put("k", b"")
        assert await store.get("k") is None
        entry = await store.entry("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"", version)

    async def test_put_returns_the_revision_of_the_write(self, store: KvStore) -> None:
        first = await store.put("k", b"1")
        second = await store.put("k", b"2")
        assert (first.as_u64(), second.as_u64()) == (1, 2)
        assert first != second

    async def test_revisions_increase_over_the_whole_bucket(self, store: KvStore) -> None:
        revisions = [(await store.put("a", b"1")).as_u64(), (await store.create("b", b"1")).as_u64()]
        for remove in (store.delete, store.purge, store.delete):
            await remove("a")
            revisions.append((await store.status()).last_revision)
        version = await store.put("c", b"1")
        revisions += [version.as_u64(), (await store.update("c", b"2", version)).as_u64()]
        revisions += [written.as_u64() for written in await store.put_many({"a": b"1", "d": b"2"})]
        assert revisions == list(range(1, 10))

    async def test_buckets_count_their_revisions_apart(self, connection: Connection, bucket: str) -> None:
        one = await connection.store(bucket)
        other = await connection.store(f"{bucket}-other")
        await one.put("k", b"1")
        assert await other.get("k") is None
        assert (await other.put("k", b"2")).as_u64() == 1

    @pytest.mark.parametrize("items", list(ITEMS.values()), ids=list(ITEMS))
    async def test_put_many_returns_versions_in_the_order_of_the_items(
        self, store: KvStore, items: Callable[[], Mapping[str, bytes] | Iterable[tuple[str, bytes]]]
    ) -> None:
        versions = await store.put_many(items())
        found = await store.get_many([key for key, _ in _ITEMS])
        assert [(entry.key, entry.value) for entry in found.values()] == _ITEMS
        assert [entry.version for entry in found.values()] == versions

    async def test_put_many_writes_a_key_as_often_as_it_is_named(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=10))
        versions = await store.put_many([("k", b"1"), ("other", b"-"), ("k", b"2"), ("k", b"3")])
        assert len(set(versions)) == 4
        updates = await store.history("k")
        assert [(update.value, update.version) for update in updates] == [
            (b"1", versions[0]),
            (b"2", versions[2]),
            (b"3", versions[3]),
        ]

    async def test_put_many_of_nothing_writes_nothing(self, store: KvStore) -> None:
        assert await store.put_many({}) == []
        assert await store.put_many([]) == []
        assert (await store.status()).last_revision == 0

    async def test_put_many_pipelines_thousands(self, store: KvStore) -> None:
        items = {f"k.{number}": b"%d" % number for number in range(_MANY)}
        versions = await store.put_many(items)
        assert len(set(versions)) == _MANY
        entries = {entry.key: entry for entry in await store.scan()}
        assert {key: entry.value for key, entry in entries.items()} == items
        assert [entries[key].version for key in items] == versions

    async def test_put_many_of_an_empty_value_writes_a_tombstone(self, store: KvStore) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        await store.put_many({"a": b"", "c": b"3"})
        assert await store.keys() == ["b", "c"]

    async def test_delete_leaves_a_marker(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=5))
        await store.put("k", b"value")
        assert await store.delete("k") is True
        assert await store.get("k") is None
        assert [update.operation for update in await store.history("k")] == [Operation.PUT, Operation.DELETE]

    @each(TOMBSTONES)
    async def test_delete_of_an_absent_key_is_true_and_leaves_a_marker_too(
        self, store: KvStore, make_absent: MakeAbsent
    ) -> None:
        await make_absent(store, "k")
        before = (await store.status()).last_revision
        assert await store.delete("k") is True
        assert await store.delete("never-written") is True
        assert (await store.status()).last_revision == before + 2
        assert [update.operation for update in await store.history("never-written")] == [Operation.DELETE]

    async def test_purge_leaves_a_marker_and_drops_the_history(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=5))
        first = await store.put("k", b"1")
        await store.put("k", b"2")
        await store.put("k.other", b"-")
        await store.purge("k")
        assert [(update.operation, update.revision) for update in await store.history("k")] == [(Operation.PURGE, 4)]
        assert await store.revision("k", first) is None
        assert await store.get("k") is None
        assert await store.keys() == ["k.other"]

    async def test_purge_of_a_key_never_written_leaves_a_marker(self, store: KvStore) -> None:
        await store.purge("k")
        assert [update.operation for update in await store.history("k")] == [Operation.PURGE]

    async def test_purge_deletes_removes_tombstones_and_says_how_many(self, store: KvStore) -> None:
        for name, make_absent in TOMBSTONES.items():
            await make_absent(store, name.replace(" ", "-"))
        await store.put_many({"live": b"1", "deleted.child": b"2"})
        assert await store.purge_deletes() == len(TOMBSTONES)
        assert (await store.status()).keys == 2
        assert await store.keys() == ["deleted.child", "live"]
        assert await store.history("deleted") == []
        assert await store.history("purged") == []

    async def test_purge_deletes_drops_the_history_below_a_tombstone(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=5))
        for key in ("k", "live"):
            await store.put(key, b"1")
            await store.delete(key)
        await store.put("live", b"2")
        assert await store.purge_deletes() == 1
        assert await store.history("k") == []
        assert [update.operation for update in await store.history("live")] == [
            Operation.PUT,
            Operation.DELETE,
            Operation.PUT,
        ]

    @pytest.mark.parametrize("older_than", [3600, 3600.5, timedelta(hours=1)])
    async def test_purge_deletes_keeps_younger_tombstones(self, store: KvStore, older_than: float | timedelta) -> None:
        await store.put("live", b"1")
        await store.delete("k")
        assert await store.purge_deletes(older_than) == 0
        assert [update.operation for update in await store.history("k")] == [Operation.DELETE]
        assert await store.keys() == ["live"]

    async def test_purge_deletes_of_nothing_is_zero(self, store: KvStore) -> None:
        assert await store.purge_deletes() == 0
        await store.put("live", b"1")
        assert await store.purge_deletes(0) == 0
        assert await store.keys() == ["live"]

    async def test_a_key_is_written_again_after_its_tombstone_was_removed(self, store: KvStore) -> None:
        await store.put("k", b"1")
        await store.delete("k")
        await store.purge_deletes()
        version = await store.create("k", b"2")
        assert version.as_u64() == 3
        assert await store.keys() == ["k"]
