"""Listing a prefix: what is in it, in which order, and that nothing that lives is missed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import pytest

from slipstream.interfaces import Connection, KvStore
from slipstream.model import KvEntry, StoreConfig
from slipstream.testing._waiting import background, bounded
from slipstream.testing.contract.base import BackendContract

KEYS = ["node", "node.a", "node.b.c", "nodes.b", "nod", "other.node", "z"]

BY_PREFIX = {
    "": sorted(KEYS),
    "n": ["nod", "node", "node.a", "node.b.c", "nodes.b"],
    "node": ["node", "node.a", "node.b.c", "nodes.b"],
    "node.": ["node.a", "node.b.c"],
    "node.b": ["node.b.c"],
    "node.b.c": ["node.b.c"],
    "node.b.c.": [],
    "nodes.": ["nodes.b"],
    "absent": [],
    "absent.": [],
}
"""What each prefix matches among `KEYS`."""

# More than the 1000 messages that a consumer may leave unacknowledged by default.
_MANY = 2500

_STEADY = [f"steady.{number}" for number in range(60)]
_BUSY = [f"busy.{number}" for number in range(60)]
_FLEETING = [f"fleeting.{number}" for number in range(60)]
_SCANS = 15


class _Writers:
    """Overwrite the busy keys, make and remove the fleeting ones, and know which values were current when."""

    def __init__(self, store: KvStore) -> None:
        self._store = store
        self.round = 0

    async def start(self) -> None:
        await self._store.put_many(dict.fromkeys(_STEADY, b"steady"))
        await self._store.put_many(dict.fromkeys(_BUSY, b"0"))

    async def run(self) -> None:
        removals = (self._store.delete, self._store.purge)
        while True:
            self.round += 1
            for number, (busy, fleeting) in enumerate(zip(_BUSY, _FLEETING, strict=True)):
                await self._store.put(busy, b"%d" % self.round)
                await self._store.put(fleeting, b"-")
                await removals[(number + self.round) % 2](fleeting)
                await asyncio.sleep(0)


class ScanContract(BackendContract):
    """`keys`, `scan` and `iter_scan`."""

    @pytest.mark.parametrize(("prefix", "expected"), BY_PREFIX.items())
    async def test_a_prefix_is_a_string_prefix(self, store: KvStore, prefix: str, expected: list[str]) -> None:
        await store.put_many([(key, key.encode()) for key in reversed(KEYS)])
        assert await store.keys(prefix) == expected
        entries = await store.scan(prefix)
        assert [(entry.key, entry.value) for entry in entries] == [(key, key.encode()) for key in expected]
        assert sorted([entry.key async for entry in store.iter_scan(prefix)]) == expected

    async def test_an_empty_bucket_lists_nothing(self, store: KvStore) -> None:
        assert await store.keys() == []
        assert await store.scan() == []
        assert [entry async for entry in store.iter_scan()] == []

    async def test_scan_returns_what_get_returns(self, store: KvStore) -> None:
        versions = await store.put_many({"b": b"1", "a": b"2", "c": b"3"})
        entries = await store.scan()
        assert entries == [await store.get(key) for key in ("a", "b", "c")]
        assert [entry.version for entry in entries] == [versions[1], versions[0], versions[2]]

    async def test_iter_scan_is_in_revision_order(self, store: KvStore) -> None:
        for key in ("c", "a", "b", "d", "a"):
            await store.put(key, b"value")
        assert [entry.key async for entry in store.iter_scan()] == ["c", "b", "d", "a"]

    async def test_more_keys_than_a_consumer_leaves_unacknowledged_all_arrive(self, store: KvStore) -> None:
        expected = sorted(f"k.{number}" for number in range(_MANY))
        await store.put_many([(key, b"value") for key in expected])
        assert await store.keys() == expected
        assert [entry.key for entry in await store.scan("k.")] == expected
        seen = [entry.key async for entry in store.iter_scan()]
        assert sorted(seen) == expected

    async def test_a_key_with_history_is_listed_once_with_its_last_value(
        self, connection: Connection, bucket: str
    ) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=5))
        for value in (b"1", b"2", b"3"):
            await store.put_many({"a": value, "b": value})
        await store.delete("b")
        assert [(entry.key, entry.value) for entry in await store.scan()] == [("a", b"3")]
        assert await store.keys() == ["a"]
        assert [(entry.key, entry.value) async for entry in store.iter_scan()] == [("a", b"3")]

    async def test_what_is_removed_is_no_longer_listed(self, store: KvStore) -> None:
        await store.put_many(dict.fromkeys(("a", "b", "c", "d"), b"value"))
        await store.delete("a")
        await store.purge("b")
        await store.put("c", b"")
        assert await store.keys() == ["d"]

    async def test_a_scan_under_writers_holds_every_living_key_once(self, store: KvStore) -> None:
        writers = _Writers(store)
        await writers.start()
        async with background(writers.run()):
            for _ in range(_SCANS):
                oldest = writers.round - 1
                async with bounded():
                    entries = await store.scan()
                keys = [entry.key for entry in entries]
                assert keys == sorted(set(keys))
                assert set(_STEADY) | set(_BUSY) <= set(keys)
                # A value was current during the scan: not older than the round that was complete before it.
                values = {entry.key: entry.value for entry in entries}
                assert all(oldest <= int(values[key]) <= writers.round for key in _BUSY)

    async def test_a_listing_of_keys_under_writers_holds_every_living_key_once(self, store: KvStore) -> None:
        writers = _Writers(store)
        await writers.start()
        async with background(writers.run()):
            for _ in range(_SCANS):
                async with bounded():
                    keys = await store.keys()
                assert keys == sorted(set(keys))
                assert set(_STEADY) | set(_BUSY) <= set(keys)

    async def test_iter_scan_under_writers_yields_every_living_key_and_newer_values_only(self, store: KvStore) -> None:
        writers = _Writers(store)
        await writers.start()
        async with background(writers.run()):
            for _ in range(_SCANS):
                async with bounded():
                    entries = [entry async for entry in store.iter_scan()]
                revisions = [entry.revision or 0 for entry in entries]
                assert revisions == sorted(set(revisions))
                seen = Counter(entry.key for entry in entries)
                assert set(_STEADY) | set(_BUSY) <= set(seen)
                # What nobody overwrites cannot come again.
                assert all(seen[key] == 1 for key in _STEADY)

    async def test_iter_scan_can_be_left_early(self, store: KvStore) -> None:
        await store.put_many([(f"k.{number}", b"value") for number in range(_MANY)])
        for _ in range(3):
            async with bounded(), aclosing(cast("AsyncGenerator[KvEntry]", store.iter_scan())) as entries:
                assert (await anext(entries)).key == "k.0"
        assert len(await store.keys()) == _MANY
