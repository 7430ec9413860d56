"""TypedStore on memory and on a real server."""

from __future__ import annotations

import inspect
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from slipstream.cache import KvCache
from slipstream.codecs import AesGcmCodec, Codec, EscapingKeyCodec, JsonCodec, MessagePackCodec, ZstdCodec
from slipstream.errors import (
    AlreadyExistsError,
    DeserializationError,
    FencedError,
    InvalidKeyError,
    RevisionMismatchError,
    SerializationError,
)
from slipstream.interfaces import KvReader, KvStore, KvWatcher, KvWriter, Transaction, Watch
from slipstream.model import KvEntry, KvUpdate, Operation, StoreConfig
from slipstream.testing._waiting import bounded
from slipstream.typed import (
    TypedEntry,
    TypedReader,
    TypedStore,
    TypedTransaction,
    TypedUpdate,
    TypedWatch,
    TypedWatcher,
    TypedWriter,
)


class User(BaseModel):
    name: str
    age: int = 0


ANNA, BERTA = User(name="Anna", age=30), User(name="Berta")
SEALED = MessagePackCodec() | ZstdCodec() | AesGcmCodec({"k": bytes(32)}, current="k")


@pytest.fixture(params=[JsonCodec(), SEALED], ids=["json", "sealed"])
def users(store: KvStore, request: pytest.FixtureRequest) -> TypedStore[User]:
    return TypedStore(store, User, codec=request.param)


@pytest.mark.parametrize(
    ("typed", "interface"),
    [
        (TypedReader, KvReader),
        (TypedWriter, KvWriter),
        (TypedWatcher, KvWatcher),
        (TypedStore, KvStore),
        (TypedWatch, Watch),
        (TypedTransaction, Transaction),
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_method_of_the_interface_is_there_and_called_alike(typed: type, interface: type) -> None:
    for name in interface.__abstractmethods__:  # type: ignore[attr-defined]
        member, wanted = inspect.getattr_static(typed, name), inspect.getattr_static(interface, name)
        assert type(member) is type(wanted), name
        if inspect.isfunction(wanted):
            assert _call(member) == _call(wanted), name


def _call(function: Any) -> list[tuple[str, Any, Any]]:
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


async def test_reading_and_writing(users: TypedStore[User]) -> None:
    version = await users.put("user.1", ANNA)
    assert await users.get("user.1", min_version=version) == TypedEntry(
        key="user.1", value=ANNA, version=version, created=(await entry_of(users, "user.1")).created
    )
    assert await users.get("user.2") is None
    await users.create("user.2", BERTA)
    with pytest.raises(AlreadyExistsError):
        await users.create("user.2", ANNA)
    older = BERTA.model_copy(update={"age": 41})
    last = await users.update("user.2", older, (await entry_of(users, "user.2")).version)
    with pytest.raises(RevisionMismatchError):
        await users.update("user.2", ANNA, version)
    assert [(one.key, one.value) for one in await users.scan("user.")] == [("user.1", ANNA), ("user.2", older)]
    assert {key: one.value for key, one in (await users.get_many(["user.2", "user.3"])).items()} == {"user.2": older}
    assert await users.keys() == ["user.1", "user.2"]
    found = await users.revision("user.2", last)
    assert found is not None
    assert found.value == older
    assert [update.value for update in await users.history("user.2")] == [older]
    assert await users.delete_with_version("user.2", last)
    assert await users.delete("user.1")
    await users.purge("user.1")
    assert await users.keys() == []
    assert await users.purge_deletes() == 2
    assert [len(users.name), (await users.status()).keys] == [len(users.raw.name), 0]


async def entry_of(users: TypedStore[User], key: str) -> KvEntry:
    entry = await users.entry(key)
    assert entry is not None
    return entry


async def test_many_at_once_and_a_scan_in_revision_order(users: TypedStore[User]) -> None:
    await users.put_many({f"user.{number:03}": User(name="x", age=number) for number in range(200)})
    await users.put_many([("user.000", ANNA)])
    async with aclosing(users.iter_scan("user.")) as entries:
        ages = [entry.value.age async for entry in entries]
    assert ages == [*range(1, 200), 30]
    async with aclosing(users.iter_scan("user.")) as entries:
        assert (await anext(entries)).key == "user.001"  # and left early


async def test_a_ttl_is_handed_on(users: TypedStore[User]) -> None:
    version = await users.put("user.1", ANNA, ttl=timedelta(minutes=1))
    await users.touch("user.1", version, ttl=60)
    (update,) = await users.history("user.1")
    assert update.expires is not None
    with pytest.raises(ValueError, match="at least one second"):
        await users.put("user.1", ANNA, ttl=0.5)


async def test_watching(users: TypedStore[User]) -> None:
    await users.put("user.1", ANNA)
    async with bounded(), users.watch("user.") as watch:
        first = await anext(watch)
        assert (first.operation, first.key, first.value) == (Operation.PUT, "user.1", ANNA)
        entry = first.entry
        assert entry is not None
        assert (entry.value, entry.revision) == (ANNA, first.revision)
        await watch.wait_hydrated()
        assert watch.hydrated
        saved = watch.cursor
        await users.delete("user.1")
        match await anext(watch):
            case TypedUpdate(Operation.DELETE, key, None) as update:
                assert (key, update.entry) == ("user.1", None)
            case other:
                raise AssertionError(other)
        assert watch.statistics().delivered == 2
    await users.put("user.2", BERTA)
    async with bounded(), users.watch(["user."], cursor=saved) as watch:
        async for batch in watch.batches(max_wait=1):
            assert [(one.operation, one.value) for one in batch] == [(Operation.DELETE, None), (Operation.PUT, BERTA)]
            break


async def test_transactions(users: TypedStore[User]) -> None:
    version = await users.put("user.1", ANNA)
    async with users.transaction() as txn:
        seen = await txn.get("user.1")
        assert seen is not None
        assert seen.value == ANNA
        txn.update("user.1", BERTA, version)
        txn.create("user.2", ANNA)
        txn.put("user.3", ANNA)
        txn.require("user.4", None)
        txn.require_unchanged("user.", version)
    assert set(txn.versions) == {"user.1", "user.2", "user.3"}
    async with users.transaction() as txn:
        txn.delete("user.2")
        txn.purge("user.3")
    assert await users.keys() == ["user.1"]

    async def older(txn: TypedTransaction[User]) -> int:
        entry = await txn.get("user.1")
        assert entry is not None
        txn.put("user.1", entry.value.model_copy(update={"age": entry.value.age + 1}))
        return entry.value.age + 1

    assert await users.atomically(older) == 1


async def test_two_models_in_one_transaction(store: KvStore) -> None:
    users, counts = TypedStore(store, User, key_codec=EscapingKeyCodec("/")), TypedStore(store, int)
    async with store.transaction() as txn:
        of_users, of_counts = users.within(txn), counts.within(txn)
        of_users.put("user/ä", ANNA)
        of_counts.put("count", 1)
    assert set(of_users.versions) == {"user/ä"}
    assert set(of_counts.versions) == {"count"}


async def test_a_fenced_writer(users: TypedStore[User]) -> None:
    fenced = users.fenced("lock", await users.put("lock", ANNA))
    await fenced.put("user.1", ANNA)
    await users.put("lock", BERTA)
    with pytest.raises(FencedError):
        await fenced.put("user.1", BERTA)


async def test_roles(users: TypedStore[User]) -> None:
    await users.writer().put("user.1", ANNA)
    entry = await users.reader().get("user.1")
    assert entry is not None
    async with bounded(), users.watcher().watch() as watch:
        assert (await anext(watch)).value == ANNA
    assert not hasattr(users.reader(), "put")
    assert not hasattr(users.writer(), "get")


async def test_what_is_no_model_is_not_sent(users: TypedStore[User], store: KvStore) -> None:
    wrong: Any = {"name": "Anna"}
    with pytest.raises(SerializationError, match=r"key 'user\.1'"):
        await users.put("user.1", wrong)
    with pytest.raises(SerializationError):
        await users.put_many([("user.1", ANNA), ("user.2", wrong)])
    async with users.transaction() as txn:
        with pytest.raises(SerializationError):
            txn.put("user.1", wrong)
    assert await store.keys() == []


# Keys.


async def test_keys_of_any_text(store: KvStore) -> None:
    users = TypedStore(store, User, key_codec=EscapingKeyCodec("/"))
    keys = ["users/zoë", "users/", "users/a.b", "users/A b", "usersx", "users/😀"]
    for key in keys:
        await users.put(key, User(name=key))
    under = sorted(key for key in keys if key.startswith("users/"))
    assert await users.keys("users/") == under
    assert [entry.value.name for entry in await users.scan("users/")] == under
    assert sorted(await users.get_many(keys)) == sorted(keys)
    async with bounded(), users.watch("users/a") as watch:
        assert (await anext(watch)).key == "users/a.b"
    with pytest.raises(InvalidKeyError):
        await TypedStore(store, User).put("users/zoë", ANNA)


# Poison.


@pytest.fixture
async def poisoned(store: KvStore) -> KvStore:
    await TypedStore(store, User).put("user.1", ANNA)
    await store.put("user.2", b'{"name": "hunter2", "age": "hunter2"}')
    await TypedStore(store, User).put("user.3", BERTA)
    return store


async def test_one_value_that_does_not_decode(poisoned: KvStore) -> None:
    for poison in ("raise", "skip"):
        users = TypedStore(poisoned, User, poison=poison)  # type: ignore[arg-type]
        with pytest.raises(DeserializationError) as caught:
            await users.get("user.2")
        text = str(caught.value)
        assert f"store {poisoned.name!r}, key 'user.2': revision 2: no valid User: age: " in text
        assert "hunter2" not in text
        raw = await users.entry("user.2")
        assert raw is not None
        assert raw.value == b'{"name": "hunter2", "age": "hunter2"}'


async def test_the_policy_to_raise(poisoned: KvStore) -> None:
    users = TypedStore(poisoned, User)
    for call in (users.scan("user."), users.get_many(["user.2"]), users.history("user.2")):
        with pytest.raises(DeserializationError):
            await call
    async with bounded(), users.watch("user.") as watch:
        assert (await anext(watch)).value == ANNA
        with pytest.raises(DeserializationError, match="revision 2"):
            await anext(watch)
        assert (await anext(watch)).value == BERTA  # it goes on after the error
        await watch.wait_hydrated()


async def test_the_policy_to_skip(poisoned: KvStore, caplog: pytest.LogCaptureFixture) -> None:
    users = TypedStore(poisoned, User, poison="skip")
    assert [entry.key for entry in await users.scan()] == ["user.1", "user.3"]
    assert list(await users.get_many(["user.1", "user.2"])) == ["user.1"]
    assert await users.history("user.2") == []
    async with aclosing(users.iter_scan()) as entries:
        assert [entry.key async for entry in entries] == ["user.1", "user.3"]
    async with bounded(), users.watch() as watch:
        assert [(await anext(watch)).key, (await anext(watch)).key] == ["user.1", "user.3"]
    assert "skipped: store" in caplog.text
    assert "hunter2" not in caplog.text


async def test_the_policy_to_call(poisoned: KvStore) -> None:
    called: list[tuple[DeserializationError, KvEntry]] = []
    users = TypedStore(poisoned, User, poison=lambda error, entry: called.append((error, entry)))
    assert [entry.key for entry in await users.scan()] == ["user.1", "user.3"]
    async with bounded(), users.watch() as watch:
        assert [(await anext(watch)).key, (await anext(watch)).key] == ["user.1", "user.3"]
    assert [(error.key, entry.key, entry.value[:8]) for error, entry in called] == [
        ("user.2", "user.2", b'{"name":')
    ] * 2


async def test_a_key_of_another_codec_is_poison_too(store: KvStore) -> None:
    await store.put("a-b", b'{"name": "x"}')
    users = TypedStore(store, User, key_codec=EscapingKeyCodec(), poison="skip")
    assert await users.keys() == []
    assert await users.scan() == []
    with pytest.raises(DeserializationError, match="not written by this key codec"):
        await TypedStore(store, User, key_codec=EscapingKeyCodec()).keys()


def test_a_policy_that_there_is_not(store: KvStore) -> None:
    with pytest.raises(ValueError, match="'raise', 'skip' or a function"):
        TypedStore(store, User, poison="ignore")  # type: ignore[arg-type]


# Together with others.


async def test_keys_rotate(connection: Any, bucket: str) -> None:
    store = await connection.store(StoreConfig(name=bucket, max_history=2))
    secrets = {"2025": bytes(16), "2026": bytes(32)}

    def typed(current: str, *known: str) -> TypedStore[User]:
        codec: Codec = JsonCodec() | AesGcmCodec({name: secrets[name] for name in known}, current=current)
        return TypedStore(store, User, codec=codec)

    await typed("2025", "2025").put("user.1", ANNA)
    both = typed("2026", "2025", "2026")
    entry = await both.get("user.1")
    assert entry is not None
    await both.update("user.1", entry.value, entry.version)
    again = await typed("2026", "2026").get("user.1")
    assert again is not None
    assert again.value == ANNA
    assert ANNA.name.encode() not in (await entry_of(both, "user.1")).value


async def test_a_cache_of_models(users: TypedStore[User]) -> None:
    await users.put("user.1", ANNA)
    async with KvCache(users.raw, "user.", decode=users.decode) as cache:
        assert cache["user.1"].age == 30
        await users.raw.put("user.1", b"broken")
        await cache.wait_for(await users.put("user.2", BERTA))
        assert dict(cache) == {"user.2": BERTA}
        assert "key 'user.1': revision 2" in str(cache.undecodable["user.1"])


def test_an_update_says_what_a_stored_one_does() -> None:
    assert set(TypedUpdate.__dataclass_fields__) == set(KvUpdate.__dataclass_fields__)
    assert set(TypedEntry.__dataclass_fields__) == set(KvEntry.__dataclass_fields__)
    assert TypedUpdate.__match_args__ == KvUpdate.__match_args__
