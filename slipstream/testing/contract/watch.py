"""Watching: the initial state, then every change, in revision order, with no gap between the two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import pytest

from slipstream.errors import CursorExpiredError, KvError, StoreNotFoundError
from slipstream.interfaces import Connection, KvStore, Watch
from slipstream.model import KvEntry, KvUpdate, Operation, StoreConfig
from slipstream.testing._waiting import background, bounded, collect, collect_until, drain, ticks
from slipstream.testing.contract.base import BackendContract, ConnectAgain
from slipstream.testing.contract.scans import BY_PREFIX, KEYS

_RACING = 400


def shown(update: KvUpdate) -> str:
    """What a program that matches on updates sees."""
    match update:
        case KvUpdate(Operation.PUT, key, value):
            return f"{key}={value.decode()}"
        case KvUpdate(operation=Operation.DELETE | Operation.PURGE, key=key):
            return f"{key} is gone"
        case _:
            return "unexpected"


class WatchContract(BackendContract):
    """`watch` without a cursor."""

    async def test_the_initial_state_comes_first_then_what_changes(self, store: KvStore) -> None:
        versions = [await store.put(key, key.encode()) for key in ("c", "a", "b")]
        async with store.watch() as watch:
            initial = await collect(watch, 3)
            versions.append(await store.put("d", b"d"))
            versions.append(await store.put("a", b"a"))
            live = await collect(watch, 2)
        assert [(update.operation, update.key, update.value) for update in initial + live] == [
            (Operation.PUT, key, key.encode()) for key in ("c", "a", "b", "d", "a")
        ]
        assert [update.version for update in initial + live] == versions
        assert [update.revision for update in initial + live] == [1, 2, 3, 4, 5]

    async def test_the_initial_state_is_the_last_value_of_each_key(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=5))
        for key, value in (("a", b"1"), ("b", b"1"), ("a", b"2"), ("c", b"1"), ("b", b"2")):
            await store.put(key, value)
        await store.delete("c")
        await store.put("last", b"-")
        async with store.watch() as watch:
            updates = await collect_until(watch, lambda update: update.key == "last")
        live = [update for update in updates if update.operation is Operation.PUT]
        assert [(update.key, update.value) for update in live] == [("a", b"2"), ("b", b"2"), ("last", b"-")]
        assert {update.key for update in updates} - {"a", "b", "last"} <= {"c"}

    async def test_no_write_falls_between_the_initial_state_and_the_live_updates(
        self, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        other = await (await connect_again()).store(store.name)
        keys = [f"k.{number}" for number in range(_RACING)]

        async def write() -> None:
            for key in keys:
                await other.put(key, b"value")
                await asyncio.sleep(0)

        async with background(write()):
            await ticks(50)
            for count in (20, 40, 80, 160, _RACING):  # each watch joins the writer somewhere else
                async with store.watch("k.") as watch:
                    updates = await collect(watch, count)
                assert [update.key for update in updates] == keys[:count]
                assert [update.revision for update in updates] == list(range(1, count + 1))

    async def test_live_updates_of_many_writers_come_once_each_in_revision_order(
        self, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        stores = [store, await (await connect_again()).store(store.name)]

        async def write(by: KvStore, writer: int) -> None:
            for number in range(50):
                await by.put(f"k.{writer}.{number}", b"value")

        async with store.watch() as watch, bounded(), asyncio.TaskGroup() as group:
            for writer in range(4):
                group.create_task(write(stores[writer % 2], writer))
            updates = await collect(watch, 200)
        assert [update.revision for update in updates] == list(range(1, 201))
        assert len({update.key for update in updates}) == 200

    @pytest.mark.parametrize(("prefix", "expected"), BY_PREFIX.items())
    async def test_a_prefix_is_a_string_prefix_in_the_initial_state_and_live(
        self, store: KvStore, prefix: str, expected: list[str]
    ) -> None:
        await store.put_many(dict.fromkeys(KEYS, b"1"))
        # Written last and matched by the prefix: so what did not match has had its chance to arrive.
        last = f"{prefix}.last" if prefix and not prefix.endswith(".") else f"{prefix}last"
        async with store.watch(prefix) as watch:
            initial = await collect(watch, len(expected))
            await store.put_many(dict.fromkeys(KEYS, b"2"))
            await store.put(last, b"")
            live = await collect_until(watch, lambda update: update.key == last)
        assert sorted(update.key for update in initial) == expected
        assert sorted(update.key for update in live[:-1]) == expected
        assert {update.value for update in live[:-1]} <= {b"2"}

    @pytest.mark.parametrize(
        "prefixes",
        [
            lambda: ["node.", "other"],
            lambda: ("other", "node."),
            lambda: (prefix for prefix in ("node.", "other.", "other.node")),
            lambda: ["node.", "node.a", "node.b.", "other"],
            lambda: ["node.", "node.", "other", "other"],
            lambda: {"node.", "other.n"},
        ],
        ids=["list", "tuple", "generator", "overlapping", "doubled", "set"],
    )
    async def test_several_prefixes_give_each_update_once(
        self, store: KvStore, prefixes: Callable[[], Iterable[str]]
    ) -> None:
        await store.put_many([(key, b"1") for key in KEYS])
        async with store.watch(prefixes()) as watch:
            initial = await collect(watch, 3)
            await store.put_many([(key, b"2") for key in KEYS])
            await store.put("other.node.last", b"3")
            live = await collect_until(watch, lambda update: update.value == b"3")
        assert [update.key for update in initial] == ["node.a", "node.b.c", "other.node"]
        assert [update.key for update in live] == ["node.a", "node.b.c", "other.node", "other.node.last"]

    async def test_the_empty_prefix_among_others_is_every_key_once(self, store: KvStore) -> None:
        await store.put_many([(key, b"1") for key in KEYS])
        async with store.watch(["node.", "", "nodes"]) as watch:
            initial = await collect(watch, len(KEYS))
            await store.put("node.a", b"2")
            live = await collect(watch, 1)
        assert [update.key for update in initial] == KEYS
        assert [update.key for update in live] == ["node.a"]

    async def test_no_prefixes_end_at_once(self, store: KvStore) -> None:
        await store.put("k", b"value")
        async with store.watch([]) as watch:
            assert await drain(watch) == []
            async with bounded():
                await watch.wait_hydrated()
            assert watch.hydrated

    async def test_tombstones_are_watched_with_their_operation_and_no_value(self, store: KvStore) -> None:
        async with store.watch() as watch:
            await store.put("k", b"1")
            await store.delete("k")
            await store.put("k", b"2")
            await store.purge("k")
            await store.put("k", b"")
            version = await store.put("k", b"3")
            await store.delete_with_version("k", version)
            await store.put("last", b"-")
            updates = await collect_until(watch, lambda update: update.key == "last")
        # The bucket holds one revision of a key: an overwritten one may be skipped, what is seen is never wrong.
        expected = {
            1: (Operation.PUT, b"1"),
            2: (Operation.DELETE, b""),
            3: (Operation.PUT, b"2"),
            4: (Operation.PURGE, b""),
            5: (Operation.DELETE, b""),
            6: (Operation.PUT, b"3"),
            7: (Operation.DELETE, b""),
            8: (Operation.PUT, b"-"),
        }
        seen = {update.revision: (update.operation, update.value) for update in updates}
        assert seen.items() <= expected.items()
        assert {7, 8} <= set(seen)
        assert not any(update.expired for update in updates)

    @pytest.mark.parametrize(
        ("remove", "operation"),
        [
            (lambda store: store.delete("k"), Operation.DELETE),
            (lambda store: store.purge("k"), Operation.PURGE),
            (lambda store: store.put("k", b""), Operation.DELETE),
        ],
        ids=["delete", "purge", "empty value"],
    )
    async def test_an_update_has_an_entry_only_after_a_put(
        self, store: KvStore, remove: Callable[[KvStore], Awaitable[object]], operation: Operation
    ) -> None:
        async with store.watch() as watch:
            version = await store.put("k", b"value")
            put = (await collect(watch, 1))[0]
            await remove(store)
            tombstone = (await collect(watch, 1))[0]
        assert put.entry == KvEntry(key="k", value=b"value", version=version, created=put.created)
        assert (tombstone.operation, tombstone.value, tombstone.entry) == (operation, b"", None)

    async def test_an_update_can_be_matched(self, store: KvStore) -> None:
        async with store.watch() as watch:
            await store.put("a", b"1")
            await store.put("b", b"2")
            await store.purge("c")
            assert [shown(update) for update in await collect(watch, 3)] == ["a=1", "b=2", "c is gone"]

    async def test_two_watches_see_the_same(self, store: KvStore, connect_again: ConnectAgain) -> None:
        other = await (await connect_again()).store(store.name)
        await store.put("a", b"1")
        async with store.watch() as one, other.watch() as two:
            await store.put("b", b"2")
            await other.delete("a")
            assert (await collect_until(one, _is_gone))[-1] == (await collect_until(two, _is_gone))[-1]

    async def test_a_slow_reader_ends_with_the_last_value_of_every_key(self, store: KvStore) -> None:
        keys = [f"k.{number}" for number in range(50)]
        rounds, padding = 40, bytes(8192)
        async with store.watch() as watch:
            await store.put("first", b"-")
            await collect(watch, 1)
            for round_number in range(rounds):  # 16 MiB that nobody reads yet
                async with bounded():
                    await store.put_many(dict.fromkeys(keys, b"%d:" % round_number + padding))
                    assert await store.get("first") is not None
            await store.put("last", b"-")
            updates = await collect_until(watch, lambda update: update.key == "last")
        fold = {update.key: update.value for update in updates}
        assert all(fold[key] == b"%d:" % (rounds - 1) + padding for key in keys)
        revisions = [update.revision or 0 for update in updates]
        assert revisions == sorted(set(revisions))

    async def test_a_watch_of_a_deleted_bucket_is_refused(self, connection: Connection, store: KvStore) -> None:
        await connection.delete_store(store.name)
        with pytest.raises(StoreNotFoundError):
            async with bounded(), store.watch():
                pass

    @pytest.mark.parametrize("waiting", [False, True], ids=["read later", "read already"])
    async def test_a_bucket_deleted_under_a_watch_ends_it(
        self, store: KvStore, connect_again: ConnectAgain, waiting: bool
    ) -> None:
        other = await connect_again()
        await store.put("k", b"value")
        async with store.watch() as watch, bounded(), asyncio.TaskGroup() as group:
            await collect(watch, 1)
            ending = group.create_task(_end(watch))
            if waiting:
                await watch.wait_hydrated()
            await other.delete_store(store.name)
            assert isinstance(await ending, StoreNotFoundError)

    @pytest.mark.parametrize("waiting", [False, True], ids=["read later", "read already"])
    async def test_a_bucket_deleted_and_made_again_under_a_watch_ends_it(
        self, store: KvStore, connect_again: ConnectAgain, waiting: bool
    ) -> None:
        other = await connect_again()
        await store.put("k", b"old")
        async with store.watch() as watch, bounded(), asyncio.TaskGroup() as group:
            await collect(watch, 1)
            ending = group.create_task(_end(watch))
            if waiting:
                await watch.wait_hydrated()
            await other.delete_store(store.name)
            again = await other.store(store.name)
            await again.put_many([("k", b"new"), ("another", b"new"), ("k", b"newer")])
            error = await ending
        assert isinstance(error, StoreNotFoundError) or (
            isinstance(error, CursorExpiredError) and error.reason == "recreated"
        )


async def _end(watch: Watch) -> KvError | None:
    """What the watch ends with."""
    try:
        await drain(watch)
    except KvError as error:
        return error
    return None


def _is_gone(update: KvUpdate) -> bool:
    return update.operation is not Operation.PUT
