"""Compare-and-swap: create, update, delete_with_version and purge(expected=), also under contention."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from slipstream.errors import AlreadyExistsError, ConflictError, OperationFailedError, RevisionMismatchError
from slipstream.interfaces import Connection, KvStore
from slipstream.model import Operation, StoreConfig, VersionToken
from slipstream.testing._waiting import bounded
from slipstream.testing.contract.base import (
    ABSENCES,
    EMPTY_VALUES,
    TOMBSTONES,
    BackendContract,
    ConnectAgain,
    MakeAbsent,
    each,
)

_CONTENDERS = 20

Swap = Callable[[KvStore, str, VersionToken], Awaitable[object]]

SWAPS: dict[str, Swap] = {
    "update": lambda store, key, expected: store.update(key, b"new", expected),
    "delete_with_version": lambda store, key, expected: store.delete_with_version(key, expected),
    "purge": lambda store, key, expected: store.purge(key, expected=expected),
}
"""Every write that is done only if the last revision of the key is the expected one."""

NO_REVISIONS = [VersionToken.unknown(), VersionToken.from_bytes(b"abc"), VersionToken.from_bytes(b"0123456789")]


def each_swap() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("swap", list(SWAPS.values()), ids=list(SWAPS))


async def contend(attempts: list[Coroutine[Any, Any, VersionToken]]) -> list[VersionToken | BaseException]:
    """All at once; what each returned or raised."""
    return await asyncio.gather(*attempts, return_exceptions=True)


class ConditionalWriteContract(BackendContract):
    """A stale writer cannot write."""

    @each(ABSENCES)
    async def test_create_succeeds_whatever_made_the_key_absent(self, store: KvStore, make_absent: MakeAbsent) -> None:
        await make_absent(store, "k")
        version = await store.create("k", b"value")
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"value", version)

    async def test_create_of_a_live_key_is_refused_and_nothing_is_written(self, store: KvStore) -> None:
        version = await store.put("k", b"first")
        with pytest.raises(AlreadyExistsError) as caught:
            await store.create("k", b"second")
        assert isinstance(caught.value, ConflictError)
        assert (caught.value.store, caught.value.key) == (store.name, "k")
        assert not caught.value.outcome_unknown
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"first", version)
        assert (await store.status()).last_revision == version.as_u64()

    @each(ABSENCES)
    async def test_of_concurrent_creates_exactly_one_wins(
        self, store: KvStore, connect_again: ConnectAgain, make_absent: MakeAbsent
    ) -> None:
        await make_absent(store, "k")
        stores = [store, await (await connect_again()).store(store.name)]
        outcomes = await contend([stores[n % 2].create("k", b"%d" % n) for n in range(_CONTENDERS)])
        winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, VersionToken)]
        assert len(winners) == 1
        assert sum(isinstance(outcome, AlreadyExistsError) for outcome in outcomes) == _CONTENDERS - 1
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"%d" % winners[0], outcomes[winners[0]])

    async def test_update_at_the_last_version_writes(self, store: KvStore) -> None:
        first = await store.put("k", b"1")
        await store.put("another", b"-")
        second = await store.update("k", b"2", first)
        third = await store.update("k", b"3", second)
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"3", third)

    @each_swap()
    async def test_at_another_version_nothing_is_written(self, store: KvStore, swap: Swap) -> None:
        old = await store.put("k", b"1")
        actual = await store.put("k", b"2")
        for expected in (old, VersionToken.from_u64(99)):
            with pytest.raises(RevisionMismatchError) as caught:
                await swap(store, "k", expected)
            assert isinstance(caught.value, ConflictError)
            assert (caught.value.store, caught.value.key, caught.value.expected) == (store.name, "k", expected)
            assert caught.value.actual in (None, actual)
            assert not caught.value.outcome_unknown
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"2", actual)
        assert (await store.status()).last_revision == actual.as_u64()

    @each_swap()
    async def test_the_version_of_another_key_is_a_mismatch(self, store: KvStore, swap: Swap) -> None:
        await store.put("k", b"1")
        other = await store.put("another", b"2")
        with pytest.raises(RevisionMismatchError):
            await swap(store, "k", other)
        assert await store.keys() == ["another", "k"]

    @each_swap()
    @each(TOMBSTONES)
    async def test_on_a_key_that_is_gone_the_old_version_is_a_mismatch(
        self, store: KvStore, swap: Swap, make_absent: MakeAbsent
    ) -> None:
        await make_absent(store, "k")  # puts the key first, as revision 1
        last = (await store.status()).last_revision
        with pytest.raises(RevisionMismatchError) as caught:
            await swap(store, "k", VersionToken.from_u64(1))
        assert caught.value.actual in (None, VersionToken.from_u64(last))
        assert await store.get("k") is None
        assert (await store.status()).last_revision == last

    @each_swap()
    async def test_on_a_key_never_written_any_version_is_a_mismatch(self, store: KvStore, swap: Swap) -> None:
        with pytest.raises(RevisionMismatchError):
            await swap(store, "k", VersionToken.from_u64(5))
        assert (await store.status()).last_revision == 0

    @each_swap()
    async def test_on_a_key_whose_tombstone_was_removed_the_old_version_is_a_mismatch(
        self, store: KvStore, swap: Swap
    ) -> None:
        version = await store.put("k", b"value")
        await store.delete("k")
        await store.purge_deletes()
        with pytest.raises(RevisionMismatchError):
            await swap(store, "k", version)
        assert await store.get("k") is None

    @each_swap()
    async def test_a_token_that_is_no_revision_is_refused_and_nothing_is_written(
        self, store: KvStore, swap: Swap
    ) -> None:
        version = await store.put("k", b"value")
        for expected in NO_REVISIONS:
            with pytest.raises(OperationFailedError):
                await swap(store, "k", expected)
            with pytest.raises(OperationFailedError):
                await swap(store, "missing", expected)
        assert (await store.status()).last_revision == version.as_u64()

    @each_swap()
    async def test_of_concurrent_writers_at_one_version_exactly_one_wins(
        self, store: KvStore, connect_again: ConnectAgain, swap: Swap
    ) -> None:
        version = await store.put("k", b"value")
        stores = [store, await (await connect_again()).store(store.name)]
        outcomes = await asyncio.gather(
            *(swap(stores[number % 2], "k", version) for number in range(_CONTENDERS)), return_exceptions=True
        )
        mismatches = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(mismatches) == _CONTENDERS - 1
        assert all(isinstance(outcome, RevisionMismatchError) for outcome in mismatches)
        assert (await store.status()).last_revision == (version.as_u64() or 0) + 1

    async def test_an_optimistic_counter_loses_no_increment(self, store: KvStore, connect_again: ConnectAgain) -> None:
        await store.create("counter", b"0")
        stores = [store, await (await connect_again()).store(store.name)]

        async def increment(by: KvStore) -> None:
            while True:
                entry = await by.get("counter")
                assert entry is not None
                try:
                    await by.update("counter", b"%d" % (int(entry.value) + 1), entry.version)
                except RevisionMismatchError:
                    continue
                return

        async with bounded(), asyncio.TaskGroup() as group:
            for number in range(_CONTENDERS):
                group.create_task(increment(stores[number % 2]))
        entry = await store.get("counter")
        assert entry is not None
        assert int(entry.value) == _CONTENDERS

    @each(EMPTY_VALUES)
    async def test_update_over_an_empty_value_works_with_the_version_of_its_entry(
        self, store: KvStore, make_absent: MakeAbsent
    ) -> None:
        await make_absent(store, "k")
        entry = await store.entry("k")
        assert entry is not None
        version = await store.update("k", b"new", entry.version)
        found = await store.get("k")
        assert found is not None
        assert (found.value, found.version) == (b"new", version)

    async def test_delete_with_version_writes_an_empty_value(self, store: KvStore) -> None:
        version = await store.put("k", b"value")
        assert await store.delete_with_version("k", version) is True
        assert await store.get("k") is None
        entry = await store.entry("k")
        assert entry is not None
        assert entry.value == b""
        assert entry.version != version

    async def test_a_writer_that_read_before_delete_with_version_conflicts(self, store: KvStore) -> None:
        version = await store.put("k", b"value")
        await store.delete_with_version("k", version)
        with pytest.raises(RevisionMismatchError):
            await store.update("k", b"stale", version)
        assert await store.get("k") is None

    async def test_purge_at_the_last_version_drops_the_history(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=5))
        await store.put("k", b"1")
        await store.purge("k", expected=await store.put("k", b"2"))
        assert [update.operation for update in await store.history("k")] == [Operation.PURGE]

    async def test_a_refused_purge_keeps_the_history(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=5))
        first = await store.put("k", b"1")
        await store.put("k", b"2")
        with pytest.raises(RevisionMismatchError):
            await store.purge("k", expected=first)
        assert [update.value for update in await store.history("k")] == [b"1", b"2"]
