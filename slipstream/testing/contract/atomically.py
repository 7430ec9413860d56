"""`atomically`: run again until nothing that was read has changed."""

from __future__ import annotations

import asyncio

import pytest

from slipstream.errors import (
    KvError,
    RevisionMismatchError,
    UnsupportedError,
)
from slipstream.interfaces import Connection, KvStore, Transaction
from slipstream.testing._waiting import bounded
from slipstream.testing.contract.base import BackendContract, ConnectAgain
from slipstream.testing.contract.transactions import OLD, everything, lacks_transactions, twice_written

_CONTENDERS = 8


class AtomicallyContract(BackendContract):
    """`atomically(fn)`."""

    async def test_atomically_commits_or_is_refused_before_the_function_runs(
        self, connection: Connection, store: KvStore
    ) -> None:
        calls: list[str] = []

        async def write(txn: Transaction) -> str:
            calls.append("called")
            txn.put("k", b"value")
            return "returned"

        if connection.capabilities.transactions:
            assert await store.atomically(write) == "returned"
            assert await store.keys() == ["k"]
        else:
            with pytest.raises(UnsupportedError):
                await store.atomically(write)
            assert calls == []
            assert (await store.status()).last_revision == 0

    async def test_a_conflict_runs_the_function_again(self, connection: Connection, store: KvStore) -> None:
        await store.put("k", b"1")
        if lacks_transactions(connection, store):
            return
        seen: list[bytes | None] = []

        async def disturbed(txn: Transaction) -> int:
            entry = await txn.get("k")
            absent = await txn.get("absent")
            seen.append(None if entry is None else entry.value)
            if len(seen) == 1:
                await store.put("k", b"2")
            if len(seen) == 2:
                await store.put("absent", b"no longer")
            if len(seen) == 3:
                assert absent is not None
                await store.delete("k")
            txn.put("result", b"%d" % len(seen))
            return len(seen)

        async with bounded():
            assert await store.atomically(disturbed) == 4
        assert seen == [b"1", b"2", b"2", None]
        result = await store.get("result")
        assert result is not None
        assert result.value == b"4"
        assert len(await store.history("result")) == 1

    async def test_a_create_that_came_second_is_run_again(self, connection: Connection, store: KvStore) -> None:
        if lacks_transactions(connection, store):
            return
        calls: list[str] = []

        async def create(txn: Transaction) -> str:
            calls.append("called")
            key = f"k.{len(calls)}"
            if len(calls) == 1:
                await store.put(key, b"first")
            txn.create(key, b"second")
            return key

        async with bounded():
            assert await store.atomically(create) == "k.2"

    async def test_a_counter_loses_no_increment(
        self, connection: Connection, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        if lacks_transactions(connection, store):
            return
        stores = [store, await (await connect_again()).store(store.name)]

        async def increment(txn: Transaction) -> None:
            entry = await txn.get("counter")
            txn.put("counter", b"%d" % (1 + (int(entry.value) if entry is not None else 0)))

        async with bounded():
            await asyncio.gather(*(stores[number % 2].atomically(increment) for number in range(_CONTENDERS)))
        entry = await store.get("counter")
        assert entry is not None
        assert int(entry.value) == _CONTENDERS

    async def test_what_never_commits_raises_its_conflict_within_the_timeout(
        self, connection: Connection, connect_again: ConnectAgain, store: KvStore
    ) -> None:
        await twice_written(store)
        if lacks_transactions(connection, store):
            return
        impatient = await (await connect_again(op_timeout=0.5)).store(store.name)

        async def hopeless(txn: Transaction) -> None:
            txn.update("k", b"new", OLD)

        async with bounded():
            with pytest.raises(RevisionMismatchError):
                await impatient.atomically(hopeless)
        assert await everything(store) == {"k": b"2"}

    async def test_what_the_function_raises_comes_out_and_nothing_is_written(
        self, connection: Connection, store: KvStore
    ) -> None:
        if lacks_transactions(connection, store):
            return
        for error in (LookupError("of the function"), RevisionMismatchError(message="of its own"), KvError()):
            calls: list[str] = []

            async def fail(txn: Transaction, error: Exception = error, calls: list[str] = calls) -> None:
                calls.append("called")
                txn.put("k", b"value")
                raise error

            with pytest.raises(type(error)) as caught:
                await store.atomically(fail)
            assert caught.value is error
            assert calls == ["called"]
        assert (await store.status()).last_revision == 0

    async def test_a_function_that_only_reads_has_read_one_moment(self, connection: Connection, store: KvStore) -> None:
        await store.put_many({"a": b"1", "b": b"1"})
        if lacks_transactions(connection, store):
            return
        calls: list[str] = []

        async def read(txn: Transaction) -> list[bytes]:
            calls.append("called")
            first = await txn.get("a")
            if len(calls) == 1:
                await store.put_many({"a": b"2", "b": b"2"})
            second = await txn.get("b")
            assert first is not None
            assert second is not None
            return [first.value, second.value]

        async with bounded():
            assert await store.atomically(read) == [b"2", b"2"]
        assert await store.keys() == ["a", "b"]

    async def test_transfers_keep_their_sum(
        self, connection: Connection, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        if lacks_transactions(connection, store):
            return
        accounts = [f"account.{number}" for number in range(4)]
        await store.put_many(dict.fromkeys(accounts, b"100"))
        stores = [store, await (await connect_again()).store(store.name)]

        async def transfer(by: KvStore, source: str, target: str) -> None:
            async def move(txn: Transaction) -> None:
                out, into = await txn.get(source), await txn.get(target)
                assert out is not None
                assert into is not None
                txn.put(source, b"%d" % (int(out.value) - 1))
                txn.update(target, b"%d" % (int(into.value) + 1), into.version)

            await by.atomically(move)

        async with bounded(), asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(
                    transfer(stores[number % 2], accounts[number % 4], accounts[(number + 1 + number % 3) % 4])
                )
        assert sum(int(entry.value) for entry in await store.scan()) == 400
        assert (await store.status()).last_revision == 4 + 2 * 20
