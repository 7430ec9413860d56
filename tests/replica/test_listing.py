"""Keys with their versions, of a bucket and of a fold."""

from __future__ import annotations

import pytest

from slipstream.errors import InvalidKeyError
from slipstream.interfaces import KvStore
from slipstream.replica import MemorySnapshot, WatchScope
from slipstream.replica.difference import put_of
from slipstream.replica.listing import ListsVersions, held_versions, live_versions

KEYS = ["a.1", "a.2", "ab", "b.1"]


async def test_versions_are_those_of_the_living_keys(store: KvStore) -> None:
    assert isinstance(store, ListsVersions)
    assert await store.versions() == {}
    versions = dict(zip(KEYS, await store.put_many(dict.fromkeys(KEYS, b"1")), strict=True))
    await store.put("gone", b"1")
    await store.delete("gone")
    await store.put("empty", b"")
    assert await store.versions() == versions
    assert await store.versions("a.") == {key: versions[key] for key in ("a.1", "a.2")}
    with pytest.raises(InvalidKeyError):
        await store.versions("a.*")


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (WatchScope(), KEYS),
        (WatchScope.several(["a", "a.", "b"]), KEYS),
        (WatchScope.several(["a.2", "b."]), ["a.2", "b.1"]),
        (WatchScope.several([]), []),
    ],
)
async def test_bucket_and_fold_are_listed_alike(store: KvStore, scope: WatchScope, expected: list[str]) -> None:
    await store.put_many(dict.fromkeys(KEYS, b"1"))
    snapshot = MemorySnapshot()
    await snapshot.apply([put_of(entry) for entry in await store.scan()], snapshot.cursor)
    live = await live_versions(store, scope)
    assert sorted(live) == expected
    assert await held_versions(snapshot, scope) == live
