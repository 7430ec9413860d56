"""Keys that expire one by one. A backend without says so in `capabilities` and refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from slipstream.errors import AlreadyExistsError, RevisionMismatchError, UnsupportedError
from slipstream.interfaces import Connection, KvStore, Watch
from slipstream.model import KvUpdate, Operation, StoreConfig, VersionToken
from slipstream.testing._waiting import bounded, collect_until, eventually
from slipstream.testing.contract.base import TOMBSTONES, BackendContract, MakeAbsent, each

TtlWrite = Callable[[KvStore, float | timedelta], Awaitable[VersionToken]]

TTL_WRITES: dict[str, TtlWrite] = {
    "put": lambda store, ttl: store.put("k", b"value", ttl=ttl),
    "create": lambda store, ttl: store.create("new", b"value", ttl=ttl),
    "update": lambda store, ttl: store.update("k", b"value", VersionToken.from_u64(1), ttl=ttl),
    "touch": lambda store, ttl: store.touch("k", VersionToken.from_u64(1), ttl=ttl),
}
"""Each works on a bucket whose only record is `k`, at revision 1."""

REFUSING: dict[str, tuple[dict[str, Any], str]] = {
    "history": ({"max_history": 2}, "max_history"),
    "no markers": ({"marker_ttl": None}, "marker_ttl"),
}
"""Buckets that take no ttl, and what the refusal has to name."""


def each_ttl_write() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("write", list(TTL_WRITES.values()), ids=list(TTL_WRITES))


async def lacks_ttl(connection: Connection, store: KvStore) -> bool:
    """The backend has no ttl, and has just refused one."""
    if connection.capabilities.ttl:
        return False
    before = (await store.status()).last_revision
    with pytest.raises(UnsupportedError):
        await store.put("refused", b"value", ttl=5)
    assert (await store.status()).last_revision == before
    return True


async def expiry(watch: Watch, key: str) -> KvUpdate:
    """The update that says that the key has expired."""
    return (await collect_until(watch, lambda update: update.key == key and update.expired))[-1]


class TtlContract(BackendContract):
    """`ttl` on put, create, update and touch."""

    @each_ttl_write()
    @pytest.mark.parametrize("ttl", [5, 60.5, timedelta(minutes=1)])
    async def test_a_ttl_is_kept_or_refused_and_nothing_is_written(
        self, connection: Connection, store: KvStore, write: TtlWrite, ttl: float | timedelta
    ) -> None:
        await store.put("k", b"value")
        if connection.capabilities.ttl:
            assert await write(store, ttl) == VersionToken.from_u64(2)
        else:
            with pytest.raises(UnsupportedError) as caught:
                await write(store, ttl)
            assert not caught.value.outcome_unknown
            assert (await store.status()).last_revision == 1

    @each_ttl_write()
    @pytest.mark.parametrize("ttl", [0.5, 0, -1, float("nan"), float("inf"), timedelta(milliseconds=999)])
    async def test_a_ttl_that_is_none_is_refused_and_nothing_is_written(
        self, store: KvStore, write: TtlWrite, ttl: float | timedelta
    ) -> None:
        await store.put("k", b"value")
        with pytest.raises(ValueError, match="at least one second"):
            await write(store, ttl)
        assert (await store.status()).last_revision == 1

    @each_ttl_write()
    @pytest.mark.parametrize("refusing", list(REFUSING.values()), ids=list(REFUSING))
    async def test_a_bucket_in_which_expiry_would_go_wrong_refuses_a_ttl(
        self, connection: Connection, bucket: str, write: TtlWrite, refusing: tuple[dict[str, Any], str]
    ) -> None:
        fields, named = refusing
        store = await connection.store(StoreConfig(name=bucket, **fields))
        await store.put("k", b"value")
        with pytest.raises(UnsupportedError) as caught:
            await write(store, 5)
        assert named in str(caught.value) or not connection.capabilities.ttl
        assert (await store.status()).last_revision == 1

    @pytest.mark.parametrize(
        ("ttl", "seconds"),
        [(60, 60), (60.5, 61), (timedelta(minutes=1), 60), (timedelta(seconds=60, microseconds=1), 61)],
    )
    async def test_a_fraction_of_a_second_is_rounded_up(
        self, connection: Connection, store: KvStore, ttl: float | timedelta, seconds: int
    ) -> None:
        if await lacks_ttl(connection, store):
            return
        await store.put("k", b"value", ttl=ttl)
        await store.put("for-ever", b"value")
        async with store.watch() as watch:
            with_ttl, without = await collect_until(watch, lambda update: update.key == "for-ever")
        assert with_ttl.created is not None
        assert with_ttl.expires == with_ttl.created + timedelta(seconds=seconds)
        assert without.expires is None

    @each_ttl_write()
    async def test_an_expiry_is_watched_as_a_purge_and_reads_as_absent(
        self, connection: Connection, store: KvStore, write: TtlWrite
    ) -> None:
        await store.put("k", b"value")
        if await lacks_ttl(connection, store):
            return
        async with store.watch() as watch:
            version = await write(store, 1)
            update = await collect_until(watch, lambda update: update.version == version)
            key = update[-1].key
            assert (update[-1].operation, update[-1].value) == (Operation.PUT, b"value")
            gone = await expiry(watch, key)
        assert (gone.operation, gone.value, gone.entry, gone.expires) == (Operation.PURGE, b"", None, None)
        assert (gone.revision or 0) > (version.as_u64() or 0)
        assert await store.get(key) is None
        assert await store.entry(key) is None
        assert await store.get_many(["k", "new"]) == {
            entry.key: entry for entry in await store.scan() if entry.key != key
        }
        assert key not in await store.keys()
        assert [(update.operation, update.expired) for update in await store.history(key)] == [(Operation.PURGE, True)]

    async def test_a_key_that_has_read_as_absent_stays_absent_whoever_asks(
        self, connection: Connection, store: KvStore
    ) -> None:
        if await lacks_ttl(connection, store):
            return
        reads: list[Callable[[], Awaitable[object]]] = [
            store.keys,
            lambda: store.get_many(["k", "never"]),  # several are read in another way than one
            store.scan,
            lambda: store.get_many(["k", "never"]),
            lambda: store.get("k"),
            lambda: store.get_many(["k"]),
            lambda: store.entry("k"),
        ]
        await store.put("k", b"value", ttl=1)
        absent = 0
        async with bounded():
            while absent < 5 * len(reads):
                for read in reads:
                    if await read():
                        assert not absent, "it came back"
                    else:
                        absent += 1

    async def test_an_expired_key_is_created_anew(self, connection: Connection, store: KvStore) -> None:
        if await lacks_ttl(connection, store):
            return
        first = await store.create("k", b"1", ttl=1)
        with pytest.raises(AlreadyExistsError):
            await store.create("k", b"2")
        version = first
        async with bounded():
            while version == first:
                try:
                    version = await store.create("k", b"3", ttl=60)
                except AlreadyExistsError:
                    continue
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"3", version)

    async def test_a_key_is_created_as_soon_as_it_reads_as_absent(self, connection: Connection, store: KvStore) -> None:
        if await lacks_ttl(connection, store):
            return
        for absent in (lambda: store.get("k"), store.keys):
            await store.put("k", b"1", ttl=1)
            async with bounded():
                while await absent():
                    pass
            version = await store.create("k", b"2")
            entry = await store.get("k")
            assert entry is not None
            assert (entry.value, entry.version) == (b"2", version)

    async def test_the_version_of_an_expired_value_is_a_mismatch(self, connection: Connection, store: KvStore) -> None:
        if await lacks_ttl(connection, store):
            return
        version = await store.put("k", b"1", ttl=1)

        async def is_gone() -> bool:
            return await store.get("k") is None

        await eventually(is_gone)
        for write in (
            lambda: store.update("k", b"2", version),
            lambda: store.touch("k", version, ttl=5),
            lambda: store.delete_with_version("k", version),
            lambda: store.purge("k", expected=version),
        ):
            with pytest.raises(RevisionMismatchError):
                await write()
        assert await store.get("k") is None

    async def test_a_write_without_ttl_and_a_touch_outlive_the_old_ttl(
        self, connection: Connection, store: KvStore
    ) -> None:
        if await lacks_ttl(connection, store):
            return
        await store.put("put", b"1", ttl=1)
        touched = await store.put("touched", b"1", ttl=1)
        async with store.watch("clock") as watch:
            await store.put("put", b"2")
            version = await store.touch("touched", touched, ttl=60)
            await store.put("clock", b"-", ttl=1)  # written last: the others would have gone before
            await expiry(watch, "clock")
        assert [(entry.key, entry.value) for entry in await store.scan()] == [("put", b"2"), ("touched", b"1")]
        assert (await store.get_many(["touched"]))["touched"].version == version
        with pytest.raises(RevisionMismatchError):
            await store.touch("touched", touched, ttl=60)

    @each(TOMBSTONES)
    async def test_touch_of_an_absent_key_is_a_mismatch_and_nothing_is_written(
        self, connection: Connection, store: KvStore, make_absent: MakeAbsent
    ) -> None:
        await make_absent(store, "k")
        if await lacks_ttl(connection, store):
            return
        last = (await store.status()).last_revision
        for expected in (1, last):
            with pytest.raises(RevisionMismatchError) as caught:
                await store.touch("k", VersionToken.from_u64(expected), ttl=5)
            assert caught.value.key == "k"
            assert caught.value.actual == VersionToken.from_u64(last)
        with pytest.raises(RevisionMismatchError):
            await store.touch("never-written", VersionToken.from_u64(last), ttl=5)
        assert (await store.status()).last_revision == last

    async def test_touch_needs_a_ttl(self, store: KvStore) -> None:
        version = await store.put("k", b"value")
        nothing: Any = None
        with pytest.raises(ValueError, match="ttl"):
            await store.touch("k", version, ttl=nothing)
        assert (await store.status()).last_revision == 1
