"""Fenced writers: the server refuses what they write once a key has moved on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from slipstream.errors import (
    AlreadyExistsError,
    BulkWriteError,
    FencedError,
    InvalidKeyError,
    OperationFailedError,
    RevisionMismatchError,
    UnsupportedError,
)
from slipstream.interfaces import Connection, KvStore, KvWriter, Transaction
from slipstream.model import StoreConfig, VersionToken
from slipstream.testing._waiting import bounded, collect_until
from slipstream.testing.contract.base import TOMBSTONES, BackendContract, MakeAbsent, each

FencedWrite = Callable[[KvWriter], Awaitable[object]]

_LAST = VersionToken.from_u64(2)


async def _in_a_transaction(writer: KvWriter) -> None:
    async with writer.transaction() as txn:
        txn.put("a", b"new")
        txn.update("k", b"new", _LAST)


async def _atomically(writer: KvWriter) -> None:
    async def write(txn: Transaction) -> None:
        await txn.get("k")
        txn.put("a", b"new")

    await writer.atomically(write)


UNCONDITIONAL: dict[str, FencedWrite] = {
    "put": lambda writer: writer.put("k", b"new"),
    "delete": lambda writer: writer.delete("k"),
    "purge": lambda writer: writer.purge("k"),
    "put_many": lambda writer: writer.put_many({"a": b"new", "b": b"new", "k": b"new"}),
}
CONDITIONAL: dict[str, FencedWrite] = {
    "create": lambda writer: writer.create("a", b"new"),
    "update": lambda writer: writer.update("k", b"new", _LAST),
    "delete_with_version": lambda writer: writer.delete_with_version("k", _LAST),
    "purge expected": lambda writer: writer.purge("k", expected=_LAST),
    "transaction": _in_a_transaction,
    "atomically": _atomically,
}
"""Writes that need a guard besides the fence; each works where `k` is at revision 2 and `a` is absent."""
WITH_TTL: dict[str, FencedWrite] = {
    "put ttl": lambda writer: writer.put("k", b"new", ttl=60),
    "create ttl": lambda writer: writer.create("a", b"new", ttl=60),
    "update ttl": lambda writer: writer.update("k", b"new", _LAST, ttl=60),
    "touch": lambda writer: writer.touch("k", _LAST, ttl=60),
}
WRITES = {**UNCONDITIONAL, **CONDITIONAL, **WITH_TTL}


def each_write() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", list(WRITES))


def missing(connection: Connection, name: str) -> bool:
    """This write cannot be fenced there."""
    capabilities = connection.capabilities
    needs_two_guards = name in CONDITIONAL or name in {"create ttl", "update ttl", "touch"}
    return (needs_two_guards and not capabilities.transactions) or (name in WITH_TTL and not capabilities.ttl)


def lacks_fencing(connection: Connection, store: KvStore, version: VersionToken) -> bool:
    """The backend has no fencing, and has just refused it."""
    if connection.capabilities.fencing:
        return False
    with pytest.raises(UnsupportedError):
        store.fenced("fence", version)
    return True


async def prepared(store: KvStore) -> VersionToken:
    """`fence` is at revision 1, which is returned; `k` at revision 2."""
    version = await store.put("fence", b"1")
    await store.put("k", b"old")
    return version


class FencingContract(BackendContract):
    """`fenced(key, version)`."""

    async def test_a_fenced_writer_writes_or_is_refused_at_once(self, connection: Connection, store: KvStore) -> None:
        version = await store.put("fence", b"1")
        if connection.capabilities.fencing:
            await store.fenced("fence", version).put("k", b"value")
            assert await store.keys() == ["fence", "k"]
        else:
            with pytest.raises(UnsupportedError):
                store.fenced("fence", version)

    @each_write()
    async def test_while_the_fence_stands_every_write_is_done(
        self, connection: Connection, store: KvStore, name: str
    ) -> None:
        version = await prepared(store)
        if lacks_fencing(connection, store, version):
            return
        writer = store.fenced("fence", version)
        if missing(connection, name):
            with pytest.raises(UnsupportedError):
                await WRITES[name](writer)
            assert (await store.status()).last_revision == 2
            return
        await WRITES[name](writer)
        assert (await store.status()).last_revision > 2
        entry = await store.get("fence")
        assert entry is not None
        assert entry.version == version

    @each_write()
    async def test_once_the_key_has_moved_on_nothing_is_written(
        self, connection: Connection, store: KvStore, name: str
    ) -> None:
        version = await prepared(store)
        if lacks_fencing(connection, store, version):
            return
        writer = store.fenced("fence", version)
        actual = await store.put("fence", b"2")
        if missing(connection, name):
            with pytest.raises(UnsupportedError):
                await WRITES[name](writer)
        else:
            with pytest.raises(FencedError) as caught:
                await WRITES[name](writer)
            assert isinstance(caught.value, RevisionMismatchError)
            assert (caught.value.store, caught.value.key) == (store.name, "fence")
            assert (caught.value.expected, caught.value.actual) == (version, actual)
            assert not caught.value.outcome_unknown
        assert (await store.status()).last_revision == 3
        assert {entry.key: entry.value for entry in await store.scan()} == {"fence": b"2", "k": b"old"}

    @each(TOMBSTONES)
    async def test_a_fence_that_is_gone_has_moved_on(
        self, connection: Connection, store: KvStore, make_absent: MakeAbsent
    ) -> None:
        version = await prepared(store)
        if lacks_fencing(connection, store, version):
            return
        writer = store.fenced("fence", version)
        await make_absent(store, "fence")
        with pytest.raises(FencedError):
            await writer.put("k", b"new")
        await store.purge_deletes()
        with pytest.raises(FencedError):
            await writer.put("k", b"new")

    async def test_a_fence_that_expires_has_moved_on(self, connection: Connection, store: KvStore) -> None:
        version = await prepared(store)
        if lacks_fencing(connection, store, version) or not connection.capabilities.ttl:
            return
        async with store.watch("fence") as watch:
            writer = store.fenced("fence", await store.put("fence", b"1", ttl=1))
            await writer.put("k", b"1")
            await collect_until(watch, lambda update: update.expired)
        with pytest.raises(FencedError):
            await writer.put("k", b"2")

    async def test_a_fenced_writer_may_write_the_fence_and_has_moved_it_then(
        self, connection: Connection, store: KvStore
    ) -> None:
        version = await prepared(store)
        if lacks_fencing(connection, store, version):
            return
        for conditional in (False, True):
            writer = store.fenced("fence", version)
            moved = await (writer.update("fence", b"2", version) if conditional else writer.put("fence", b"2"))
            for key in ("k", "fence"):
                with pytest.raises(FencedError):
                    await writer.put(key, b"new")
            with pytest.raises(FencedError):
                await writer.update("fence", b"new", version)
            version = moved

    async def test_the_conditions_of_a_fenced_write_hold_as_well(self, connection: Connection, store: KvStore) -> None:
        version = await prepared(store)
        if lacks_fencing(connection, store, version) or not connection.capabilities.transactions:
            return
        writer = store.fenced("fence", version)
        with pytest.raises(AlreadyExistsError) as exists:
            await writer.create("k", b"new")
        assert exists.value.key == "k"
        for swap in (
            lambda: writer.update("k", b"new", version),
            lambda: writer.delete_with_version("k", version),
            lambda: writer.purge("k", expected=version),
        ):
            with pytest.raises(RevisionMismatchError) as caught:
                await swap()
            assert not isinstance(caught.value, FencedError)
            assert caught.value.key == "k"
        assert (await store.status()).last_revision == 2

    @each(TOMBSTONES)
    async def test_a_fenced_create_works_over_a_tombstone(
        self, connection: Connection, store: KvStore, make_absent: MakeAbsent
    ) -> None:
        version = await prepared(store)
        await make_absent(store, "gone")
        if lacks_fencing(connection, store, version) or not connection.capabilities.transactions:
            return
        created = await store.fenced("fence", version).create("gone", b"new")
        entry = await store.get("gone")
        assert entry is not None
        assert (entry.value, entry.version) == (b"new", created)

    async def test_a_fenced_bulk_write_tells_what_it_wrote(self, connection: Connection, store: KvStore) -> None:
        version = await prepared(store)
        if lacks_fencing(connection, store, version):
            return
        writer = store.fenced("fence", version)
        versions = await writer.put_many([(f"n.{number}", b"1") for number in range(300)])
        assert len(set(versions)) == 300
        with pytest.raises(BulkWriteError) as caught:
            await writer.put_many([("fence", b"moves on"), *((f"n.{number}", b"2") for number in range(600))])
        assert "fence" in caught.value.versions
        assert caught.value.errors
        assert all(isinstance(error, FencedError) for error in caught.value.errors.values())

    async def test_a_fenced_writer_checks_its_arguments(self, connection: Connection, store: KvStore) -> None:
        version = await prepared(store)
        if lacks_fencing(connection, store, version):
            return
        with pytest.raises(InvalidKeyError):
            store.fenced("no key", version)
        with pytest.raises(OperationFailedError):
            store.fenced("fence", VersionToken.unknown())
        writer = store.fenced("fence", version)
        with pytest.raises(InvalidKeyError):
            await writer.put("no key", b"1")
        with pytest.raises(OperationFailedError):
            await writer.update("k", b"1", VersionToken.unknown())
        assert (await store.status()).last_revision == 2

    async def test_what_cannot_be_fenced_is_refused(self, connection: Connection, store: KvStore) -> None:
        version = await prepared(store)
        await store.delete("k")
        if lacks_fencing(connection, store, version):
            return
        writer = store.fenced("fence", version)
        with pytest.raises(UnsupportedError):
            await writer.purge_deletes()
        with pytest.raises(UnsupportedError):
            writer.fenced("other", version)
        assert len(await store.history("k")) == 1

    async def test_atomically_does_not_try_again_what_is_fenced_off(
        self, connection: Connection, store: KvStore
    ) -> None:
        version = await prepared(store)
        if lacks_fencing(connection, store, version) or not connection.capabilities.transactions:
            return
        writer = store.fenced("fence", version)
        await store.put("fence", b"2")
        calls: list[str] = []

        async def write(txn: Transaction) -> None:
            calls.append("called")
            txn.put("k", b"new")

        async with bounded():
            with pytest.raises(FencedError):
                await writer.atomically(write)
        assert calls == ["called"]

    async def test_a_fence_stands_in_a_bucket_with_history(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=5))
        version = await store.put("fence", b"1")
        if lacks_fencing(connection, store, version):
            return
        writer = store.fenced("fence", version)
        for value in (b"1", b"2", b"3"):
            await writer.put("k", value)
        assert len(await store.history("k")) == 3
        await store.put("fence", b"2")
        with pytest.raises(FencedError):
            await writer.put("k", b"4")
