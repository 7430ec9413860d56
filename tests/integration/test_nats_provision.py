"""How buckets are opened, made, found and deleted on real servers."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from pydantic import ValidationError

from slipstream.errors import (
    InvalidKeyError,
    NotConnectedError,
    OperationFailedError,
    OperationTimeoutError,
    StoreFullError,
    StoreNotFoundError,
    UnsupportedError,
)
from slipstream.model import Drift, StoreConfig
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.stores.nats.api import JetStreamApi
from slipstream.stores.nats.features import ServerFeatures
from slipstream.testing._waiting import bounded
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer

MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]
LOGGER = "slipstream.stores.nats"
HOUR = 3_600_000_000_000


def connection(url: str, *, op_timeout: float = 10.0, **options: Any) -> NatsConnection:
    return NatsConnection(NatsConnectionConfig(url=url, op_timeout=op_timeout, **options))


def api(conn: NatsConnection) -> JetStreamApi:
    assert conn._session is not None
    return JetStreamApi(conn._session.lane)


async def raw_config(conn: NatsConnection, bucket: str) -> dict[str, Any]:
    """The stream of a bucket as the server describes it, without what only it writes."""
    answer = await api(conn).call(f"STREAM.INFO.KV_{bucket}")
    config: dict[str, Any] = answer["config"]
    metadata = {name: value for name, value in config.pop("metadata", {}).items() if not name.startswith("_nats.")}
    return config | ({"metadata": metadata} if metadata else {})


def features(conn: NatsConnection) -> ServerFeatures:
    assert conn._session is not None
    assert conn._session.features is not None
    return conn._session.features


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
async def conn(nats_url: str) -> AsyncIterator[NatsConnection]:
    async with connection(nats_url) as conn:
        yield conn


@pytest.fixture
async def bucket(conn: NatsConnection) -> AsyncIterator[str]:
    """A name that no bucket has; those that begin with it are deleted afterwards."""
    name = f"provision-{secrets.token_hex(6)}"
    yield name
    for found in await conn.stores():
        if found.startswith(name):
            await conn.delete_store(found)


class TestCreation:
    async def test_the_defaults_are_those_of_the_design(
        self, conn: NatsConnection, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = await conn.store(bucket)
        expected: dict[str, Any] = {
            "name": f"KV_{bucket}",
            "subjects": [f"$KV.{bucket}.>"],
            "retention": "limits",
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msgs_per_subject": 1,
            "max_msg_size": -1,
            "storage": "file",
            "discard": "new",
            "num_replicas": 1,
            "duplicate_window": 120_000_000_000,
            "deny_delete": True,
            "deny_purge": False,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
        }
        if features(conn).markers:
            expected |= {"allow_msg_ttl": True, "subject_delete_marker_ttl": HOUR}
        if features(conn).atomic_batches:
            expected |= {"allow_atomic": True}
        config = await raw_config(conn, bucket)
        assert expected.items() <= config.items()
        # Whatever else the server tells is switched off.
        assert not {
            name: value for name, value in config.items() if name not in expected and value not in (False, "none", {})
        }
        status = await store.status()
        assert status.drift == []
        assert status.replicas == 1
        assert (status.keys, status.bytes, status.last_revision) == (0, 0, 0)
        assert warnings_of(caplog) == []

    async def test_every_option_reaches_the_server(
        self, conn: NatsConnection, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        wanted = StoreConfig(
            name=bucket,
            storage="memory",
            max_history=5,
            max_age=timedelta(seconds=4.35),
            max_bytes=1_000_000,
            max_value_size=1000,
            discard="old",
            description="what it is for",
            compression=False,
            metadata={"owner": "us"},
        )
        store = await conn.store(wanted)
        config = await raw_config(conn, bucket)
        assert config["storage"] == "memory"
        assert config["max_msgs_per_subject"] == 5
        assert abs(config["max_age"] - 4_350_000_000) < 1000
        assert config["max_bytes"] == 1_000_000
        assert config["max_msg_size"] > 1000
        assert config["discard"] == "old"
        assert config["description"] == "what it is for"
        assert config["metadata"]["owner"] == "us"
        status = await store.status()
        assert status.drift == []
        assert {name: getattr(status.config, name) for name in wanted.model_fields_set} == {
            name: getattr(wanted, name) for name in wanted.model_fields_set
        }
        again = await conn.store(wanted)
        assert (await again.status()).drift == []
        assert warnings_of(caplog) == []

    async def test_compression(self, conn: NatsConnection, bucket: str) -> None:
        store = await conn.store(StoreConfig(name=bucket, compression=True))
        assert (await raw_config(conn, bucket))["compression"] == "s2"
        assert (await store.status()).config.compression is True

    @pytest.mark.parametrize("max_age", [0.1, 0.7, 1, 119.999999, 4.35, 86400.123456])
    async def test_no_age_drifts(self, conn: NatsConnection, bucket: str, max_age: float) -> None:
        store = await conn.store(StoreConfig(name=bucket, max_age=timedelta(seconds=max_age)))
        assert (await store.status()).drift == []

    async def test_markers_where_there_are_some(self, conn: NatsConnection, bucket: str) -> None:
        wanted = StoreConfig(name=bucket, marker_ttl=timedelta(seconds=90), max_age=timedelta(seconds=5))
        if not features(conn).markers:
            with pytest.raises(UnsupportedError, match="marker_ttl"):
                await conn.store(wanted)
            assert bucket not in await conn.stores()
            return
        store = await conn.store(wanted)
        config = await raw_config(conn, bucket)
        assert (config["allow_msg_ttl"], config["subject_delete_marker_ttl"]) == (True, 90_000_000_000)
        assert (await store.status()).config.marker_ttl == timedelta(seconds=90)

    async def test_no_markers_where_they_are_not_wanted(self, conn: NatsConnection, bucket: str) -> None:
        await conn.store(StoreConfig(name=bucket, marker_ttl=None))
        config = await raw_config(conn, bucket)
        assert not config.get("allow_msg_ttl")
        assert not config.get("subject_delete_marker_ttl")

    async def test_replicas_need_a_cluster(self, conn: NatsConnection, bucket: str) -> None:
        async with bounded():
            with pytest.raises(UnsupportedError, match="num_replicas above 1 needs a cluster"):
                await conn.store(StoreConfig(name=bucket, num_replicas=3))
        assert bucket not in await conn.stores()

    async def test_what_the_server_refuses_is_told_in_its_words(self, conn: NatsConnection, bucket: str) -> None:
        await conn.store(f"{bucket}-other")
        taken = await api(conn).create_stream_raw({"name": f"X_{bucket}", "subjects": [f"$KV.{bucket}.>"]})
        assert b"error" not in taken
        try:
            with pytest.raises(OperationFailedError, match="overlap") as caught:
                await conn.store(bucket)
            assert (caught.value.code, caught.value.err_code) == (400, 10065)
            assert caught.value.store == bucket
        finally:
            await api(conn).delete_stream(f"X_{bucket}")

    @pytest.mark.parametrize("name", ["", "a.b", "a b", "a\n", "*", ">", "ü", "x" * 256])
    async def test_illegal_names(self, conn: NatsConnection, name: str) -> None:
        with pytest.raises(ValidationError):
            await conn.store(name)
        with pytest.raises(InvalidKeyError):
            await conn.delete_store(name)

    async def test_an_unknown_kind_of_reads(self, conn: NatsConnection, bucket: str) -> None:
        with pytest.raises(ValueError, match="reads is"):
            await conn.store(bucket, reads="all")  # type: ignore[arg-type]
        assert bucket not in await conn.stores()


class TestExisting:
    async def test_a_difference_is_drift_and_one_warning(
        self, conn: NatsConnection, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = await conn.store(StoreConfig(name=bucket, max_history=5))
        version = await first.put("k", b"v")
        assert warnings_of(caplog) == []
        for _ in range(3):
            store = await conn.store(StoreConfig(name=bucket, max_history=1, description="new"))
            status = await store.status()
            assert status.drift == [
                Drift(field="max_history", wanted=1, actual=5),
                Drift(field="description", wanted="new", actual=None),
            ]
            assert status.config.max_history == 5
            entry = await store.get("k")
            assert entry is not None
            assert entry.version == version
        (history, description) = warnings_of(caplog)
        assert bucket in history
        assert "max_history=5, not 1" in history
        assert "description" in description
        assert (await raw_config(conn, bucket))["max_msgs_per_subject"] == 5

    async def test_what_was_not_asked_for_is_no_drift(
        self, conn: NatsConnection, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        await conn.store(StoreConfig(name=bucket, max_history=5, max_bytes=1000, marker_ttl=None))
        store = await conn.store(bucket)
        assert (await store.status()).drift == []
        assert warnings_of(caplog) == []

    async def test_a_bucket_that_nats_py_made(self, conn: NatsConnection, bucket: str, nats_url: str) -> None:
        client = await nats.connect(nats_url)
        try:
            kv = await client.jetstream().create_key_value(bucket=bucket, history=3)
            await kv.put("k", b"theirs")
            store = await conn.store(bucket)
            entry = await store.get("k")
            assert entry is not None
            assert entry.value == b"theirs"
            await store.update("k", b"ours", entry.version)
            assert (await kv.get("k")).value == b"ours"
            assert [found.value for found in await store.scan()] == [b"ours"]
        finally:
            await client.close()

    async def test_ten_at_once_all_get_it(self, conn: NatsConnection, bucket: str, nats_url: str) -> None:
        async with connection(nats_url) as other:
            async with bounded():
                stores = await asyncio.gather(
                    *([conn.store(bucket) for _ in range(5)] + [other.store(bucket) for _ in range(5)])
                )
                versions = await asyncio.gather(*(store.put(f"k.{i}", b"v") for i, store in enumerate(stores)))
            assert len(set(versions)) == 10
            for store in stores:
                assert len(await store.scan()) == 10

    async def test_ten_at_once_with_ten_configurations(self, conn: NatsConnection, bucket: str) -> None:
        async with bounded():
            stores = await asyncio.gather(
                *(conn.store(StoreConfig(name=bucket, max_history=history)) for history in range(1, 11))
            )
        statuses = [await store.status() for store in stores]
        (actual,) = {status.config.max_history for status in statuses}
        assert [len(status.drift) for status in statuses] == [int(history != actual) for history in range(1, 11)]
        assert len({status.incarnation for status in statuses}) == 1


class TestMirror:
    async def test_it_is_read_and_written_through(
        self, conn: NatsConnection, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = await conn.store(bucket)
        await source.put("k.1", b"before")
        mirror = await conn.store(StoreConfig(name=f"{bucket}-mirror", mirror=bucket))
        config = await raw_config(conn, f"{bucket}-mirror")
        assert config["mirror"]["name"] == f"KV_{bucket}"
        assert config["mirror_direct"] is True
        assert not config.get("subjects")
        version = await mirror.put("k.2", b"through the mirror")
        async with mirror.watch() as watch, bounded():
            seen: dict[str, bytes] = {}
            while len(seen) < 2:
                update = await anext(watch)
                seen[update.key] = update.value
        assert seen == {"k.1": b"before", "k.2": b"through the mirror"}
        entry = await source.get("k.2")
        assert entry is not None
        assert entry.version == version
        assert await mirror.keys("k.") == ["k.1", "k.2"]
        assert [entry.value for entry in await mirror.scan()] == [b"before", b"through the mirror"]
        for reads in ("any", "leader", "session"):
            reader = await conn.store(f"{bucket}-mirror", reads=reads)  # type: ignore[arg-type]
            found = await reader.get("k.2")
            assert found is not None
            assert found.value == b"through the mirror"
        assert warnings_of(caplog) == []

    async def test_it_is_listed_and_deleted(self, conn: NatsConnection, bucket: str) -> None:
        await conn.store(bucket)
        await conn.store(StoreConfig(name=f"{bucket}-mirror", mirror=bucket))
        assert {bucket, f"{bucket}-mirror"} <= set(await conn.stores())
        await conn.delete_store(f"{bucket}-mirror")
        names = await conn.stores()
        assert bucket in names
        assert f"{bucket}-mirror" not in names

    async def test_markers_on_it_are_refused(self, conn: NatsConnection, bucket: str) -> None:
        await conn.store(bucket)
        with pytest.raises(UnsupportedError):
            await conn.store(StoreConfig(name=f"{bucket}-m", mirror=bucket, marker_ttl=timedelta(minutes=1)))


class TestListAndDelete:
    async def test_only_buckets_are_listed_sorted(self, nats_server: NatsServer) -> None:
        async with connection(nats_server.url) as conn:
            assert await conn.stores() == []
            for name in ("c", "a", "b"):
                await conn.store(name)
            await api(conn).create_stream_raw({"name": "ORDERS", "subjects": ["orders.>"]})
            assert await conn.stores() == ["a", "b", "c"]

    async def test_more_than_one_page(self, nats_server: NatsServer) -> None:
        async with connection(nats_server.url, op_timeout=30) as conn:
            names = [f"b{number:04}" for number in range(1030)]  # the server lists 1024 at once

            async def make(name: str) -> None:
                body = {"name": f"KV_{name}", "subjects": [f"$KV.{name}.>"], "storage": "memory"}
                answer = json.loads(await api(conn).create_stream_raw(body))
                assert "error" not in answer

            for start in range(0, len(names), 50):
                await asyncio.gather(*map(make, names[start : start + 50]))
            assert await conn.stores() == names

    async def test_a_deleted_one_is_gone(self, conn: NatsConnection, bucket: str) -> None:
        store = await conn.store(bucket)
        await store.put("k", b"v")
        await conn.delete_store(bucket)
        assert bucket not in await conn.stores()
        async with bounded():
            for refused in (store.get("k"), store.put("k", b"v"), store.scan(), store.status()):
                with pytest.raises(StoreNotFoundError):
                    await refused
        again = await conn.store(bucket)
        assert await again.get("k") is None

    async def test_a_missing_one(self, conn: NatsConnection, bucket: str) -> None:
        with pytest.raises(StoreNotFoundError, match=bucket):
            await conn.delete_store(bucket)

    async def test_the_answer_to_a_deletion_gets_lost(self, nats_server: NatsServer, fault_proxy: MakeProxy) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        async with connection(nats_server.url) as direct, connection(proxy.url, reconnect_max_wait=0.1) as conn:
            await conn.store("b")
            proxy.black_hole("to_client")
            deletion = asyncio.create_task(conn.delete_store("b"))
            async with bounded():
                while await direct.stores():  # noqa: ASYNC110 - nobody announces it
                    await asyncio.sleep(0)
                await proxy.heal()  # the connection that lost bytes is closed; the question is asked again
                await deletion
            assert not deletion.cancelled()


class TestLimits:
    ACCOUNTS = """
        accounts {
            ONE { jetstream { max_streams: 1, max_store: 100M }, users = [{ user: one, password: a }] }
            SIZED { jetstream { max_bytes_required: true, max_store: 25M }, users = [{ user: sized, password: a }] }
            SMALL { jetstream { max_store: 1M, max_mem: 1M }, users = [{ user: small, password: a }] }
        }"""

    @pytest.fixture
    async def server(self) -> AsyncIterator[NatsServer]:
        async with NatsServer(config=self.ACCOUNTS) as server:
            yield server

    def account(self, server: NatsServer, user: str) -> NatsConnection:
        return connection(f"nats://{user}:a@127.0.0.1:{server.port}")

    async def test_an_account_that_demands_a_size(self, server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
        async with self.account(server, "sized") as conn:
            store = await conn.store("b")
            assert (await raw_config(conn, "b"))["max_bytes"] == 10 * 1024 * 1024
            assert (await store.status()).config.max_bytes == 10 * 1024 * 1024
            (said,) = [text for text in warnings_of(caplog) if "size limit" in text]
            assert "b is created with 10485760 bytes" in said
            assert "max_bytes" in said
            caplog.clear()
            await conn.store(StoreConfig(name="c", max_bytes=1_000_000))
            assert (await raw_config(conn, "c"))["max_bytes"] == 1_000_000
            assert not [text for text in warnings_of(caplog) if "size limit" in text]
            await conn.store("d")
            with pytest.raises(StoreFullError):  # 10 + 10 + 1 MiB of 25 MB are taken
                await conn.store("e")
            assert await conn.stores() == ["b", "c", "d"]

    async def test_no_room_for_another_bucket(self, server: NatsServer) -> None:
        async with self.account(server, "one") as conn:
            await conn.store("b")
            async with bounded():
                with pytest.raises(OperationFailedError, match="no room for another bucket") as caught:
                    await conn.store("c")
            assert caught.value.store == "c"
            assert caught.value.err_code == 10027
            await conn.store("b")

    async def test_no_room_for_its_bytes(self, server: NatsServer) -> None:
        async with self.account(server, "small") as conn:
            for storage in ("persistent", "memory"):
                with pytest.raises(StoreFullError, match="insufficient"):
                    await conn.store(StoreConfig(name="b", storage=storage, max_bytes=2_000_000))  # type: ignore[arg-type]


class _WithoutJetStream(Client):
    """A client whose nats-py cannot make a bucket; the server behind it can."""

    def jetstream(self, **_: Any) -> Any:
        raise RuntimeError("nats-py has no JetStream today")


class _SlowJetStream(Client):
    """A client whose nats-py never gets an answer about buckets."""

    def jetstream(self, **opts: Any) -> Any:
        return super().jetstream(**(opts | {"prefix": "nobody.listens.here"}))


class TestFallback:
    @pytest.mark.parametrize("kind", [_WithoutJetStream, _SlowJetStream])
    async def test_the_raw_request_makes_the_same_bucket(
        self, kind: type[Client], nats_url: str, conn: NatsConnection, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = kind()
        await client.connect(nats_url)
        try:
            async with NatsConnection.from_client(client, op_timeout=5) as borrowed:
                wanted = StoreConfig(name=f"{bucket}-raw", max_history=3, max_age=timedelta(minutes=3), description="d")
                store = await borrowed.store(wanted)
                await store.put("k", b"v")
                assert (await store.status()).drift == []
                (said,) = warnings_of(caplog)
                assert f"{bucket}-raw could not be created through nats-py" in said
                caplog.clear()
                await conn.store(wanted.model_copy(update={"name": f"{bucket}-usual"}))
                assert warnings_of(caplog) == []
                raw, usual = await raw_config(conn, f"{bucket}-raw"), await raw_config(conn, f"{bucket}-usual")
                assert {**raw, "name": "", "subjects": []} == {**usual, "name": "", "subjects": []}
        finally:
            await client.close()

    async def test_a_mirror_is_made_raw_too(
        self, nats_url: str, conn: NatsConnection, bucket: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        await conn.store(bucket)
        client = _WithoutJetStream()
        await client.connect(nats_url)
        try:
            async with NatsConnection.from_client(client, op_timeout=5) as borrowed:
                await borrowed.store(StoreConfig(name=f"{bucket}-raw", mirror=bucket))
            await conn.store(StoreConfig(name=f"{bucket}-usual", mirror=bucket))
            raw, usual = await raw_config(conn, f"{bucket}-raw"), await raw_config(conn, f"{bucket}-usual")
            assert {**raw, "name": ""} == {**usual, "name": ""}
            assert len(warnings_of(caplog)) == 1
        finally:
            await client.close()

    async def test_what_it_is_refused_is_told(self, nats_url: str, bucket: str) -> None:
        client = _WithoutJetStream()
        await client.connect(nats_url)
        try:
            async with NatsConnection.from_client(client, op_timeout=5) as borrowed:
                with pytest.raises(UnsupportedError, match="needs a cluster"):
                    await borrowed.store(StoreConfig(name=bucket, num_replicas=3))
        finally:
            await client.close()


class TestAwayServers:
    async def test_opening_never_stalls_shutdown(self, nats_server: NatsServer) -> None:
        for name in ("new", "there"):
            conn = connection(nats_server.url, op_timeout=30)
            await conn.connect()
            await conn.store("there")
            nats_server.pause()
            opening = [asyncio.create_task(conn.store(name)) for _ in range(3)]
            await asyncio.sleep(0)
            async with asyncio.timeout(2):
                await conn.shutdown()
                await asyncio.wait(opening)
            nats_server.resume()
            for task in opening:
                assert isinstance(task.exception(), NotConnectedError)

    async def test_making_one_never_stalls_shutdown_at_any_step(self, nats_server: NatsServer) -> None:
        for turns in range(0, 120, 8):
            conn = connection(nats_server.url, op_timeout=30)
            await conn.connect()
            opening = asyncio.create_task(conn.store(f"b{turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            nats_server.pause()
            async with asyncio.timeout(2):
                await conn.shutdown()
                await asyncio.wait({opening})
            nats_server.resume()
            assert opening.exception() is None or isinstance(opening.exception(), NotConnectedError)

    async def test_a_restart_in_between_is_waited_for(self, nats_server: NatsServer) -> None:
        async with connection(nats_server.url, reconnect_max_wait=0.1) as conn:
            await conn.store("b")
            await nats_server.kill()
            opening = asyncio.create_task(conn.store("b"))
            making = asyncio.create_task(conn.store("new"))
            listing = asyncio.create_task(conn.stores())
            await nats_server.start()
            async with bounded():
                await opening
                await making
                assert set(await listing) <= {"b", "new"}
            assert await conn.stores() == ["b", "new"]

    async def test_a_dead_server_ends_it_in_time(self, nats_server: NatsServer) -> None:
        async with connection(nats_server.url, op_timeout=0.5) as conn:
            await nats_server.kill()
            for operation in (conn.store("b"), conn.stores(), conn.delete_store("b")):
                async with asyncio.timeout(1.5):
                    with pytest.raises(OperationTimeoutError):
                        await operation

    async def test_cancelled_it_leaves_nothing_waiting(self, nats_server: NatsServer) -> None:
        async with connection(nats_server.url) as conn:
            session = conn._session
            assert session is not None
            for turns in range(0, 60, 4):
                task = asyncio.create_task(conn.store(f"b{turns}"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                async with bounded():
                    await asyncio.wait({task})
                assert session.lane._pending == {}
            assert await (await conn.store("after")).get("k") is None
