"""Writes on a real server: each ends done, refused or unknown, is stored once, and never after its deadline."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from slipstream.errors import (
    BulkWriteError,
    ConflictError,
    KvError,
    NotConnectedError,
    OperationTimeoutError,
    RevisionMismatchError,
    StoreFullError,
    ValueTooLargeError,
)
from slipstream.interfaces import KvStore
from slipstream.model import KvUpdate, StoreConfig, VersionToken
from slipstream.stores.nats import NatsConnection, scan, writer
from slipstream.stores.nats.bucket import Bucket
from slipstream.stores.nats.decode import Headers
from slipstream.stores.nats.publish import Publication
from slipstream.testing._raw import Raw, raw_client
from slipstream.testing._waiting import bounded, eventually, ticks
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer

Connect = Callable[..., Awaitable[NatsConnection]]
MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]
Write = Callable[[KvStore, VersionToken], Awaitable[object]]

PATIENT = {"ping_interval": 30.0}  # a dead path is not noticed within a test


async def until_healthy(connection: NatsConnection, healthy: bool = True) -> None:
    async def reached() -> bool:
        return connection.is_healthy() is healthy

    await eventually(reached)


async def until_revision(raw: Raw, bucket: str, revision: int) -> None:
    """Return once the server has stored so many writes."""

    async def stored() -> bool:
        return int((await raw.state(bucket))["last_seq"]) >= revision

    await eventually(stored)


async def revisions(raw: Raw, bucket: str) -> int:
    return int((await raw.state(bucket))["last_seq"])


async def lose_the_answer(proxy: FaultProxy, raw: Raw, bucket: str, write: Awaitable[object]) -> asyncio.Future[object]:
    """Start a write, let the server store it, and take the connection away before the answer; it is back afterwards."""
    before = await revisions(raw, bucket)
    proxy.black_hole("to_client")
    writing = asyncio.ensure_future(write)
    await until_revision(raw, bucket, before + 1)
    assert not writing.done()
    proxy.reset()
    await proxy.heal()
    return writing


WRITES: dict[str, Write] = {
    "put": lambda store, version: store.put("k", b"2"),
    "create": lambda store, version: store.create("new", b"2"),
    "update": lambda store, version: store.update("k", b"2", version),
    "delete": lambda store, version: store.delete("k"),
    "delete_with_version": lambda store, version: store.delete_with_version("k", version),
    "purge": lambda store, version: store.purge("k"),
    "purge at a version": lambda store, version: store.purge("k", expected=version),
    "put_many": lambda store, version: store.put_many({"k": b"2"}),
}


EACH_WRITE = pytest.mark.parametrize("write", list(WRITES.values()), ids=list(WRITES))


class TestLostAnswers:
    @EACH_WRITE
    async def test_a_write_is_sent_again_and_stored_once(
        self,
        connect: Connect,
        nats_server: NatsServer,
        fault_proxy: MakeProxy,
        bucket: str,
        write: Write,
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        store = await (await connect(proxy.url, **PATIENT)).store(StoreConfig(name=bucket, max_history=10))
        version = await store.put("k", b"1")
        async with raw_client(nats_server.url) as raw:
            writing = await lose_the_answer(proxy, raw, bucket, write(store, version))
            async with bounded():
                outcome = await writing
            if isinstance(outcome, list):
                (outcome,) = outcome
            if isinstance(outcome, VersionToken):
                assert outcome.as_u64() == 2
            assert await revisions(raw, bucket) == 2
            assert (await store.put("other", b"3")).as_u64() == 3

    async def test_a_conditional_write_that_was_overwritten_meanwhile_is_no_plain_conflict(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        store = await (await connect(proxy.url, **PATIENT)).store(bucket)
        other = await (await connect(nats_server.url)).store(bucket)
        version = await store.put("k", b"1")
        async with raw_client(nats_server.url) as raw:
            for key in ("k", "new"):
                before = await revisions(raw, bucket)
                proxy.black_hole("to_client")
                work = store.update("k", b"2", version) if key == "k" else store.create("new", b"2")
                writing = asyncio.ensure_future(work)
                await until_revision(raw, bucket, before + 1)
                theirs = await other.put(key, b"theirs")
                proxy.reset()
                await proxy.heal()
                async with bounded():
                    (outcome,) = await asyncio.gather(writing, return_exceptions=True)
                if isinstance(outcome, VersionToken):  # the server looks at the message id first: 2.10, clusters
                    assert outcome.as_u64() == before + 1
                else:  # it compares first
                    assert isinstance(outcome, ConflictError)
                    assert outcome.outcome_unknown
                assert await raw.last(bucket, key) == (theirs.as_u64(), b"theirs")

    async def test_a_conflict_after_an_attempt_that_was_never_sent_is_known(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url)
        store = await connection.store(bucket)
        other = await (await connect(nats_server.url)).store(bucket)
        version = await store.put("k", b"1")
        proxy.refuse()
        proxy.reset()
        await until_healthy(connection, False)
        writing = asyncio.ensure_future(store.update("k", b"2", version))
        theirs = await other.put("k", b"theirs")
        await proxy.heal()
        with pytest.raises(RevisionMismatchError) as caught:
            async with bounded():
                await writing
        assert not caught.value.outcome_unknown
        assert caught.value.actual == theirs

    @EACH_WRITE
    async def test_without_retries_a_lost_answer_is_an_unknown_outcome(
        self,
        connect: Connect,
        nats_server: NatsServer,
        fault_proxy: MakeProxy,
        bucket: str,
        write: Write,
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url, retry_writes=False, **PATIENT)
        store = await connection.store(StoreConfig(name=bucket, max_history=10))
        version = await store.put("k", b"1")
        async with raw_client(nats_server.url) as raw:
            writing = await lose_the_answer(proxy, raw, bucket, write(store, version))
            with pytest.raises((NotConnectedError, BulkWriteError)) as caught:
                async with bounded():
                    await writing
            assert caught.value.outcome_unknown
            async with bounded():
                assert (await store.put("other", b"3")).as_u64() == 3

    @EACH_WRITE
    async def test_an_answer_that_never_comes_is_an_unknown_outcome(
        self,
        connect: Connect,
        nats_server: NatsServer,
        fault_proxy: MakeProxy,
        bucket: str,
        write: Write,
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url, op_timeout=0.5, **PATIENT)
        store = await connection.store(StoreConfig(name=bucket, max_history=10))
        version = await store.put("k", b"1")
        proxy.black_hole("to_client")
        with pytest.raises((OperationTimeoutError, BulkWriteError)) as caught:
            async with bounded():
                await write(store, version)
        assert caught.value.outcome_unknown
        await proxy.heal()

    async def test_shutdown_while_the_outcome_is_unknown_says_so(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url, **PATIENT)
        store = await connection.store(bucket)
        async with raw_client(nats_server.url) as raw:
            proxy.black_hole("to_client")
            sent = asyncio.ensure_future(store.put("k", b"1"))
            await until_revision(raw, bucket, 1)
            proxy.refuse()
            proxy.reset()
            await until_healthy(connection, False)
            never_sent = asyncio.ensure_future(store.put("l", b"1"))
            await asyncio.sleep(0)
            async with bounded():
                await connection.shutdown()
                errors = await asyncio.gather(sent, never_sent, return_exceptions=True)
        assert [type(error) for error in errors] == [NotConnectedError, NotConnectedError]
        assert [isinstance(error, KvError) and error.outcome_unknown for error in errors] == [True, False]


class TestDeadlines:
    async def test_a_write_issued_while_disconnected_is_sent_after_the_reconnect(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url)
        store = await connection.store(bucket)
        proxy.refuse()
        proxy.reset()
        await until_healthy(connection, False)
        writing = [asyncio.ensure_future(store.put(f"k.{number}", b"1")) for number in range(5)]
        done, _ = await asyncio.wait(writing, timeout=0.1)
        assert not done
        await proxy.heal()
        async with bounded():
            versions = await asyncio.gather(*writing)
        async with raw_client(nats_server.url) as raw:
            assert sorted(version.as_u64() or 0 for version in versions) == [1, 2, 3, 4, 5]
            assert await revisions(raw, bucket) == 5

    async def test_one_whose_reconnect_never_came_is_not_stored_later(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url, op_timeout=0.5)
        store = await connection.store(bucket)
        proxy.refuse()
        proxy.reset()
        await until_healthy(connection, False)
        with pytest.raises(OperationTimeoutError) as caught:
            async with bounded():
                await store.put("late", b"1")
        assert not caught.value.outcome_unknown
        await proxy.heal()
        await until_healthy(connection)
        await store.put("other", b"1")  # whatever had been buffered would have gone before it
        async with raw_client(nats_server.url) as raw:
            assert await raw.last(bucket, "late") is None
            assert await revisions(raw, bucket) == 1

    async def test_many_writes_on_a_dead_path_share_one_deadline(
        self, connect: Connect, nats_server: NatsServer, fault_proxy: MakeProxy, bucket: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        connection = await connect(proxy.url, op_timeout=1.0, **PATIENT)
        store = await connection.store(bucket)
        keys = [f"k.{number}" for number in range(5000)]
        proxy.black_hole("to_client")
        with pytest.raises(BulkWriteError) as caught:
            async with bounded():
                await store.put_many(dict.fromkeys(keys, b"1"))
        error = caught.value
        assert error.outcome_unknown
        assert error.versions == {}
        assert set(error.errors) == set(keys)
        assert {type(one) for one in error.errors.values()} == {OperationTimeoutError}
        unknown = {key for key, one in error.errors.items() if one.outcome_unknown}
        assert 0 < len(unknown) < len(keys)
        await proxy.heal()
        await until_healthy(connection)
        stored = await store.keys()
        assert set(stored) <= unknown


class TestSizes:
    async def test_what_is_too_large_is_refused_before_anything_is_sent(
        self, connect: Connect, raw: Raw, bucket: str
    ) -> None:
        connection = await connect()
        store = await connection.store(bucket)
        limit = connection.capabilities.max_value_size
        assert limit <= raw.client.max_payload
        version = await store.put("k", bytes(limit))
        for size in (limit + 1, raw.client.max_payload, raw.client.max_payload + 1, 3 * raw.client.max_payload):
            for refused in (
                store.put("k", bytes(size)),
                store.create("new", bytes(size)),
                store.update("k", bytes(size), version),
                store.put_many([("a", b"1"), ("b", bytes(size)), ("c", b"1")]),
            ):
                with pytest.raises(ValueTooLargeError) as caught:
                    await refused
                assert not caught.value.outcome_unknown
        assert connection.is_healthy()
        assert await revisions(raw, bucket) == 1
        assert await store.keys() == ["k"]

    async def test_the_largest_value_goes_with_the_longest_key_and_every_header(
        self, connect: Connect, raw: Raw, bucket: str
    ) -> None:
        connection = await connect()
        store = await connection.store(bucket)
        limit = connection.capabilities.max_value_size
        key = "k" * 1024
        version = await store.create(key, bytes(limit))
        await store.update(key, bytes(limit), version)
        assert await revisions(raw, bucket) == 2

    async def test_the_buckets_own_limit_counts_the_value_alone(self, connect: Connect, raw: Raw, bucket: str) -> None:
        store = await (await connect()).store(StoreConfig(name=bucket, max_value_size=1000))
        version = await store.put("k", bytes(1000))
        await store.update("k", bytes(1000), version)
        for refused in (
            store.put("k", bytes(1001)),
            store.create("new", bytes(1001)),
            store.put_many({"a": b"1", "b": bytes(1001)}),
        ):
            with pytest.raises(ValueTooLargeError):
                await refused
        assert await revisions(raw, bucket) == 2


class TestMany:
    async def test_a_full_bucket_takes_some_and_says_which(self, connect: Connect, raw: Raw, bucket: str) -> None:
        store = await (await connect()).store(StoreConfig(name=bucket, max_bytes=64 * 1024))
        keys = [f"k.{number}" for number in range(40)]
        with pytest.raises(BulkWriteError) as caught:
            await store.put_many(dict.fromkeys(keys, bytes(4096)))
        error = caught.value
        assert not error.outcome_unknown
        assert error.versions
        assert error.errors
        assert error.versions.keys() | error.errors.keys() == set(keys)
        assert error.versions.keys() & error.errors.keys() == set()
        for key, version in error.versions.items():
            assert await raw.last(bucket, key) == (version.as_u64(), bytes(4096))
        for key, refusal in error.errors.items():
            assert isinstance(refusal, StoreFullError)
            assert refusal.key == key
            assert not refusal.outcome_unknown
            assert await raw.last(bucket, key) is None
        assert str(len(error.errors)) in str(error)

    async def test_a_key_that_comes_more_than_once_is_written_in_order(
        self, connect: Connect, raw: Raw, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As where a write has to be sent again: each takes its own time.
        send = Publication.send

        async def held_up(self: Publication, payload: bytes, headers: Headers, **conditions: Any) -> int:
            await ticks(random.randrange(20))
            return await send(self, payload, headers, **conditions)

        monkeypatch.setattr(Publication, "send", held_up)
        store = await (await connect()).store(StoreConfig(name=bucket, max_history=64))
        items = [(("hot", f"k.{number}")[number % 3 > 0], b"%d" % number) for number in range(180)]
        versions = await store.put_many(items)
        hot = [(version, value) for version, (key, value) in zip(versions, items, strict=True) if key == "hot"]
        assert hot == sorted(hot, key=lambda pair: bytes(pair[0]))
        assert [(update.version, update.value) for update in await store.history("hot")] == hot
        assert await revisions(raw, bucket) == 180
        for key, value in items[1::3]:
            entry = await store.get(key)
            assert entry is not None
            assert entry.value == value

    @pytest.mark.parametrize("items", [{}, []])
    async def test_nothing_at_all(self, connect: Connect, bucket: str, items: dict[str, bytes]) -> None:
        store = await (await connect()).store(bucket)
        assert await store.put_many(items) == []


class TestPurgeDeletes:
    @pytest.mark.parametrize("history", [1, 5])
    async def test_a_key_written_between_the_listing_and_the_removal_is_kept(
        self, connect: Connect, raw: Raw, bucket: str, history: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = await (await connect()).store(StoreConfig(name=bucket, max_history=history))
        await store.put_many(dict.fromkeys(("again", "gone", "lives", "removed-again"), b"1"))
        for key in ("again", "gone", "removed-again"):
            await store.delete(key)
        list_all = scan.last_updates

        async def written_meanwhile(bucket: Bucket, prefix: str, *, headers_only: bool) -> dict[str, KvUpdate]:
            listed = await list_all(bucket, prefix, headers_only=headers_only)
            await store.put("again", b"2")
            await store.put("removed-again", b"2")
            await store.delete("removed-again")
            return listed

        monkeypatch.setattr(writer, "last_updates", written_meanwhile)
        removed = await store.purge_deletes()
        monkeypatch.undo()
        if history == 1:
            assert removed == 1
        entry = await store.get("again")
        assert entry is not None
        assert entry.value == b"2"
        assert await raw.last(bucket, "gone") is None
        assert await raw.last(bucket, "removed-again") is not None, "this tombstone is newer than the listing"
        assert await store.keys() == ["again", "lives"]

    async def test_young_tombstones_are_kept(self, connect: Connect, raw: Raw, bucket: str) -> None:
        store = await (await connect()).store(bucket)
        await store.put("a", b"1")
        await store.delete("a")
        assert await store.purge_deletes(older_than=60) == 0
        assert await raw.last(bucket, "a") is not None
        assert await store.purge_deletes() == 1
        assert await raw.last(bucket, "a") is None
