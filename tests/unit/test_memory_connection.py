"""What is particular to connections and writes in memory."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from slipstream.errors import (
    BulkWriteError,
    NotConnectedError,
    OperationFailedError,
    StoreFullError,
    StoreNotFoundError,
    UnsupportedError,
)
from slipstream.interfaces import Connection, KvReader, KvStore, KvWatcher, KvWriter
from slipstream.model import Drift, StoreConfig, VersionToken
from slipstream.stores.memory import MemoryConnection
from slipstream.stores.memory.record import RECORD_OVERHEAD

Write = Callable[[KvStore], Awaitable[object]]

VERSION = VersionToken.from_u64(1)


@pytest.fixture
def name() -> str:
    """A name that this process has not used."""
    return secrets.token_hex(8)


class TestSharing:
    async def test_without_a_name_the_data_is_private(self) -> None:
        async with MemoryConnection() as one, MemoryConnection() as other:
            await (await one.store("config")).put("k", b"v")
            assert await other.stores() == []

    async def test_a_name_is_shared_and_outlives_its_connections(self, name: str) -> None:
        async with MemoryConnection(name) as one, MemoryConnection(name) as other:
            await (await one.store("config")).put("k", b"v")
            assert await other.stores() == ["config"]
        async with MemoryConnection(name) as later, MemoryConnection(name + "x") as another:
            entry = await (await later.store("config")).get("k")
            assert entry is not None
            assert entry.value == b"v"
            assert await another.stores() == []


class TestLife:
    async def test_nothing_works_before_connect_or_after_shutdown(self, name: str) -> None:
        connection = MemoryConnection(name)
        calls: list[Callable[[Connection], Awaitable[object]]] = [
            lambda conn: conn.store("config"),
            lambda conn: conn.stores(),
            lambda conn: conn.delete_store("config"),
        ]
        for call in calls:
            with pytest.raises(NotConnectedError):
                await call(connection)
        with pytest.raises(NotConnectedError):
            _ = connection.capabilities
        assert not connection.is_healthy()
        await connection.connect()
        await connection.connect()
        assert connection.is_healthy()
        store = await connection.store("config")
        await connection.shutdown()
        await connection.shutdown()
        assert not connection.is_healthy()
        for call in calls:
            with pytest.raises(NotConnectedError):
                await call(connection)
        for operation in (store.get("k"), store.put("k", b"v"), store.status(), store.watch().__aenter__()):
            with pytest.raises(NotConnectedError):
                await operation
        with pytest.raises(NotConnectedError):
            await connection.connect()

    async def test_shutdown_before_connect_is_for_good(self) -> None:
        connection = MemoryConnection()
        await connection.shutdown()
        with pytest.raises(NotConnectedError):
            await connection.connect()

    @pytest.mark.parametrize("op_timeout", [0, -1, float("nan")])
    def test_a_timeout_is_positive(self, op_timeout: float) -> None:
        with pytest.raises(ValueError, match="op_timeout"):
            MemoryConnection(op_timeout=op_timeout)


class TestStores:
    async def test_a_handle_follows_the_name_into_the_next_life(self) -> None:
        async with MemoryConnection() as connection:
            store = await connection.store("config")
            await store.put("k", b"v")
            await connection.delete_store("config")
            for operation in (store.get("k"), store.put("k", b"v"), store.status(), store.watch().__aenter__()):
                with pytest.raises(StoreNotFoundError):
                    await operation
            with pytest.raises(StoreNotFoundError):
                await connection.delete_store("config")
            await connection.store("config")
            assert await store.get("k") is None
            assert await store.put("k", b"v") == VERSION

    async def test_drift_is_what_was_asked_for_and_is_not(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        wanted = StoreConfig(name="config", max_history=1, max_age=timedelta(seconds=60), num_replicas=3)
        caplog.set_level(logging.WARNING)
        async with MemoryConnection(name) as one, MemoryConnection(name) as other:
            first = await one.store(StoreConfig(name="config", max_history=5, num_replicas=3))
            assert (await first.status()).drift == []
            assert (await (await one.store("config")).status()).drift == []
            assert caplog.records == []
            for connection in (one, other, other):
                status = await (await connection.store(wanted)).status()
                assert status.drift == [
                    Drift(field="max_history", wanted=1, actual=5),
                    Drift(field="max_age", wanted=timedelta(seconds=60), actual=None),
                ]
                assert status.config.max_history == 5
            assert len(caplog.records) == 2
            assert "max_history = 5" in caplog.text
            await one.store(StoreConfig(name="config", max_history=2))
            assert len(caplog.records) == 3

    async def test_a_mirror_is_refused_and_nothing_is_made(self) -> None:
        async with MemoryConnection() as connection:
            with pytest.raises(UnsupportedError):
                await connection.store(StoreConfig(name="copy", mirror="config"))
            with pytest.raises(ValueError, match="reads"):
                await connection.store("config", reads="newest")  # type: ignore[arg-type]
            assert await connection.stores() == []

    async def test_roles_have_their_methods_only(self) -> None:
        async with MemoryConnection() as connection:
            store = await connection.store("config")
        roles: dict[type, object] = {
            KvReader: store.reader(),
            KvWriter: store.writer(),
            KvWatcher: store.watcher(),
        }
        for role, handle in roles.items():
            public = {member for member in dir(handle) if not member.startswith("_")}
            assert public == {member for member in dir(role) if not member.startswith("_")}


@pytest.fixture
async def store() -> KvStore:
    connection = MemoryConnection()
    await connection.connect()
    store = await connection.store("config")
    await store.put("k", b"v")
    return store


async def test_the_capabilities_say_what_there_is() -> None:
    async with MemoryConnection() as connection:
        found = connection.capabilities
    assert all((found.cas, found.streaming_watch, found.ttl, found.transactions, found.fencing))
    assert not found.global_ordering


class TestValues:
    @pytest.mark.parametrize("wrong", ["text", 5, None, [1, 2]], ids=repr)
    @pytest.mark.parametrize(
        "write",
        [
            lambda store, value: store.put("k", value),
            lambda store, value: store.create("new", value),
            lambda store, value: store.update("k", value, VERSION),
            lambda store, value: store.put_many({"a": b"fine", "k": value}),
        ],
        ids=["put", "create", "update", "put_many"],
    )
    async def test_what_is_no_bytes_is_refused(
        self, store: KvStore, write: Callable[[KvStore, Any], Awaitable[object]], wrong: Any
    ) -> None:
        with pytest.raises(TypeError, match=r"a value is bytes, not .*: encode it"):
            await write(store, wrong)
        assert (await store.status()).last_revision == 1

    async def test_what_is_stored_is_a_copy(self, store: KvStore) -> None:
        value: Any = bytearray(b"before")
        await store.put("k", value)
        value[:] = b"after!"
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == b"before"
        strided: Any = memoryview(b"0123")[::2]
        await store.put("k", strided)
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == b"02"
        assert type(entry.value) is bytes


class TestWrites:
    @pytest.mark.parametrize(
        "write",
        [
            lambda store: store.put("k", b"new"),
            lambda store: store.create("new", b"new"),
            lambda store: store.update("k", b"new", VERSION),
            lambda store: store.delete("k"),
            lambda store: store.delete_with_version("k", VERSION),
            lambda store: store.purge("k"),
            lambda store: store.put_many({"a": b"1", "b": b"2"}),
        ],
        ids=["put", "create", "update", "delete", "delete_with_version", "purge", "put_many"],
    )
    async def test_a_cancelled_one_has_not_been_done(self, store: KvStore, write: Write) -> None:
        task = asyncio.ensure_future(write(store))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert (await store.status()).last_revision == 1

    async def test_a_loop_of_operations_lets_others_run(self, store: KvStore) -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_soon(stop.set)
        for _ in range(100):
            await store.get("k")
            if stop.is_set():
                return
        pytest.fail("nothing else ran")

    async def test_put_many_says_what_was_written_and_what_was_not(self) -> None:
        size = RECORD_OVERHEAD + 1 + 1
        async with MemoryConnection() as connection:
            store = await connection.store(StoreConfig(name="config", max_bytes=2 * size))
            with pytest.raises(BulkWriteError) as caught:
                await store.put_many([("a", b"1"), ("b", b"1"), ("c", b"1"), ("a", b"2")])
            assert caught.value.versions == {"a": VersionToken.from_u64(3), "b": VersionToken.from_u64(2)}
            assert {key: type(error) for key, error in caught.value.errors.items()} == {"c": StoreFullError}

    async def test_a_version_without_a_revision_is_an_error_also_for_reads(self, store: KvStore) -> None:
        unknown = VersionToken.unknown()
        with pytest.raises(OperationFailedError):
            await store.revision("k", unknown)
        with pytest.raises(OperationFailedError):
            await store.get("k", min_version=unknown)

    async def test_an_age_is_not_negative(self, store: KvStore) -> None:
        with pytest.raises(ValueError, match="not negative"):
            await store.purge_deletes(-1)
