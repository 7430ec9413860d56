"""What a bucket refuses, drops or lets expire: max_value_size, max_bytes and max_age."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from slipstream.errors import StoreFullError, ValueTooLargeError
from slipstream.interfaces import Connection, KvStore
from slipstream.model import Operation, StoreConfig, VersionToken
from slipstream.testing._waiting import collect, eventually
from slipstream.testing.contract.base import BackendContract

_LIMIT = 1000
_BUCKET_BYTES = 64 * 1024
_VALUE = bytes(4096)

SizedWrite = Callable[[KvStore, bytes], Awaitable[object]]

SIZED_WRITES: dict[str, SizedWrite] = {
    "put": lambda store, value: store.put("k", value),
    "create": lambda store, value: store.create("new", value),
    "update": lambda store, value: store.update("k", value, VersionToken.from_u64(1)),
    "put_many": lambda store, value: store.put_many({"a": b"fine", "k": value}),
}
"""Each works on a bucket whose only record is `k`, at revision 1."""


def each_write() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("write", list(SIZED_WRITES.values()), ids=list(SIZED_WRITES))


class LimitContract(BackendContract):
    """Limits on the size of a value, on the size of a bucket, and on age."""

    @each_write()
    async def test_a_value_of_max_value_size_is_written(
        self, connection: Connection, bucket: str, write: SizedWrite
    ) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_value_size=_LIMIT))
        await store.put("k", b"first")
        value = bytes(range(256)) * 4
        await write(store, value[:_LIMIT])
        assert value[:_LIMIT] in [entry.value for entry in await store.scan()]

    @each_write()
    async def test_a_larger_value_is_refused_and_nothing_is_written(
        self, connection: Connection, bucket: str, write: SizedWrite
    ) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_value_size=_LIMIT))
        await store.put("k", b"first")
        with pytest.raises(ValueTooLargeError) as caught:
            await write(store, bytes(_LIMIT + 1))
        assert caught.value.store == bucket
        assert not caught.value.outcome_unknown
        assert (await store.status()).last_revision == 1

    async def test_max_value_size_counts_the_value_alone(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_value_size=_LIMIT))
        key = "k" * 1024
        version = await store.create(key, bytes(_LIMIT))
        await store.update(key, bytes(_LIMIT), version)
        assert await store.keys() == [key]

    async def test_removing_a_key_needs_no_room_in_max_value_size(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_value_size=1))
        version = await store.put("k", b"1")
        await store.delete_with_version("k", version)
        await store.delete("k")
        await store.purge("k")
        assert [update.operation for update in await store.history("k")] == [Operation.PURGE]

    async def test_the_capability_is_the_largest_value_and_a_larger_one_does_no_harm(
        self, connection: Connection, store: KvStore
    ) -> None:
        limit = connection.capabilities.max_value_size
        # Without a known limit something that no default refuses is tried; with one, exactly that is still a value.
        value = bytes(limit or 2 * 1024 * 1024)
        await store.put("k", value)
        if limit:
            with pytest.raises(ValueTooLargeError):
                await store.put("k", value + b"x")
            with pytest.raises(ValueTooLargeError):
                await store.put_many({"a": b"fine", "k": value + b"x"})
        assert connection.is_healthy()
        assert [(entry.key, len(entry.value)) for entry in await store.scan()] == [("k", len(value))]

    async def test_a_full_bucket_that_discards_new_refuses_and_keeps_what_it_has(
        self, connection: Connection, bucket: str
    ) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_bytes=_BUCKET_BYTES, discard="new"))
        written: list[str] = []
        with pytest.raises(StoreFullError) as caught:
            for number in range(_BUCKET_BYTES // len(_VALUE) + 1):
                await store.put(f"k.{number:03}", _VALUE)
                written.append(f"k.{number:03}")
        assert len(written) >= _BUCKET_BYTES // len(_VALUE) // 2
        assert (caught.value.store, caught.value.outcome_unknown) == (bucket, False)
        assert await store.keys() == written
        assert (await store.status()).last_revision == len(written)

    async def test_a_full_bucket_that_discards_old_drops_its_oldest_revisions(
        self, connection: Connection, bucket: str
    ) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_bytes=_BUCKET_BYTES, discard="old"))
        keys = [f"k.{number:03}" for number in range(3 * _BUCKET_BYTES // len(_VALUE))]
        for key in keys:
            await store.put(key, _VALUE)
        kept = await store.keys()
        assert 0 < len(kept) < len(keys)
        assert kept == keys[-len(kept) :]
        assert await store.get(keys[0]) is None
        status = await store.status()
        assert (status.keys, status.last_revision) == (len(kept), len(keys))
        assert status.first_revision == len(keys) - len(kept) + 1
        assert status.bytes <= _BUCKET_BYTES

    async def test_what_reached_max_age_reads_as_absent(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_age=timedelta(seconds=1)))
        await store.put_many({"a": b"1", "b": b"2"})

        async def nothing_is_listed() -> bool:
            return not await store.keys()

        await eventually(nothing_is_listed)
        assert await store.get("a") is None
        assert await store.entry("a") is None
        assert await store.scan() == []
        assert await store.get_many(["a", "b"]) == {}
        assert (await store.create("a", b"again")).as_u64()

    async def test_an_expiry_is_watched_as_an_expired_purge_where_the_bucket_has_markers(
        self, connection: Connection, bucket: str
    ) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_age=timedelta(seconds=1)))
        markers = (await store.status()).config.marker_ttl is not None
        async with store.watch() as watch:
            await store.put("k", b"value")
            put = (await collect(watch, 1))[0]
            if not markers:
                await _expired_silently(store)
                await store.put("last", b"value")
            after = (await collect(watch, 1))[0]
        assert (put.operation, put.expired) == (Operation.PUT, False)
        if markers:
            assert (after.operation, after.key, after.value, after.expired) == (Operation.PURGE, "k", b"", True)
            assert (after.revision or 0) > (put.revision or 0)
            assert after.entry is None
        else:
            assert after.key == "last"
        assert await store.get("k") is None


async def _expired_silently(store: KvStore) -> None:
    async def is_gone() -> bool:
        return await store.get("k") is None

    await eventually(is_gone)
