"""What a transaction requires of keys and prefixes that it need not write, and what it has read."""

from __future__ import annotations

import pytest

from slipstream.errors import (
    InvalidKeyError,
    RevisionMismatchError,
)
from slipstream.interfaces import Connection, KvStore
from slipstream.model import VersionToken
from slipstream.testing._waiting import bounded, collect
from slipstream.testing.contract.base import TOMBSTONES, BackendContract, MakeAbsent, each
from slipstream.testing.contract.transactions import OLD, everything, lacks_transactions, twice_written


class GuardContract(BackendContract):
    """`require`, `require_unchanged` and tracked reads."""

    async def test_what_is_required_holds_or_rejects_everything(self, connection: Connection, store: KvStore) -> None:
        version = await twice_written(store)
        if lacks_transactions(connection, store):
            return
        # As many guards as operations, more, and guards alone.
        for operations in (["a", "b"], ["a"], []):
            async with store.transaction() as txn:
                txn.require("k", version)
                txn.require("never", None)
                for key in operations:
                    txn.put(key, b"1")
            assert list(txn.versions) == operations
        for operations in (["c", "d"], ["c"], []):
            with pytest.raises(RevisionMismatchError):
                async with store.transaction() as txn:
                    txn.require("k", OLD)
                    txn.require("never", None)
                    for key in operations:
                        txn.put(key, b"1")
        assert await store.keys() == ["a", "b", "k"]

    async def test_an_update_leaves_no_room_for_a_guard_and_yet_it_holds(
        self, connection: Connection, store: KvStore
    ) -> None:
        version = await twice_written(store)
        if lacks_transactions(connection, store):
            return
        lock = await store.put("lock", b"-")
        async with store.transaction() as txn:
            txn.update("k", b"3", version)
            txn.require("lock", lock)
        await store.put("lock", b"-")
        with pytest.raises(RevisionMismatchError) as caught:
            async with store.transaction() as again:
                again.update("k", b"4", txn.versions["k"])
                again.require("lock", lock)
        assert caught.value.key == "lock"
        assert await everything(store) == {"k": b"3", "lock": b"-"}

    @each(TOMBSTONES)
    async def test_required_absence_is_any_absence(
        self, connection: Connection, store: KvStore, make_absent: MakeAbsent
    ) -> None:
        await make_absent(store, "gone")
        if lacks_transactions(connection, store):
            return
        async with store.transaction() as txn:
            txn.require("gone", None)
            txn.put("k", b"1")
        assert await store.keys() == ["k"]

    async def test_a_key_is_required_and_written(self, connection: Connection, store: KvStore) -> None:
        version = await twice_written(store)
        if lacks_transactions(connection, store):
            return
        with pytest.raises(RevisionMismatchError):
            async with store.transaction() as txn:
                txn.require("k", OLD)
                txn.put("k", b"wrong")
        with pytest.raises(RevisionMismatchError):
            async with store.transaction() as txn:
                txn.require("k", OLD)
                txn.update("k", b"wrong", version)
        async with store.transaction() as txn:
            txn.require("k", version)
            txn.put("k", b"right")
            txn.put("other", b"1")
        assert await everything(store) == {"k": b"right", "other": b"1"}

    async def test_what_leads_its_reader_to_a_guard_is_never_seen(self, connection: Connection, store: KvStore) -> None:
        """However a backend keeps more guards than operations, nothing of it shows."""
        version = await twice_written(store)
        if lacks_transactions(connection, store):
            return
        async with store.watch() as watch:
            await collect(watch, 1)
            for _ in range(3):
                async with store.transaction() as txn:
                    txn.require("k", version)
                    txn.require("never", None)
                    txn.require_unchanged("other.", version)
                async with store.transaction() as txn:
                    txn.require_unchanged("", version)
            async with store.transaction() as txn:
                txn.create("new", b"1")
                txn.require("k", version)
            updates = await collect(watch, 1)
            assert [update.key for update in updates] == ["new"]
            assert (updates[0].version, updates[0].commit) == (txn.versions["new"], True)
            assert watch.cursor.as_u64() == txn.versions["new"].as_u64()
        status = await store.status()
        assert (status.keys, status.last_revision) == (2, txn.versions["new"].as_u64())
        assert await store.keys() == ["k", "new"]
        assert [entry.key async for entry in store.iter_scan()] == ["k", "new"]
        assert await store.purge_deletes() == 0
        async with store.watch() as watch:
            assert [update.key for update in await collect(watch, 2)] == ["k", "new"]
            async with bounded():
                await watch.wait_hydrated()

    async def test_an_unchanged_prefix_commits_and_a_changed_one_rejects(
        self, connection: Connection, store: KvStore
    ) -> None:
        await store.put_many({"node.a": b"1", "node.b": b"1", "nodes": b"1", "other": b"1"})
        seen = VersionToken.from_u64((await store.status()).last_revision)
        if lacks_transactions(connection, store):
            return
        async with store.transaction() as txn:
            txn.require_unchanged("node.", seen)
            txn.require_unchanged("empty.", seen)
            txn.put("node.a", b"2")
            txn.put("result", b"1")
        for unchanged in ("other.", "empty.", "node.b."):
            async with store.transaction() as txn:
                txn.require_unchanged(unchanged, seen)
                txn.put("result", b"2")
        for changed in ("node.", ""):
            with pytest.raises(RevisionMismatchError) as caught:
                async with store.transaction() as txn:
                    txn.require_unchanged(changed, seen)
                    txn.put("result", b"wrong")
            assert caught.value.key == changed
            assert caught.value.expected == seen
        assert (await everything(store))["result"] == b"2"

    @each(TOMBSTONES)
    async def test_a_tombstone_is_a_change(
        self, connection: Connection, store: KvStore, make_absent: MakeAbsent
    ) -> None:
        await store.put("node.a", b"1")
        seen = VersionToken.from_u64((await store.status()).last_revision)
        if lacks_transactions(connection, store):
            return
        await make_absent(store, "node.a")
        with pytest.raises(RevisionMismatchError):
            async with store.transaction() as txn:
                txn.require_unchanged("node.", seen)
                txn.put("result", b"wrong")
        async with store.transaction() as txn:
            txn.require_unchanged("node.", VersionToken.from_u64((await store.status()).last_revision))
            txn.put("result", b"right")

    async def test_a_prefix_may_be_required_at_any_revision_of_the_bucket(
        self, connection: Connection, store: KvStore
    ) -> None:
        version = await store.put("node.a", b"1")
        last = await store.put("other", b"1")
        if lacks_transactions(connection, store):
            return
        for seen in (version, last, VersionToken.from_u64(10_000)):
            async with store.transaction() as txn:
                txn.require_unchanged("node.", seen)
                txn.put("other", b"2")
        with pytest.raises(RevisionMismatchError):
            async with store.transaction() as txn:
                txn.require_unchanged("node.", VersionToken.from_u64(0))
                txn.put("other", b"wrong")

    @pytest.mark.parametrize("prefix", ["node", "node.a", "nodes", "node..", ".", "*", "node.*", "node.>"])
    async def test_a_prefix_that_ends_inside_a_token_cannot_be_required(
        self, connection: Connection, store: KvStore, prefix: str
    ) -> None:
        if lacks_transactions(connection, store):
            return
        with pytest.raises(InvalidKeyError):
            async with store.transaction() as txn:
                txn.require_unchanged(prefix, OLD)
        assert (await store.status()).last_revision == 0

    async def test_get_sees_what_is_queued_and_what_is_stored(self, connection: Connection, store: KvStore) -> None:
        version = await twice_written(store)
        if lacks_transactions(connection, store):
            return
        async with store.transaction() as txn:
            stored = await txn.get("k")
            assert stored is not None
            assert (stored.value, stored.version) == (b"2", version)
            assert await txn.get("never") is None
            txn.put("k", b"3")
            txn.create("never", b"1")
            queued = [await txn.get(key) for key in ("k", "never")]
            assert [entry.value for entry in queued if entry is not None] == [b"3", b"1"]
            txn.delete("deleted")
            txn.purge("purged")
            txn.put("empty", b"")
            assert [await txn.get(key) for key in ("deleted", "purged", "empty")] == [None, None, None]
        assert await everything(store) == {"k": b"3", "never": b"1"}

    @pytest.mark.parametrize("key", ["k", "never", "gone"])
    async def test_what_was_read_must_not_have_changed(self, connection: Connection, store: KvStore, key: str) -> None:
        await twice_written(store)
        await store.delete("gone")
        if lacks_transactions(connection, store):
            return
        for write in (False, True):
            with pytest.raises(RevisionMismatchError) as caught:
                async with store.transaction() as txn:
                    await txn.get(key)
                    if write:
                        txn.put(key, b"wrong")
                    txn.put("result", b"wrong")
                    await store.put(key, b"changed")
            assert caught.value.key == key
        assert await store.get("result") is None
        async with store.transaction() as txn:
            await txn.get(key)
            txn.put("result", b"right")
        assert await store.get("result") is not None

    async def test_a_second_get_gives_the_same(self, connection: Connection, store: KvStore) -> None:
        await twice_written(store)
        if lacks_transactions(connection, store):
            return
        with pytest.raises(RevisionMismatchError):
            async with store.transaction() as txn:
                first = await txn.get("k")
                await store.put("k", b"3")
                assert await txn.get("k") == first
                txn.put("result", b"wrong")
