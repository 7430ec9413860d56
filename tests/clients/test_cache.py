"""KvCache on memory and on a real server."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from slipstream.cache import JsonLinesSnapshot, KvCache
from slipstream.errors import (
    ConnectionFailedError,
    DeserializationError,
    InvalidKeyError,
    OperationTimeoutError,
    SnapshotError,
    StoreFullError,
    StoreNotFoundError,
)
from slipstream.follow import following
from slipstream.interfaces import Connection, KvStore, KvWatcher
from slipstream.model import KvEntry, StoreConfig, VersionToken
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.testing._waiting import LIMIT, bounded, cancelled_after, eventually
from slipstream.testing.server import NatsServer

Seen = list[tuple[str, Any, Any]]


def recorded(cache: KvCache[Any]) -> Seen:
    seen: Seen = []
    cache.on_change(lambda key, old, new: seen.append((key, old, new)))
    return seen


class Door:
    """Opens a store, or fails while it is shut; counts."""

    def __init__(self, store: KvStore, error: Exception | None = None) -> None:
        self.store = store
        self.error = error
        self.attempts = 0

    async def __call__(self) -> KvWatcher:
        self.attempts += 1
        if self.error is not None:
            raise self.error
        return self.store


# A mapping.


async def test_it_is_handed_out_with_everything_that_is_there(store: KvStore) -> None:
    await store.put_many({f"user.{number}": b"%d" % number for number in range(500)})
    await store.put("other", b"x")
    await store.delete("user.7")
    async with KvCache(store, "user.") as cache:
        assert dict(cache) == {f"user.{number}": b"%d" % number for number in range(500) if number != 7}
        assert isinstance(cache, Mapping)
        assert (cache["user.1"], cache.get("user.7"), cache.get("user.7", b"none")) == (b"1", None, b"none")
        assert "user.1" in cache
        assert "other" not in cache
        assert len(cache) == 499
        with pytest.raises(KeyError):
            cache["other"]
        assert not cache.stale


async def test_an_empty_prefix_is_everything_and_several_are_one_cache(store: KvStore) -> None:
    await store.put_many({"a.1": b"1", "b.1": b"2", "c": b"3"})
    async with KvCache(store) as everything, KvCache(store, ["a.", "b."]) as two:
        assert dict(everything) == {"a.1": b"1", "b.1": b"2", "c": b"3"}
        assert dict(two) == {"a.1": b"1", "b.1": b"2"}


async def test_of_nothing_it_is_empty_and_current(store: KvStore) -> None:
    async with bounded(), KvCache(store, "user.") as cache:
        assert dict(cache) == {}
        assert not cache.stale


async def test_what_it_refuses(store: KvStore) -> None:
    with pytest.raises(InvalidKeyError):
        KvCache(store, "user.*")
    with pytest.raises(ValueError, match="no prefix"):
        KvCache(store, [])
    with pytest.raises(ValueError, match="max_bytes"):
        KvCache(store, max_bytes=0)
    async with KvCache(store) as cache:
        with pytest.raises(RuntimeError, match="entered once"):
            await cache.__aenter__()
        with pytest.raises(ValueError, match="no revision"):
            await cache.wait_for(VersionToken.unknown())
    with pytest.raises(RuntimeError, match="not running"):
        await cache.wait_for(VersionToken.from_u64(2**40))


async def test_an_entry_tells_the_version_to_compare_and_swap(store: KvStore) -> None:
    await store.put("user.1", b"a")
    async with KvCache(store, "user.") as cache:
        entry = cache.entry("user.1")
        assert entry is not None
        await cache.wait_for(await store.update("user.1", b"b", entry.version))
        assert cache["user.1"] == b"b"
        assert cache.entry("user.2") is None


async def test_no_value_is_in_its_repr(store: KvStore) -> None:
    await store.put("user.1", b"secret")
    async with KvCache(store, "user.") as cache:
        assert repr(cache) == "<KvCache 'user.': 1 keys, current>"


# Following.


async def test_own_writes_are_read(store: KvStore) -> None:
    async with KvCache(store, "user.") as cache:
        for number in range(50):
            await cache.wait_for(await store.put("user.1", b"%d" % number))
            assert cache["user.1"] == b"%d" % number
        await store.delete("user.1")
        await cache.wait_for(await store.put("user.2", b"x"))
        assert dict(cache) == {"user.2": b"x"}


async def test_a_write_elsewhere_in_the_bucket_arrives_too(store: KvStore) -> None:
    await store.put("user.1", b"a")
    async with KvCache(store, "user.") as cache:
        await cache.wait_for(await store.put("other", b"b"), timeout=LIMIT)
        assert dict(cache) == {"user.1": b"a"}


async def test_waiting_needs_no_looking_where_something_tells(
    store: KvStore, connection: Connection, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_PROGRESS_SECONDS", 3600)
    async with bounded(), KvCache(store, "user.") as cache:
        await cache.wait_for(await store.put("user.1", b"a"))
        await connection.delete_store(bucket)

        async def noticed() -> bool:
            return cache.stale

        await eventually(noticed)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(cache.wait_current())
            await connection.store(bucket)
        assert not cache


async def test_a_write_that_never_arrives(store: KvStore) -> None:
    async with KvCache(store, "user.") as cache:
        with pytest.raises(OperationTimeoutError, match=r"revision 999 has not arrived within 0\.3 s"):
            await cache.wait_for(VersionToken.from_u64(999), timeout=0.3)


async def test_callbacks_hear_old_and_new_after_all_of_it_is_in(store: KvStore) -> None:
    await store.put("user.1", b"a")
    async with KvCache(store, "user.") as cache:
        seen = recorded(cache)
        states: list[dict[str, bytes]] = []
        end = cache.on_change(lambda *_: states.append(dict(cache)))
        async with store.transaction() as txn:
            txn.put("user.1", b"b")
            txn.create("user.2", b"c")
        await cache.wait_for(max(txn.versions.values(), key=bytes))
        assert seen == [("user.1", b"a", b"b"), ("user.2", None, b"c")]
        assert states == [{"user.1": b"b", "user.2": b"c"}] * 2  # a commit is seen whole
        end()
        end()  # safe to repeat
        await store.delete("user.2")
        await cache.wait_for(await store.put("user.3", b"d"))
        assert seen[2:] == [("user.2", b"c", None), ("user.3", None, b"d")]
        assert len(states) == 2


async def test_a_failing_callback_hurts_nobody(store: KvStore, caplog: pytest.LogCaptureFixture) -> None:
    async with KvCache(store, "user.") as cache:

        def fail(key: str, old: bytes | None, new: bytes | None) -> None:
            raise ArithmeticError("of the caller")

        cache.on_change(fail)
        seen = recorded(cache)
        await cache.wait_for(await store.put("user.1", b"a"))
        assert seen == [("user.1", None, b"a")]
    assert "a callback failed on the change of 'user.1'" in caplog.text


async def test_indexes_change_with_the_cache(store: KvStore, caplog: pytest.LogCaptureFixture) -> None:
    await store.put_many({"user.1": b"berlin", "user.2": b"paris berlin", "user.3": b"paris"})
    async with KvCache(store, "user.") as cache:

        def cities(key: str, value: bytes) -> list[str]:
            if value == b"fail":
                raise ArithmeticError("of the caller")
            return value.decode().split()

        index = cache.index(cities)
        heard: list[list[str]] = []
        cache.on_change(lambda *_: heard.append(index["rome"]))
        assert (index["berlin"], index["paris"], index["rome"]) == (["user.1", "user.2"], ["user.2", "user.3"], [])
        await store.put("user.1", b"rome")
        await store.delete("user.2")
        await cache.wait_for(await store.put("user.3", b"fail"))
        assert heard[0] == ["user.1"]  # the index is there before the callback
        assert (index["berlin"], index["paris"], index["rome"]) == ([], [], ["user.1"])
        assert index.terms() == ["rome"]
        assert "rome" in index
        assert len(index) == 1
        with pytest.raises(ArithmeticError):
            cache.index(cities)
    assert "the function of an index failed on 'user.3'" in caplog.text


async def test_decoded_values_and_one_that_cannot_be(store: KvStore) -> None:
    await store.put_many({"user.1": b'{"a": 1}', "user.2": b"secret"})

    def decode(entry: KvEntry) -> dict[str, int]:
        return dict(json.loads(entry.value))

    async with KvCache(store, "user.", decode=decode) as cache:
        assert dict(cache) == {"user.1": {"a": 1}}
        assert list(cache.undecodable) == ["user.2"]
        error = cache.undecodable["user.2"]
        assert isinstance(error, DeserializationError)
        assert "key 'user.2': revision" in str(error)
        assert "secret" not in str(error)
        seen = recorded(cache)
        await store.put("user.1", b"broken")
        await cache.wait_for(await store.put("user.2", b'{"b": 2}'))
        assert seen == [("user.1", {"a": 1}, None), ("user.2", None, {"b": 2})]
        assert list(cache.undecodable) == ["user.1"]
        await store.delete("user.1")
        await cache.wait_for(await store.put("user.3", b"{}"))
        assert dict(cache.undecodable) == {}


async def test_the_cursor_is_never_ahead_of_what_can_be_read(store: KvStore) -> None:
    await store.put_many({f"user.{number}": b"x" for number in range(3000)})
    cache = KvCache(store, "user.")
    async with bounded():
        entering = asyncio.create_task(cache.__aenter__())
        while not entering.done():
            assert cache.cursor.is_none or len(cache) == 3000
            await asyncio.sleep(0)
        await entering
    assert len(cache) == 3000
    await cache.aclose()


# The bound.


async def test_a_state_beyond_the_bound_is_refused(store: KvStore) -> None:
    await store.put_many({f"user.{number}": bytes(100) for number in range(20)})
    with pytest.raises(StoreFullError, match="narrower prefix"):
        await KvCache(store, "user.", max_bytes=5000).__aenter__()


async def test_growing_beyond_the_bound_ends_it_and_is_told(store: KvStore) -> None:
    await store.put("user.1", bytes(1))
    async with KvCache(store, "user.", max_bytes=2000) as cache:
        version = await store.put("user.2", bytes(3000))
        with pytest.raises(StoreFullError):
            await cache.wait_for(version)
        assert isinstance(cache.failure, StoreFullError)
        assert cache.stale
        assert list(cache) == ["user.1"]
        assert cache.bytes < 2000


# Trouble.


async def test_a_bucket_made_again_is_read_anew_and_what_vanished_is_told(
    connection: Connection, store: KvStore, bucket: str
) -> None:
    await store.put_many({"user.1": b"a", "user.2": b"b", "user.3": b"c"})
    async with KvCache(store, "user.") as cache:
        seen = recorded(cache)
        index = cache.index(lambda key, value: [value])
        await connection.delete_store(bucket)
        again = await connection.store(bucket)
        await again.put("user.2", b"b")
        last = await again.put("user.4", b"d")

        async def anew() -> bool:
            return dict(cache) == {"user.2": b"b", "user.4": b"d"} and not cache.stale

        await eventually(anew)
        await cache.wait_for(last)
        removed = [change for change in seen if change[2] is None]
        assert sorted(removed) == [("user.1", b"a", None), ("user.3", b"c", None)]
        assert seen[:2] == removed  # before anything new
        assert ("user.4", None, b"d") in seen
        assert index[b"a"] == []
        await cache.wait_for(await again.put("user.5", b"e"))
        assert cache["user.5"] == b"e"


async def test_a_bucket_that_is_missing_for_a_while(connection: Connection, store: KvStore, bucket: str) -> None:
    await store.put("user.1", b"a")
    async with KvCache(store, "user.") as cache:
        await connection.delete_store(bucket)

        async def noticed() -> bool:
            return cache.stale

        await eventually(noticed)
        assert dict(cache) == {"user.1": b"a"}  # the last that was known
        assert cache.staleness < math.inf
        again = await connection.store(bucket)
        await again.put("user.2", b"b")
        await cache.wait_current()
        assert dict(cache) == {"user.2": b"b"}


async def test_a_store_that_cannot_be_opened_is_told_at_once(store: KvStore) -> None:
    door = Door(store, ConnectionFailedError())
    async with bounded():
        with pytest.raises(ConnectionFailedError):
            await KvCache(door, "user.", timeout=60).__aenter__()
    assert door.attempts == 1


async def test_a_cancelled_entry_leaves_nothing_behind(store: KvStore) -> None:
    await store.put_many({f"user.{number}": b"x" for number in range(200)})
    for count in (0, 1, 2, 3, 5, 8, 13, 21, 34):
        before = asyncio.all_tasks()
        cache = KvCache(store, "user.")
        task = await cancelled_after(count, cache.__aenter__())
        if not task.cancelled():
            await cache.aclose()

        async def none_left(before: set[asyncio.Task[Any]] = before) -> bool:
            return not {one for one in asyncio.all_tasks() - before if "follow" in one.get_name()}

        await eventually(none_left)


# Without a server.


@pytest.fixture
def file(tmp_path: Path) -> JsonLinesSnapshot:
    return JsonLinesSnapshot(tmp_path / "cache.jsonl")


async def test_it_starts_from_its_snapshot_and_catches_up(
    store: KvStore, file: JsonLinesSnapshot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await store.put_many({"user.1": b"a", "user.2": b"b"})
    async with KvCache(store, "user.", snapshot=file) as cache:
        await cache.wait_for(await store.put("user.3", b"c"))
    await store.delete("user.1")
    door = Door(store, ConnectionFailedError())
    monkeypatch.setattr(following, "_LONGEST_PAUSE", 0.05)
    async with bounded(), KvCache(door, "user.", snapshot=file) as cache:
        assert cache.stale
        assert cache.staleness < 60
        assert dict(cache) == {"user.1": b"a", "user.2": b"b", "user.3": b"c"}
        seen = recorded(cache)
        door.error = None
        await cache.wait_current()
        assert dict(cache) == {"user.2": b"b", "user.3": b"c"}
        assert seen == [("user.1", b"a", None)]
        await cache.wait_for(await store.put("user.4", b"d"))
    assert "starting from a snapshot" in caplog.text


async def test_from_a_snapshot_only_what_is_new_is_read(store: KvStore, file: JsonLinesSnapshot) -> None:
    await store.put_many({"user.1": b"a", "user.2": b"b"})
    async with KvCache(store, "user.", snapshot=file):
        pass
    saved = file.load()
    assert saved is not None
    assert saved.cursor.revision is not None
    await store.put("user.2", b"c")
    async with KvCache(store, "user.", snapshot=file) as cache:
        assert dict(cache) == {"user.1": b"a", "user.2": b"c"}
        assert not cache.stale


async def test_a_snapshot_whose_cursor_has_expired(
    connection: Connection, store: KvStore, bucket: str, file: JsonLinesSnapshot
) -> None:
    await store.put_many({"user.1": b"a", "user.2": b"b"})
    async with KvCache(store, "user.", snapshot=file):
        pass
    await connection.delete_store(bucket)
    again = await connection.store(bucket)
    await again.put("user.2", b"c")
    async with KvCache(again, "user.", snapshot=file) as cache:
        await cache.wait_current()
        assert dict(cache) == {"user.2": b"c"}


async def test_a_snapshot_is_not_taken_where_it_is_damaged_or_of_something_else(
    store: KvStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await store.put("user.1", b"a")
    path = tmp_path / "cache.jsonl"
    file = JsonLinesSnapshot(path)
    async with KvCache(store, "user.", snapshot=file):
        pass
    with pytest.raises(SnapshotError, match="give each its own file"):
        await KvCache(store, "order.", snapshot=file).__aenter__()
    path.write_bytes(path.read_bytes()[:-20])
    async with KvCache(store, "user.", snapshot=file) as cache:
        assert dict(cache) == {"user.1": b"a"}
    assert "starting without a snapshot" in caplog.text
    assert file.load() is not None  # saved anew


async def test_a_snapshot_that_cannot_be_saved_stops_nobody(
    store: KvStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    file = JsonLinesSnapshot(tmp_path / "file" / "cache.jsonl")
    # It cannot even be read there: that is told where it matters, at the start.
    with pytest.raises(SnapshotError):
        await KvCache(store, "user.", snapshot=file).__aenter__()
    folder = tmp_path / "folder"
    await store.put("user.1", b"a")
    async with KvCache(store, "user.", snapshot=JsonLinesSnapshot(folder / "cache.jsonl")) as cache:
        await cache.wait_for(await store.put("user.2", b"b"))

        async def saved() -> bool:
            return (folder / "cache.jsonl").exists()

        await eventually(saved)
        (folder / "cache.jsonl").unlink()
        folder.rmdir()
        folder.write_text("no folder any more")
        await cache.wait_for(await store.put("user.3", b"c"))
    assert "the snapshot was not saved" in caplog.text


# On a server that fails.


@asynccontextmanager
async def quick_connection(url: str) -> Any:
    options: dict[str, Any] = {"heartbeat": 0.2, "ping_interval": 0.3, "op_timeout": 3.0, "connect_timeout": 1.0}
    async with NatsConnection(NatsConnectionConfig(url=SecretStr(url), **options)) as connection:
        yield connection


async def test_it_survives_a_server_that_is_killed(nats_server: NatsServer) -> None:
    async with quick_connection(nats_server.url) as connection:
        store = await connection.store(StoreConfig(name=f"test-{secrets.token_hex(4)}"))
        await store.put("user.1", b"a")
        async with KvCache(store, "user.") as cache:
            seen = recorded(cache)
            await nats_server.kill()

            async def silent() -> bool:
                return cache.staleness > 0.5

            await eventually(silent)
            assert cache["user.1"] == b"a"
            await nats_server.start()

            async def healthy() -> bool:
                return bool(connection.is_healthy())

            await eventually(healthy)
            await cache.wait_for(await store.put("user.2", b"b"))
            assert dict(cache) == {"user.1": b"a", "user.2": b"b"}
            assert seen == [("user.2", None, b"b")]  # and nothing twice


async def test_it_starts_while_no_server_runs(nats_server: NatsServer, file: JsonLinesSnapshot) -> None:
    name = f"test-{secrets.token_hex(4)}"
    async with quick_connection(nats_server.url) as connection:
        store = await connection.store(name)
        await store.put("user.1", b"a")
        async with KvCache(store, "user.", snapshot=file):
            pass
    await nats_server.stop()
    options: dict[str, Any] = {"op_timeout": 3.0, "connect_timeout": 1.0}
    connection = NatsConnection(NatsConnectionConfig(url=SecretStr(nats_server.url), **options))

    async def open_store() -> KvWatcher:
        await connection.connect()
        return await connection.store(name)

    try:
        async with KvCache(open_store, "user.", snapshot=file) as cache:
            assert cache.stale
            assert dict(cache) == {"user.1": b"a"}
            await nats_server.start()
            await cache.wait_current()
            store = await connection.store(name)
            await cache.wait_for(await store.put("user.2", b"b"))
            assert dict(cache) == {"user.1": b"a", "user.2": b"b"}
    finally:
        await connection.shutdown()


async def test_without_a_snapshot_a_missing_bucket_is_an_error(connection: Connection, store: KvStore) -> None:
    await connection.delete_store(store.name)
    with pytest.raises(StoreNotFoundError):
        await KvCache(store, "user.").__aenter__()
