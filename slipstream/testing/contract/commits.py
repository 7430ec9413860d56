"""What others see of a commit: in watches, and when they read."""

from __future__ import annotations

from datetime import timedelta

import pytest

from slipstream.errors import (
    UnsupportedError,
)
from slipstream.interfaces import Connection, KvStore
from slipstream.model import Operation, StoreConfig
from slipstream.testing._waiting import bounded, collect, collect_until
from slipstream.testing.contract.base import BackendContract, ConnectAgain
from slipstream.testing.contract.transactions import lacks_transactions


class CommitContract(BackendContract):
    """The updates of one commit, and its keys that expire."""

    async def test_a_watch_marks_the_updates_of_a_commit(self, connection: Connection, store: KvStore) -> None:
        if lacks_transactions(connection, store):
            return
        async with store.watch() as watch:
            await store.put("alone", b"1")
            async with store.transaction() as txn:
                txn.put("a", b"1")
                txn.delete("b")
                txn.put("c", b"1")
            await store.put("last", b"1")
            updates = await collect_until(watch, lambda update: update.key == "last")
        assert [(update.key, update.commit) for update in (updates[0], updates[-1])] == [
            ("alone", False),
            ("last", False),
        ]
        inside = updates[1:-1]
        assert [update.version for update in inside] == list(txn.versions.values())
        assert [(update.key, update.operation, update.commit) for update in inside] == [
            ("a", Operation.PUT, False),
            ("b", Operation.DELETE, False),
            ("c", Operation.PUT, True),
        ]
        assert updates[0].transaction is None
        assert updates[-1].transaction is None
        assert len({update.transaction for update in inside}) == 1
        assert inside[0].transaction is not None

    async def test_batches_never_split_a_commit(self, connection: Connection, store: KvStore) -> None:
        if lacks_transactions(connection, store):
            return
        commits, size = 20, 7
        async with store.watch() as watch, bounded():
            for number in range(commits):
                await store.put(f"alone.{number}", b"1")
                async with store.transaction() as txn:
                    for key in range(size):
                        txn.put(f"k.{number}.{key}", b"1")
            seen: list[str] = []
            groups: list[set[str]] = []
            async for batch in watch.batches(max_items=3):
                seen.extend(update.key for update in batch)
                groups.append({update.transaction for update in batch if update.transaction is not None})
                assert batch[-1].transaction is None or batch[-1].commit
                if len(seen) == commits * (size + 1):
                    break
        assert len(seen) == len(set(seen))
        assert sum(map(len, groups)) == commits  # each commit lies within one batch

    async def test_a_commit_whose_end_lies_elsewhere_is_a_batch_all_the_same(
        self, connection: Connection, store: KvStore
    ) -> None:
        if lacks_transactions(connection, store):
            return
        async with store.watch("a.") as watch, bounded():
            for number in range(3):
                async with store.transaction() as txn:
                    for key in ("z.1", "a.1", "a.2", "a.3", "z.2"):
                        txn.put(key, b"%d" % number)
            await store.put("a.last", b"-")
            seen: list[tuple[str, str | None]] = []
            last_of_batches: list[str] = []
            async for batch in watch.batches(max_items=2):
                seen.extend((update.key, update.transaction) for update in batch)
                last_of_batches.append(batch[-1].key)
                if batch[-1].key == "a.last":
                    break
        groups = {transaction: [key for key, of in seen if of == transaction] for _, transaction in seen}
        assert groups.pop(None) == ["a.last"]
        # With one revision kept, a commit may have been overwritten before its delivery; what is there is whole.
        assert ["a.1", "a.2", "a.3"] in groups.values()
        assert set(last_of_batches) <= {"a.3", "a.last"}

    async def test_readers_see_all_of_a_commit_or_nothing(
        self, connection: Connection, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        """A watch of one key of a commit sees it with its fellows stored already."""
        if lacks_transactions(connection, store):
            return
        other = await (await connect_again()).store(store.name)
        async with other.watch("a") as watch:
            for number in range(20):
                async with store.transaction() as txn:
                    txn.put("a", b"%d" % number)
                    for key in range(20):
                        txn.put(f"z.{key}", b"%d" % number)
                (update,) = await collect(watch, 1)
                fellow = await other.get("z.19", min_version=txn.versions["z.19"])
                assert fellow is not None
                assert fellow.value == update.value == b"%d" % number

    async def test_a_ttl_is_kept(self, connection: Connection, store: KvStore) -> None:
        if lacks_transactions(connection, store):
            return
        assert connection.capabilities.ttl
        version = await store.put("updated", b"1")
        async with store.watch() as watch:
            async with store.transaction() as txn:
                txn.put("put", b"1", ttl=1)
                txn.create("created", b"1", ttl=timedelta(seconds=1))
                txn.update("updated", b"2", version, ttl=60)
            gone: set[str] = set()
            while len(gone) < 2:
                gone.add((await collect_until(watch, lambda update: update.expired))[-1].key)
        assert gone == {"put", "created"}
        assert await store.keys() == ["updated"]

    async def test_a_bucket_without_ttl_refuses_one_where_it_is_queued(
        self, connection: Connection, bucket: str
    ) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=2))
        if lacks_transactions(connection, store):
            return
        async with store.transaction() as txn:
            with pytest.raises(UnsupportedError):
                txn.put("k", b"1", ttl=5)
            txn.put("k", b"1")
        assert await store.keys() == ["k"]
