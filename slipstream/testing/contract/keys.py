"""Which keys, prefixes and bucket names are legal, and that an illegal one changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from slipstream.errors import InvalidKeyError
from slipstream.interfaces import Connection, KvStore
from slipstream.keys import MAX_KEY_BYTES
from slipstream.model import VersionToken
from slipstream.testing._waiting import bounded, collect
from slipstream.testing.contract.base import BackendContract

LEGAL_KEYS = [
    "a",
    "0",
    "-",
    "_",
    "/",
    "=",
    "node.eu-1",
    "a.b.c.d.e",
    "A-Z_0/9=",
    "/etc/hosts",
    "x" * MAX_KEY_BYTES,
    ".".join("x" * (MAX_KEY_BYTES // 2)) + "y",
]

ILLEGAL_KEYS: list[Any] = [
    "",
    ".",
    "..",
    ".a",
    "a.",
    "a..b",
    "a b",
    " ",
    " a",
    "a ",
    "a\n",
    "\na",
    "a\r\nPUB b 1",
    "a\tb",
    "a\x00",
    "*",
    "a.*",
    "a*",
    ">",
    "a.>",
    "a:b",
    "a,b",
    "a\\b",
    "$KV.a",
    "\u00e9",
    "\u043a\u043b\u044e\u0447",
    "\uff11",  # a digit to `str.isdigit` and to a careless `\d`
    "a\u00a0b",
    "\U0001f511",
    "x" * (MAX_KEY_BYTES + 1),
    None,
    7,
    b"a",
    ["a"],
]

LEGAL_PREFIXES = ["", "a", "a.", "a.b", "a.b.", "a/b-_=", "x" * MAX_KEY_BYTES]

ILLEGAL_PREFIXES: list[Any] = [
    ".",
    ".a",
    "a..",
    "a..b",
    "*",
    "a.*",
    "a.*.b",
    ">",
    "a.>",
    "a b",
    "a\n",
    "a.\n",
    "\u00e9",
    "x" * (MAX_KEY_BYTES + 1),
    None,
    7,
    b"a",
]

ILLEGAL_BUCKETS = ["", "a.b", "a b", "a/b", "a=b", "a\n", "*", ">", "\u00e9", "x" * 253]

KeyOperation = Callable[[KvStore, Any], Awaitable[object]]

KEY_OPERATIONS: dict[str, KeyOperation] = {
    "get": lambda store, key: store.get(key),
    "entry": lambda store, key: store.entry(key),
    "get_many": lambda store, key: store.get_many(["fine", key]),
    "history": lambda store, key: store.history(key),
    "revision": lambda store, key: store.revision(key, VersionToken.from_u64(1)),
    "put": lambda store, key: store.put(key, b"value"),
    "create": lambda store, key: store.create(key, b"value"),
    "update": lambda store, key: store.update(key, b"value", VersionToken.from_u64(1)),
    "delete": lambda store, key: store.delete(key),
    "delete_with_version": lambda store, key: store.delete_with_version(key, VersionToken.from_u64(1)),
    "purge": lambda store, key: store.purge(key),
    "purge expected": lambda store, key: store.purge(key, expected=VersionToken.from_u64(1)),
    "put_many": lambda store, key: store.put_many([("fine", b"value"), (key, b"value")]),
}


def _shortened(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 24 else f"{text[:20]}...({len(text) - 2})"


async def _is_refused(operation: KeyOperation, store: KvStore, key: Any) -> bool:
    try:
        await operation(store, key)
    except InvalidKeyError:
        return True
    return False


class KeyContract(BackendContract):
    """Names are checked before anything is sent."""

    @pytest.mark.parametrize("key", LEGAL_KEYS, ids=_shortened)
    async def test_a_legal_key_is_written_read_and_listed(self, store: KvStore, key: str) -> None:
        version = await store.put(key, b"value")
        entry = await store.get(key)
        assert entry is not None
        assert (entry.key, entry.value, entry.version) == (key, b"value", version)
        assert await store.keys() == [key]

    @pytest.mark.parametrize("key", LEGAL_KEYS, ids=_shortened)
    async def test_a_legal_key_can_be_watched_and_removed(self, store: KvStore, key: str) -> None:
        await store.delete_with_version(key, await store.create(key, b"value"))
        await store.purge(key)
        assert [update.key for update in await store.history(key)] == [key]
        assert await store.get_many([key]) == {}

    @pytest.mark.parametrize("operation", list(KEY_OPERATIONS.values()), ids=list(KEY_OPERATIONS))
    async def test_an_illegal_key_is_refused_and_nothing_is_written(
        self, store: KvStore, operation: KeyOperation
    ) -> None:
        accepted = [key for key in ILLEGAL_KEYS if not await _is_refused(operation, store, key)]
        assert accepted == []
        status = await store.status()
        assert (status.last_revision, status.keys) == (0, 0)

    async def test_an_illegal_key_in_a_mapping_is_refused_and_nothing_is_written(self, store: KvStore) -> None:
        with pytest.raises(InvalidKeyError):
            await store.put_many({"fine": b"1", "not fine": b"2", "fine-too": b"3"})
        assert (await store.status()).last_revision == 0

    async def test_an_invalid_key_error_is_a_value_error_that_names_store_and_key(self, store: KvStore) -> None:
        with pytest.raises(ValueError, match="not fine") as caught:
            await store.put("not fine", b"value")
        assert isinstance(caught.value, InvalidKeyError)
        assert (caught.value.store, caught.value.key) == (store.name, "not fine")
        assert not caught.value.outcome_unknown
        assert not caught.value.retryable

    @pytest.mark.parametrize("prefix", LEGAL_PREFIXES, ids=_shortened)
    async def test_a_legal_prefix_can_be_listed_scanned_and_watched(self, store: KvStore, prefix: str) -> None:
        await store.put("unrelated", b"value")
        expected = ["unrelated"] if not prefix else []
        assert await store.keys(prefix) == expected
        assert [entry.key for entry in await store.scan(prefix)] == expected
        assert [entry.key async for entry in store.iter_scan(prefix)] == expected
        async with store.watch(prefix) as watch:
            assert [update.key for update in await collect(watch, len(expected))] == expected
            async with bounded():
                await watch.wait_hydrated()

    @pytest.mark.parametrize("prefix", ILLEGAL_PREFIXES, ids=_shortened)
    async def test_an_illegal_prefix_is_refused_by_every_listing(self, store: KvStore, prefix: Any) -> None:
        with pytest.raises(InvalidKeyError):
            await store.keys(prefix)
        with pytest.raises(InvalidKeyError):
            await store.scan(prefix)
        with pytest.raises(InvalidKeyError):
            _ = [entry async for entry in store.iter_scan(prefix)]

    @pytest.mark.parametrize("prefix", ILLEGAL_PREFIXES, ids=_shortened)
    async def test_watch_itself_refuses_an_illegal_prefix(self, store: KvStore, prefix: Any) -> None:
        with pytest.raises(InvalidKeyError):
            store.watch([prefix])
        with pytest.raises(InvalidKeyError):
            store.watch(["fine", prefix])
        if isinstance(prefix, str):
            with pytest.raises(InvalidKeyError):
                store.watch(prefix)

    @pytest.mark.parametrize("suffix", ["-A", "_z", "0", "-_"])
    async def test_letters_digits_dash_and_underscore_name_a_bucket(
        self, connection: Connection, bucket: str, suffix: str
    ) -> None:
        name = bucket + suffix
        assert (await connection.store(name)).name == name
        assert name in await connection.stores()

    @pytest.mark.parametrize("name", ILLEGAL_BUCKETS, ids=_shortened)
    async def test_an_illegal_bucket_name_is_refused_and_nothing_is_made(
        self, connection: Connection, name: str
    ) -> None:
        with pytest.raises(ValueError):
            await connection.store(name)
        assert name not in await connection.stores()

    @pytest.mark.parametrize("name", ILLEGAL_BUCKETS, ids=_shortened)
    async def test_deleting_an_illegal_bucket_name_is_an_invalid_key(self, connection: Connection, name: str) -> None:
        with pytest.raises(InvalidKeyError):
            await connection.delete_store(name)
