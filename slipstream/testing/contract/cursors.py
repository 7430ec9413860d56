"""Cursors: a watch resumed from one gives exactly what came after, or says that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from slipstream.errors import CursorExpiredError
from slipstream.interfaces import Connection, KvStore
from slipstream.model import Operation, StoreConfig, VersionToken, WatchCursor
from slipstream.testing._waiting import background, bounded, collect, collect_until, eventually
from slipstream.testing.contract.base import BackendContract, ConnectAgain
from slipstream.testing.contract.watching import read_for_ever


async def cursor_after(store: KvStore, count: int, prefix: str = "") -> WatchCursor:
    """The cursor of a watch that has handed out so many updates."""
    async with store.watch(prefix) as watch:
        await collect(watch, count)
        return watch.cursor


async def expired(store: KvStore, cursor: WatchCursor) -> CursorExpiredError:
    """The error that entering a watch from this cursor raises."""
    with pytest.raises(CursorExpiredError) as caught:
        async with bounded(), store.watch(cursor=cursor):
            pass
    assert caught.value.store == store.name
    assert caught.value.cursor == cursor
    assert not caught.value.retryable
    return caught.value


class CursorContract(BackendContract):
    """`Watch.cursor` and `watch(cursor=)`."""

    async def test_before_the_first_update_the_cursor_is_the_one_passed_in(self, store: KvStore) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        passed = WatchCursor.from_u64(1)
        assert store.watch(cursor=passed).cursor == passed
        async with store.watch(cursor=passed) as watch:
            assert watch.cursor == passed
        async with store.watch() as watch:
            assert watch.cursor.is_none

    async def test_after_an_update_the_cursor_is_its_revision_in_this_incarnation(self, store: KvStore) -> None:
        await store.put_many([("a", b"1"), ("b", b"2"), ("c", b"3")])
        incarnation = (await store.status()).incarnation
        async with store.watch() as watch:
            for revision in (1, 2, 3):
                update = (await collect(watch, 1))[0]
                assert watch.cursor.as_u64() == update.revision == revision
                assert watch.cursor.incarnation == incarnation

    async def test_a_resumed_watch_gives_exactly_what_came_after(self, store: KvStore) -> None:
        keys = [f"k.{number}" for number in range(10)]
        await store.put_many([(key, b"value") for key in keys])
        for count in range(1, 10):
            cursor = await cursor_after(store, count)
            async with store.watch(cursor=cursor) as watch:
                assert [update.key for update in await collect(watch, 10 - count)] == keys[count:]

    async def test_a_resumed_watch_goes_on_live(self, store: KvStore) -> None:
        await store.put_many([("a", b"1"), ("b", b"2")])
        async with store.watch(cursor=await cursor_after(store, 1)) as watch:
            await store.put("c", b"3")
            await store.delete("d")
            updates = await collect(watch, 3)
        assert [(update.operation, update.key) for update in updates] == [
            (Operation.PUT, "b"),
            (Operation.PUT, "c"),
            (Operation.DELETE, "d"),
        ]

    async def test_what_was_removed_while_away_is_a_tombstone(self, store: KvStore) -> None:
        await store.put_many([("anchor", b"-"), ("a", b"1"), ("b", b"2"), ("c", b"3")])
        cursor = await cursor_after(store, 4)
        await store.delete("a")
        await store.purge("b")
        await store.put("c", b"")
        async with store.watch(cursor=cursor) as watch:
            updates = await collect(watch, 3)
        assert [(update.operation, update.key) for update in updates] == [
            (Operation.DELETE, "a"),
            (Operation.PURGE, "b"),
            (Operation.DELETE, "c"),
        ]

    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("node.", ["node.b", "node.a", "node.c"]),
            ("node", ["node.b", "nodes", "node.a", "node.c"]),
            (["node.", "nodes"], ["node.b", "nodes", "node.a", "node.c"]),
            (["other", "node.c"], ["other", "node.c"]),
            ("absent", []),
        ],
    )
    async def test_a_prefix_resumes_with_its_own_updates_only(
        self, store: KvStore, prefix: str | list[str], expected: list[str]
    ) -> None:
        await store.put_many([("anchor", b"-"), ("node.a", b"1")])
        cursor = await cursor_after(store, 2)
        await store.put_many([(key, b"2") for key in ("node.b", "other", "nodes", "node.a", "node.c")])
        async with store.watch(prefix, cursor=cursor) as watch:
            updates = await collect(watch, len(expected))
            async with bounded(), background(read_for_ever(watch)):
                await watch.wait_hydrated()
            assert watch.statistics().delivered == len(expected)
        assert [update.key for update in updates] == expected

    async def test_history_after_the_cursor_is_given_in_full(self, connection: Connection, bucket: str) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_history=10))
        await store.put("k", b"1")
        cursor = await cursor_after(store, 1)
        for value in (b"2", b"3", b"4"):
            await store.put("k", value)
        async with store.watch(cursor=cursor) as watch:
            assert [update.value for update in await collect(watch, 3)] == [b"2", b"3", b"4"]

    @pytest.mark.parametrize(
        "saved",
        [
            lambda cursor: WatchCursor.from_bytes(cursor.to_bytes()),
            lambda cursor: WatchCursor.parse(str(cursor)),
            lambda cursor: WatchCursor.from_version(VersionToken.from_u64(cursor.as_u64())),
            lambda cursor: WatchCursor.from_u64(cursor.as_u64()),
        ],
        ids=["bytes", "str", "version", "u64"],
    )
    async def test_a_cursor_can_be_saved_and_read_back(
        self, store: KvStore, connect_again: ConnectAgain, saved: Callable[[WatchCursor], WatchCursor]
    ) -> None:
        await store.put_many([("a", b"1"), ("b", b"2"), ("c", b"3")])
        cursor = saved(await cursor_after(store, 2))
        other = await (await connect_again()).store(store.name)
        async with other.watch(cursor=cursor) as watch:
            assert [update.key for update in await collect(watch, 1)] == ["c"]

    async def test_the_cursor_of_a_write_resumes_after_it(self, store: KvStore) -> None:
        version = await store.put("a", b"1")
        await store.put("b", b"2")
        async with store.watch(cursor=WatchCursor.from_version(version)) as watch:
            assert [update.key for update in await collect(watch, 1)] == ["b"]

    async def test_the_none_cursor_begins_with_the_current_state(self, store: KvStore) -> None:
        await store.put_many([("a", b"1"), ("b", b"2")])
        async with store.watch(cursor=WatchCursor.none()) as watch:
            assert [update.key for update in await collect(watch, 2)] == ["a", "b"]

    async def test_the_cursor_moves_on_while_the_prefix_is_quiet_and_skips_nothing(self, store: KvStore) -> None:
        await store.put("watched.a", b"1")
        async with store.watch("watched.") as watch:
            await collect(watch, 1)
            for _ in range(5):
                last = await store.put("other", b"value")

            async def cursor_is_at_the_end() -> bool:
                return watch.cursor.as_u64() == last.as_u64()

            async with background(read_for_ever(watch)):
                await eventually(cursor_is_at_the_end)
            cursor = watch.cursor
        await store.put("watched.b", b"2")
        async with store.watch("watched.", cursor=cursor) as watch:
            assert [update.key for update in await collect(watch, 1)] == ["watched.b"]


class CursorExpiryContract(BackendContract):
    """A cursor that may have missed something is refused, never resumed silently."""

    async def test_overwritten_values_beyond_the_cursor_compact_it(self, store: KvStore) -> None:
        await store.put("k", b"1")
        cursor = await cursor_after(store, 1)
        for value in (b"2", b"3", b"4"):
            await store.put("k", value)
        error = await expired(store, cursor)
        assert (error.reason, error.first_revision) == ("compacted", 4)

    async def test_what_retention_dropped_beyond_the_cursor_compacts_it(
        self, connection: Connection, bucket: str
    ) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_bytes=32 * 1024, discard="old"))
        await store.put("k.first", b"value")
        cursor = await cursor_after(store, 1)
        for number in range(30):
            await store.put(f"k.{number}", bytes(4096))
        first = (await store.status()).first_revision
        error = await expired(store, cursor)
        assert (error.reason, error.first_revision) == ("compacted", first)

    async def test_what_retention_drops_before_its_turn_ends_a_watch_and_is_never_skipped(
        self, connection: Connection, bucket: str
    ) -> None:
        store = await connection.store(StoreConfig(name=bucket, max_bytes=32 * 1024, discard="old"))
        await store.put("first", b"value")
        keys = [f"k.{number}" for number in range(40)]
        seen: list[str] = []
        async with store.watch() as watch:
            await collect(watch, 1)
            for key in keys:
                await store.put(key, bytes(4096))
            try:
                async with bounded():
                    while len(seen) < len(keys):
                        seen.append((await anext(watch)).key)
            except CursorExpiredError as error:
                assert error.reason == "compacted"
                assert watch.cursor.as_u64() == len(seen) + 1
        assert seen == keys[: len(seen)]

    async def test_the_state_can_be_read_anew_after_a_cursor_expired(self, store: KvStore) -> None:
        for number in range(5):
            await store.put("k", b"%d" % number)
        await expired(store, WatchCursor.from_u64(1))
        async with store.watch() as watch:
            assert [update.value for update in await collect(watch, 1)] == [b"4"]
            assert watch.cursor.as_u64() == 5

    @pytest.mark.parametrize("known", [True, False], ids=["incarnation known", "incarnation unknown"])
    async def test_the_revision_before_the_first_is_the_oldest_that_resumes(self, store: KvStore, known: bool) -> None:
        for number in range(5):
            await store.put("k", b"%d" % number)
        status = await store.status()
        assert status.first_revision == 5
        boundary = WatchCursor(revision=4, incarnation=status.incarnation if known else None)
        async with store.watch(cursor=boundary) as watch:
            assert [update.revision for update in await collect(watch, 1)] == [5]
        error = await expired(store, replace(boundary, revision=3))
        assert (error.reason, error.first_revision) == ("compacted", 5)

    async def test_a_cursor_at_the_end_resumes_with_what_comes(self, store: KvStore) -> None:
        for number in range(5):
            await store.put("k", b"%d" % number)
        async with store.watch(cursor=await cursor_after(store, 1)) as watch:
            await store.put("k", b"5")
            assert [update.value for update in await collect(watch, 1)] == [b"5"]

    async def test_a_cursor_at_the_end_of_a_bucket_that_holds_nothing_any_more_resumes(self, store: KvStore) -> None:
        await store.put("k", b"1")
        await store.delete("k")
        cursor = await cursor_after(store, 1)
        assert await store.purge_deletes() == 1
        async with store.watch(cursor=cursor) as watch:
            await store.put("k", b"2")
            assert [update.value for update in await collect(watch, 1)] == [b"2"]
        await expired(store, replace(cursor, revision=1))

    async def test_a_cursor_of_an_earlier_life_of_the_bucket_is_recreated(
        self, connection: Connection, store: KvStore
    ) -> None:
        await store.put_many([("a", b"1"), ("b", b"2")])
        cursor = await cursor_after(store, 1)
        await connection.delete_store(store.name)
        again = await connection.store(store.name)
        await again.put_many([(f"k.{number}", b"value") for number in range(5)])
        error = await expired(again, cursor)
        assert error.reason == "recreated"

    async def test_a_cursor_of_an_earlier_life_is_recreated_in_an_empty_bucket_too(
        self, connection: Connection, store: KvStore
    ) -> None:
        await store.put("a", b"1")
        cursor = await cursor_after(store, 1)
        await connection.delete_store(store.name)
        error = await expired(await connection.store(store.name), cursor)
        assert error.reason == "recreated"

    async def test_cursors_of_two_lives_of_a_bucket_do_not_compare(
        self, connection: Connection, store: KvStore
    ) -> None:
        await store.put("a", b"1")
        before = await cursor_after(store, 1)
        await connection.delete_store(store.name)
        again = await connection.store(store.name)
        await again.put_many([("a", b"1"), ("b", b"2")])
        one, two = await cursor_after(again, 1), await cursor_after(again, 2)
        assert one < two
        with pytest.raises(ValueError):
            _ = before < two

    @pytest.mark.parametrize("known", [True, False], ids=["incarnation known", "incarnation unknown"])
    async def test_a_cursor_beyond_the_end_is_rolled_back(self, store: KvStore, known: bool) -> None:
        await store.put_many([("a", b"1"), ("b", b"2")])
        status = await store.status()
        incarnation = status.incarnation if known else None
        error = await expired(store, WatchCursor(revision=status.last_revision + 1, incarnation=incarnation))
        assert error.reason == "rolled_back"
        error = await expired(store, WatchCursor(revision=10_000, incarnation=incarnation))
        assert error.reason == "rolled_back"

    async def test_a_cursor_of_a_prefix_expires_by_the_whole_bucket(self, store: KvStore) -> None:
        await store.put("watched", b"1")
        cursor = await cursor_after(store, 1, "watched")
        await store.put("watched", b"2")
        for number in range(5):
            await store.put("other", b"%d" % number)
        async with store.watch("watched", cursor=cursor) as watch:
            assert [update.value for update in await collect_until(watch, lambda _: True)] == [b"2"]
        await store.put("watched", b"3")
        with pytest.raises(CursorExpiredError):
            async with bounded(), store.watch("watched", cursor=cursor):
                pass
