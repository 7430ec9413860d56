"""How caches, models and live configurations look to a type checker. Never executed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import assert_type

from pydantic import BaseModel

from slipstream import (
    ConnectionEvent,
    JsonLinesSnapshot,
    KvCache,
    KvEntry,
    KvStore,
    LiveConfig,
    TypedEntry,
    TypedStore,
    TypedUpdate,
    VersionToken,
    sync,
)
from slipstream.cache import Index
from slipstream.codecs import AesGcmCodec, Codec, JsonCodec, ZstdCodec
from slipstream.config import ConfigRevision, RejectedRevision
from slipstream.typed import TypedReader, TypedTransaction, TypedWatch, TypedWriter


class User(BaseModel):
    name: str


class Settings(BaseModel):
    port: int = 1


async def caching(store: KvStore, version: VersionToken) -> None:
    async with KvCache(store, "user.", snapshot=JsonLinesSnapshot("file"), max_bytes=1) as cache:
        assert_type(cache, KvCache[bytes])
        assert_type(cache["a"], bytes)
        assert_type(cache.get("a"), bytes | None)
        assert_type(cache.get("a", b""), bytes)
        assert_type(cache.entry("a"), KvEntry | None)
        assert_type(cache.stale, bool)
        assert_type(cache.staleness, float)
        assert_type(await cache.wait_for(version, timeout=1), None)
        assert_type(cache.index(lambda key, value: [len(value)]), Index[bytes, int])
        assert_type(cache.on_change(lambda key, old, new: None), Callable[[], None])
        cache["a"] = b""  # type: ignore[index]
    users = TypedStore(store, User)
    async with KvCache(store, ["user."], decode=users.decode) as models:
        assert_type(models, KvCache[User])
        assert_type(models["a"].name, str)
        models.index(lambda key, user: [user.age])  # type: ignore[attr-defined]

    async def open_store() -> KvStore:
        return store

    assert_type(KvCache(open_store), KvCache[bytes])


async def models(store: KvStore, version: VersionToken) -> None:
    codec: Codec = JsonCodec() | ZstdCodec() | AesGcmCodec({}, current="")
    users = TypedStore(store, User, codec=codec, poison="skip", version=2, migrations={1: lambda value: value})
    assert_type(users, TypedStore[User])
    assert_type(await users.get("a"), TypedEntry[User] | None)
    assert_type(await users.scan(), list[TypedEntry[User]])
    assert_type(await users.get_many(["a"]), dict[str, TypedEntry[User]])
    assert_type(users.iter_scan(), AsyncIterator[TypedEntry[User]])
    assert_type(await users.history("a"), list[TypedUpdate[User]])
    assert_type(await users.put("a", User(name="x")), VersionToken)
    assert_type(await users.put_many({"a": User(name="x")}), list[VersionToken])
    assert_type(users.transaction(), TypedTransaction[User])
    assert_type(users.fenced("a", version), TypedWriter[User])
    assert_type(users.reader(), TypedReader[User])
    await users.put("a", b"bytes")  # type: ignore[arg-type]
    await users.reader().put("a", User(name="x"))  # type: ignore[attr-defined]
    TypedStore(store, User, poison="ignore")  # type: ignore[arg-type]

    async def count(txn: TypedTransaction[User]) -> int:
        entry = await txn.get("a")
        return 0 if entry is None else len(entry.value.name)

    assert_type(await users.atomically(count), int)
    async with users.watch("a") as watch:
        assert_type(watch, TypedWatch[User])
        async for update in watch:
            assert_type(update, TypedUpdate[User])
            assert_type(update.value, User | None)
        async for batch in watch.batches():
            assert_type(batch, list[TypedUpdate[User]])


async def following(store: KvStore) -> None:
    async with LiveConfig(store, "app.", Settings) as config:
        assert_type(config, LiveConfig[Settings])
        assert_type(config.current, Settings)
        assert_type(config.history, tuple[ConfigRevision[Settings], ...])
        assert_type(config.rejected, RejectedRevision | None)
        assert_type(config.on_change("port", lambda old, new: None), Callable[[], None])
        assert_type(await config.rollback(1), VersionToken)

        @config.on_change("port")
        def moved(old: int, new: int) -> None: ...

        assert_type(moved(1, 2), None)
    LiveConfig(store, "app.", int)  # type: ignore[type-var]


def without_asyncio(version: VersionToken) -> None:
    with sync.connect("memory://", op_timeout=1) as connection:
        assert_type(connection, sync.SyncConnection)
        assert_type(connection.events(), Iterator[ConnectionEvent])
        store = connection.store("a")
        assert_type(store.put("a", b"1"), VersionToken)
        assert_type(store.get("a"), KvEntry | None)

        def count(txn: sync.SyncTransaction) -> int:
            return 1

        assert_type(store.atomically(count), int)
    sync.connect(timeout=1)  # type: ignore[call-arg]
