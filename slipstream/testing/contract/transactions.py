"""Transactions: all or nothing, on the server. A backend without says so in `capabilities` and refuses at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from slipstream.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidKeyError,
    OperationFailedError,
    RevisionMismatchError,
    StoreFullError,
    StoreNotFoundError,
    UnsupportedError,
    ValueTooLargeError,
)
from slipstream.interfaces import Connection, KvStore, Transaction
from slipstream.model import Operation, StoreConfig, VersionToken
from slipstream.testing._waiting import bounded, cancelled_after
from slipstream.testing.contract.base import ABSENCES, TOMBSTONES, BackendContract, ConnectAgain, MakeAbsent, each

_MOST = 1000
_CONTENDERS = 8

OLD = VersionToken.from_u64(1)
"""The version of a key that has been written since."""

Queued = Callable[[Transaction], None]

QUEUED: dict[str, Queued] = {
    "put": lambda txn: txn.put("new", b"value"),
    "create": lambda txn: txn.create("new", b"value"),
    "update": lambda txn: txn.update("k", b"value", VersionToken.from_u64(2)),
    "delete": lambda txn: txn.delete("k"),
    "purge": lambda txn: txn.purge("k"),
}
"""Each can be committed on a bucket whose only record is `k`, at revision 2."""

FAILING: dict[str, tuple[Queued, type[ConflictError], str]] = {
    "update": (lambda txn: txn.update("k", b"new", OLD), RevisionMismatchError, "k"),
    "update of what never was": (lambda txn: txn.update("never", b"new", OLD), RevisionMismatchError, "never"),
    "create": (lambda txn: txn.create("k", b"new"), AlreadyExistsError, "k"),
    "require": (lambda txn: txn.require("k", OLD), RevisionMismatchError, "k"),
    "require absent": (lambda txn: txn.require("k", None), RevisionMismatchError, "k"),
    "require of what never was": (lambda txn: txn.require("never", OLD), RevisionMismatchError, "never"),
    "require_unchanged": (lambda txn: txn.require_unchanged("", OLD), RevisionMismatchError, ""),
}
"""On a bucket whose only record is `k`, at revision 2: what fails, with which error, about which key."""


def each_queued() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("queue", list(QUEUED.values()), ids=list(QUEUED))


def each_failing() -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("queue", "error", "key"), list(FAILING.values()), ids=list(FAILING))


def lacks_transactions(connection: Connection, store: KvStore) -> bool:
    """The backend has no transactions, and has just refused one."""
    if connection.capabilities.transactions:
        return False
    with pytest.raises(UnsupportedError):
        store.transaction()
    return True


async def twice_written(store: KvStore) -> VersionToken:
    """`k` is the only record, at revision 2."""
    await store.put("k", b"1")
    return await store.put("k", b"2")


async def everything(store: KvStore) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in await store.scan()}


class TransactionContract(BackendContract):
    """`transaction()`."""

    async def test_a_transaction_commits_or_is_refused_at_once(self, connection: Connection, store: KvStore) -> None:
        if connection.capabilities.transactions:
            async with store.transaction() as txn:
                txn.put("a", b"1")
                txn.put("b", b"2")
            assert await store.keys() == ["a", "b"]
        else:
            with pytest.raises(UnsupportedError):
                store.transaction()
            assert (await store.status()).last_revision == 0

    async def test_every_operation_is_stored_with_its_version(self, connection: Connection, store: KvStore) -> None:
        if lacks_transactions(connection, store):
            return
        await store.put_many({"deleted": b"1", "purged": b"1"})
        updated = await store.put("updated", b"1")
        async with store.transaction() as txn:
            txn.put("put", b"put")
            txn.create("created", b"created")
            txn.update("updated", b"updated", updated)
            txn.delete("deleted")
            txn.purge("purged")
            txn.put("emptied", b"")
            assert txn.versions == {}
            assert await store.keys() == ["deleted", "purged", "updated"]
        assert await everything(store) == {"put": b"put", "created": b"created", "updated": b"updated"}
        versions = txn.versions
        assert list(versions) == ["put", "created", "updated", "deleted", "purged", "emptied"]
        revisions = [version.as_u64() or 0 for version in versions.values()]
        assert revisions == list(range(revisions[0], revisions[0] + 6))
        last = {key: (await store.history(key))[-1] for key in versions}
        assert {key: update.version for key, update in last.items()} == versions
        assert {key: update.operation for key, update in last.items()} == {
            "put": Operation.PUT,
            "created": Operation.PUT,
            "updated": Operation.PUT,
            "deleted": Operation.DELETE,
            "purged": Operation.PURGE,
            "emptied": Operation.DELETE,
        }

    async def test_a_purge_drops_the_history(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=5))
        if lacks_transactions(connection, store):
            return
        for value in (b"1", b"2"):
            await store.put_many({"purged": value, "deleted": value})
        async with store.transaction() as txn:
            txn.purge("purged")
            txn.delete("deleted")
        assert [update.operation for update in await store.history("purged")] == [Operation.PURGE]
        assert len(await store.history("deleted")) == 3

    async def test_a_commit_that_is_cancelled_is_stored_whole_or_not_at_all(
        self, connection: Connection, store: KvStore
    ) -> None:
        if lacks_transactions(connection, store):
            return

        async def commit(number: int) -> None:
            async with store.transaction() as txn:
                for key in range(3):
                    txn.put(f"k.{number}.{key}", b"1")
                txn.require("absent", None)
                txn.create(f"k.{number}.created", b"1")

        for number in range(40):
            await cancelled_after(number, commit(number))
        await commit(40)  # nothing is left behind that would hinder it
        found: dict[str, int] = {}
        for key in await store.keys("k."):
            found[key.split(".")[1]] = found.get(key.split(".")[1], 0) + 1
        assert found["40"] == 4
        assert set(found.values()) == {4}

    async def test_an_exception_in_the_block_drops_everything(self, connection: Connection, store: KvStore) -> None:
        if lacks_transactions(connection, store):
            return
        with pytest.raises(LookupError):
            async with store.transaction() as txn:
                txn.put("k", b"value")
                raise LookupError
        assert (await store.status()).last_revision == 0
        assert txn.versions == {}

    async def test_a_transaction_of_nothing_writes_nothing(self, connection: Connection, store: KvStore) -> None:
        if lacks_transactions(connection, store):
            return
        async with store.transaction() as txn:
            pass
        assert txn.versions == {}
        assert (await store.status()).last_revision == 0

    async def test_a_transaction_is_entered_once_and_used_inside_only(
        self, connection: Connection, store: KvStore
    ) -> None:
        if lacks_transactions(connection, store):
            return
        txn = store.transaction()
        with pytest.raises(RuntimeError):
            txn.put("k", b"value")
        async with txn:
            txn.put("k", b"value")
            with pytest.raises(RuntimeError):
                await txn.__aenter__()
        uses: list[Callable[[], None]] = [
            lambda: txn.put("b", b"1"),
            lambda: txn.require("b", None),
            lambda: txn.delete("b"),
        ]
        for use in uses:
            with pytest.raises(RuntimeError):
                use()
        with pytest.raises(RuntimeError):
            await txn.get("k")
        assert await store.keys() == ["k"]

    @each_failing()
    async def test_one_conflict_rejects_everything_and_names_the_key(
        self, connection: Connection, store: KvStore, queue: Queued, error: type[ConflictError], key: str
    ) -> None:
        await twice_written(store)
        if lacks_transactions(connection, store):
            return
        with pytest.raises(error) as caught:
            async with store.transaction() as txn:
                txn.put("before", b"1")
                queue(txn)
                txn.put("after", b"1")
        assert type(caught.value) is error
        assert (caught.value.store, caught.value.key) == (store.name, key)
        assert not caught.value.outcome_unknown
        assert txn.versions == {}
        assert await everything(store) == {"k": b"2"}
        assert (await store.status()).last_revision == 2

    @pytest.mark.parametrize(
        ("names", "first"),
        [
            (["update", "create other"], "update"),
            (["create other", "update"], "create other"),
            (["require_unchanged", "require"], "require"),
            (["create other", "require_unchanged", "require"], "create other"),
        ],
    )
    async def test_of_several_conflicts_the_first_that_was_named_is_the_error(
        self, connection: Connection, store: KvStore, names: list[str], first: str
    ) -> None:
        await twice_written(store)
        await store.put("other", b"1")
        if lacks_transactions(connection, store):
            return
        create_other: tuple[Queued, type[ConflictError], str] = (
            lambda txn: txn.create("other", b"new"),
            AlreadyExistsError,
            "other",
        )
        failing = {**FAILING, "create other": create_other}
        _, error, key = failing[first]
        with pytest.raises(error) as caught:
            async with store.transaction() as txn:
                for name in names:
                    failing[name][0](txn)
        assert (type(caught.value), caught.value.key) == (error, key)

    async def test_a_mismatch_tells_both_versions(self, connection: Connection, store: KvStore) -> None:
        actual = await twice_written(store)
        if lacks_transactions(connection, store):
            return
        for queue in (FAILING["update"][0], FAILING["require"][0]):
            with pytest.raises(RevisionMismatchError) as caught:
                async with store.transaction() as txn:
                    txn.put("other", b"1")
                    queue(txn)
            assert (caught.value.expected, caught.value.actual) == (OLD, actual)

    @each(ABSENCES)
    async def test_a_queued_create_succeeds_whatever_made_the_key_absent(
        self, connection: Connection, store: KvStore, make_absent: MakeAbsent
    ) -> None:
        await make_absent(store, "k")
        if lacks_transactions(connection, store):
            return
        async with store.transaction() as txn:
            txn.create("k", b"created")
            txn.require("another", None)
            txn.put("other", b"1")
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"created", txn.versions["k"])

    @each(ABSENCES)
    async def test_of_concurrent_queued_creates_exactly_one_wins(
        self, connection: Connection, store: KvStore, connect_again: ConnectAgain, make_absent: MakeAbsent
    ) -> None:
        await make_absent(store, "k")
        if lacks_transactions(connection, store):
            return
        stores = [store, await (await connect_again()).store(store.name)]

        async def create(number: int) -> bool:
            try:
                async with stores[number % 2].transaction() as txn:
                    txn.create("k", b"%d" % number)
                    txn.put(f"by.{number}", b"1")
            except AlreadyExistsError:
                return False
            return True

        async with bounded():
            outcomes = await asyncio.gather(*(create(number) for number in range(_CONTENDERS)))
        assert outcomes.count(True) == 1
        winner = outcomes.index(True)
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == b"%d" % winner
        assert await store.keys("by.") == [f"by.{winner}"]

    @each(TOMBSTONES)
    async def test_an_update_of_what_is_gone_is_a_mismatch(
        self, connection: Connection, store: KvStore, make_absent: MakeAbsent
    ) -> None:
        await make_absent(store, "k")
        if lacks_transactions(connection, store):
            return
        with pytest.raises(RevisionMismatchError):
            async with store.transaction() as txn:
                txn.update("k", b"new", OLD)
                txn.put("other", b"1")
        assert await store.keys() == []


class TransactionLimitContract(BackendContract):
    """What is refused where it is queued, and what the bucket refuses as a whole."""

    @each_queued()
    async def test_a_key_is_written_once(self, connection: Connection, store: KvStore, queue: Queued) -> None:
        await twice_written(store)
        if lacks_transactions(connection, store):
            return
        key = "new" if queue in (QUEUED["put"], QUEUED["create"]) else "k"
        async with store.transaction() as txn:
            queue(txn)
            with pytest.raises(ValueError, match="once"):
                txn.put(key, b"again")
            with pytest.raises(ValueError, match="once"):
                txn.purge(key)
        assert list(txn.versions) == [key]

    async def test_a_thousand_operations_commit_and_one_more_is_refused(
        self, connection: Connection, store: KvStore
    ) -> None:
        await twice_written(store)
        if lacks_transactions(connection, store):
            return
        async with store.transaction() as txn:
            txn.require("k", VersionToken.from_u64(2))
            for number in range(_MOST):
                txn.put(f"n.{number}", b"%d" % number)
            for one_more in (QUEUED["put"], QUEUED["create"], QUEUED["delete"]):
                with pytest.raises(ValueError, match="1000"):
                    one_more(txn)
        assert len(txn.versions) == _MOST
        assert len(await store.keys("n.")) == _MOST
        async with store.transaction() as txn:
            for number in range(_MOST):
                txn.require(f"absent.{number}", None)
            with pytest.raises(ValueError, match="1000"):
                txn.require("more", None)
            with pytest.raises(ValueError, match="1000"):
                txn.require_unchanged("more.", OLD)
            with pytest.raises(ValueError, match="1000"):
                await txn.get("more")

    async def test_what_is_illegal_is_refused_where_it_is_queued(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_value_size=100))
        if lacks_transactions(connection, store):
            return
        illegal: list[tuple[Callable[[Transaction], None], type[Exception]]] = [
            (lambda txn: txn.put("no key", b"1"), InvalidKeyError),
            (lambda txn: txn.create("a..b", b"1"), InvalidKeyError),
            (lambda txn: txn.delete("*"), InvalidKeyError),
            (lambda txn: txn.purge(">"), InvalidKeyError),
            (lambda txn: txn.require("a.", None), InvalidKeyError),
            (lambda txn: txn.update("k", b"1", VersionToken.unknown()), OperationFailedError),
            (lambda txn: txn.require("k", VersionToken.from_bytes(b"abc")), OperationFailedError),
            (lambda txn: txn.require_unchanged("", VersionToken.unknown()), OperationFailedError),
            (lambda txn: txn.put("k", bytes(101)), ValueTooLargeError),
            (lambda txn: txn.create("k", bytes(101)), ValueTooLargeError),
            (lambda txn: txn.update("k", bytes(101), OLD), ValueTooLargeError),
            (lambda txn: txn.put("k", b"1", ttl=0.5), ValueError),
        ]
        async with store.transaction() as txn:
            for queue, error in illegal:
                with pytest.raises(error):
                    queue(txn)
            with pytest.raises(InvalidKeyError):
                await txn.get("no key")
            txn.put("k", bytes(100))
        assert list(txn.versions) == ["k"]

    async def test_a_full_bucket_takes_all_or_nothing(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_bytes=64 * 1024))
        if lacks_transactions(connection, store):
            return
        with pytest.raises(StoreFullError):
            async with store.transaction() as txn:
                for number in range(20):
                    txn.put(f"k.{number}", bytes(4096))
        assert (await store.status()).last_revision == 0
        async with store.transaction() as txn:
            for number in range(8):
                txn.put(f"k.{number}", bytes(4096))
        assert len(await store.keys()) == 8

    async def test_a_transaction_on_a_deleted_bucket_is_refused(self, connection: Connection, store: KvStore) -> None:
        if lacks_transactions(connection, store):
            return
        await connection.delete_store(store.name)
        with pytest.raises(StoreNotFoundError):
            async with bounded(), store.transaction() as txn:
                txn.put("a", b"1")
                txn.put("b", b"1")
