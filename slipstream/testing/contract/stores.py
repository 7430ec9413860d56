"""Buckets: how they are made, found, described and deleted, and the handles on them."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from slipstream.errors import BulkWriteError, StoreNotFoundError
from slipstream.interfaces import Connection, KvReader, KvStore, KvWatcher, KvWriter
from slipstream.model import Drift, StoreConfig
from slipstream.testing._waiting import bounded, collect
from slipstream.testing.contract.base import BackendContract, ConnectAgain
from slipstream.testing.contract.lifecycle import STORE_OPERATIONS

BAD_CONFIGS: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "a.b"},
    {"name": "a\n"},
    {"name": 7},
    {"max_history": 0},
    {"max_history": 65},
    {"max_history": True},
    {"max_age": 0},
    {"max_age": 0.05},
    {"max_age": -1},
    {"max_bytes": 0},
    {"max_value_size": 0},
    {"num_replicas": 0},
    {"num_replicas": 6},
    {"marker_ttl": 0.5},
    {"storage": "paper"},
    {"discard": "some"},
    {"mirror": "a b"},
    {"mirror": "fine"},
    {"unknown_field": 1},
]


def public_methods(role: type) -> set[str]:
    """The methods that a role has of its own."""
    return {name for name in vars(role) if not name.startswith("_")}


class StoresContract(BackendContract):
    """`Connection.store`, `stores`, `delete_store`, `KvStore.status` and the role handles."""

    async def test_a_store_is_made_with_defaults_by_its_name(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(bucket)
        assert store.name == bucket
        config = (await store.status()).config
        assert (config.name, config.storage, config.max_history, config.num_replicas) == (bucket, "persistent", 1, 1)
        assert (config.max_age, config.max_bytes, config.max_value_size, config.discard) == (None, None, None, "new")
        assert (config.description, config.compression, config.mirror) == (None, False, None)
        assert dict(config.metadata) == {}

    async def test_a_store_is_made_as_it_was_asked_for(self, connection: Connection, bucket: str) -> None:
        wanted = StoreConfig(
            name=bucket,
            storage="memory",
            max_history=7,
            max_age=timedelta(hours=2),
            max_bytes=1_000_000,
            max_value_size=5_000,
            discard="old",
            description="of a test",
            metadata={"owner": "contract"},
        )
        status = await (await connection.store(wanted)).status()
        fields = wanted.model_fields_set
        assert status.config.model_dump(include=fields) == wanted.model_dump(include=fields)
        assert status.drift == []

    async def test_compression_is_kept(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, compression=True))
        assert (await store.status()).config.compression is True
        await store.put("k", b"value" * 1000)
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == b"value" * 1000

    @pytest.mark.parametrize("fields", BAD_CONFIGS, ids=repr)
    async def test_a_bad_configuration_is_a_value_error(self, fields: dict[str, Any]) -> None:
        StoreConfig(name="fine")
        with pytest.raises(ValueError):
            StoreConfig(**{"name": "fine", **fields})

    async def test_an_existing_bucket_is_returned_with_what_it_holds(
        self, connection: Connection, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        version = await store.put("k", b"value")
        for other in (connection, await connect_again()):
            again = await other.store(store.name)
            entry = await again.get("k")
            assert entry is not None
            assert entry.version == version
            assert (await again.status()).drift == []

    async def test_a_difference_is_listed_as_drift_and_changes_nothing(
        self, connection: Connection, bucket: str
    ) -> None:
        await connection.store(StoreConfig(name=bucket, max_history=3, description="first"))
        store = await connection.store(StoreConfig(name=bucket, max_history=5, description="second"))
        status = await store.status()
        assert (status.config.max_history, status.config.description) == (3, "first")
        assert sorted(status.drift, key=lambda drift: drift.field) == [
            Drift(field="description", wanted="second", actual="first"),
            Drift(field="max_history", wanted=5, actual=3),
        ]

    async def test_only_what_was_asked_for_explicitly_can_drift(self, connection: Connection, bucket: str) -> None:
        made = StoreConfig(name=bucket, max_history=3, max_age=timedelta(hours=1), discard="old", max_bytes=10_000)
        await connection.store(made)
        for wanted in (bucket, StoreConfig(name=bucket), StoreConfig(name=bucket, max_history=3), made):
            assert (await (await connection.store(wanted)).status()).drift == []
        explicit = await connection.store(StoreConfig(name=bucket, max_history=1))
        assert [drift.field for drift in (await explicit.status()).drift] == ["max_history"]

    async def test_drift_is_logged_once_as_a_warning(
        self, connection: Connection, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        await connection.store(bucket)
        with caplog.at_level(logging.WARNING, logger="slipstream"):
            for _ in range(3):
                await connection.store(StoreConfig(name=bucket, max_history=5))
        warnings = [record for record in caplog.records if bucket in record.getMessage()]
        assert [record.levelno for record in warnings] == [logging.WARNING]
        assert warnings[0].name.startswith("slipstream")
        assert "max_history" in warnings[0].getMessage()

    async def test_stores_are_listed_sorted(self, connection: Connection, bucket: str) -> None:
        names = [f"{bucket}-{suffix}" for suffix in ("b", "a", "C")]
        for name in names:
            await connection.store(name)
        listed = await connection.stores()
        assert listed == sorted(listed)
        assert [name for name in listed if name.startswith(bucket)] == sorted(names)

    async def test_a_deleted_store_is_gone_with_what_it_held(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(bucket)
        await store.put("k", b"value")
        kept = await connection.store(f"{bucket}-kept")
        await kept.put("k", b"kept")
        await connection.delete_store(bucket)
        assert bucket not in await connection.stores()
        again = await connection.store(bucket)
        assert await again.get("k") is None
        assert await again.keys() == []
        assert await kept.keys() == ["k"]

    async def test_deleting_a_store_that_is_not_there_is_an_error(self, connection: Connection, bucket: str) -> None:
        with pytest.raises(StoreNotFoundError) as caught:
            await connection.delete_store(bucket)
        assert caught.value.store == bucket
        await connection.store(bucket)
        await connection.delete_store(bucket)
        with pytest.raises(StoreNotFoundError):
            await connection.delete_store(bucket)

    @pytest.mark.parametrize("operation", list(STORE_OPERATIONS.values()), ids=list(STORE_OPERATIONS))
    async def test_an_operation_on_a_deleted_store_is_store_not_found(
        self, connection: Connection, store: KvStore, operation: Any
    ) -> None:
        await store.put("k", b"value")
        await connection.delete_store(store.name)
        async with bounded():
            with pytest.raises(StoreNotFoundError) as caught:
                await operation(store)
        assert caught.value.store == store.name
        assert not caught.value.outcome_unknown
        assert store.name not in await connection.stores()

    async def test_put_many_on_a_deleted_store_is_store_not_found_for_each_key(
        self, connection: Connection, store: KvStore
    ) -> None:
        await connection.delete_store(store.name)
        async with bounded():
            with pytest.raises((StoreNotFoundError, BulkWriteError)) as caught:
                await store.put_many({"a": b"1", "b": b"2"})
        if isinstance(caught.value, BulkWriteError):
            assert caught.value.versions == {}
            assert {key: type(error) for key, error in caught.value.errors.items()} == {
                "a": StoreNotFoundError,
                "b": StoreNotFoundError,
            }

    async def test_a_bucket_made_again_is_another_incarnation(self, connection: Connection, bucket: str) -> None:
        first = await (await connection.store(bucket)).status()
        await connection.delete_store(bucket)
        second = await (await connection.store(bucket)).status()
        assert second.incarnation > first.incarnation

    async def test_the_status_of_an_empty_bucket(self, store: KvStore) -> None:
        status = await store.status()
        assert (status.keys, status.bytes) == (0, 0)
        assert (status.first_revision, status.last_revision) == (1, 0)
        assert status.replicas == 1
        assert status.incarnation.utcoffset() == timedelta(0)
        assert status.incarnation <= datetime.now(UTC) + timedelta(minutes=5)

    async def test_the_status_counts_records_tombstones_included(self, store: KvStore) -> None:
        await store.put_many([("a", b"1"), ("b", b"2"), ("c", b"3"), ("d", b"4")])
        await store.delete("a")
        await store.purge("b")
        await store.put("c", b"")
        status = await store.status()
        assert (status.keys, status.first_revision, status.last_revision) == (4, 4, 7)
        assert status.bytes > 0

    async def test_the_status_of_a_bucket_that_holds_nothing_any_more(self, store: KvStore) -> None:
        await store.put("k", b"value")
        await store.delete("k")
        await store.purge_deletes()
        status = await store.status()
        assert (status.keys, status.first_revision, status.last_revision) == (0, 3, 2)

    async def test_keys_counts_keys_and_not_revisions(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=5))
        for _ in range(3):
            await store.put_many([("a", b"1"), ("b", b"2")])
        status = await store.status()
        assert (status.keys, status.first_revision, status.last_revision) == (2, 1, 6)

    async def test_the_incarnation_stays_while_the_bucket_lives(
        self, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        before = (await store.status()).incarnation
        await store.put("k", b"value")
        again = await (await connect_again()).store(store.name)
        assert (await again.status()).incarnation == (await store.status()).incarnation == before

    async def test_a_reader_can_only_read(self, store: KvStore) -> None:
        await store.put("k", b"value")
        reader = store.reader()
        entry = await reader.get("k")
        assert entry is not None
        assert entry.value == b"value"
        assert await reader.keys() == ["k"]
        assert _callables(reader) == public_methods(KvReader)

    async def test_a_writer_can_only_write(self, store: KvStore) -> None:
        writer = store.writer()
        version = await writer.create("k", b"1")
        await writer.update("k", b"2", version)
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == b"2"
        assert _callables(writer) == public_methods(KvWriter)

    async def test_a_watcher_can_only_watch(self, store: KvStore) -> None:
        await store.put("k", b"value")
        watcher = store.watcher()
        async with watcher.watch() as watch:
            assert [update.key for update in await collect(watch, 1)] == ["k"]
        assert _callables(watcher) == public_methods(KvWatcher)


def _callables(handle: object) -> set[str]:
    return {name for name in dir(handle) if not name.startswith("_") and callable(getattr(handle, name))}
