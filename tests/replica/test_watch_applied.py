"""`watch_applied`: the order of a flush, what moves the cursor, failures, and how it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from slipstream.errors import (
    CursorExpiredError,
    InvalidKeyError,
    SnapshotCorruptedError,
    SnapshotError,
    StoreNotFoundError,
)
from slipstream.interfaces import Connection, KvStore, Watch
from slipstream.model import KvUpdate, VersionToken, WatchCursor
from slipstream.replica import BatchConfig, MemorySnapshot, WatchScope, watch_applied
from slipstream.replica import apply as apply_module
from slipstream.stores.memory import MemoryConnection
from slipstream.stores.memory.store import MemoryStore
from slipstream.stores.memory.watcher import MemoryWatch
from slipstream.testing._waiting import bounded, eventually
from tests.replica.following import (
    LARGE_WINDOW,
    BrittleSnapshot,
    Table,
    follow_until,
    following,
    overwrite_all,
    values_of,
)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_module, "pause_after", lambda failures: 0.0)


# The order of a flush.


async def test_a_batch_is_applied_then_stored_then_announced(store: KvStore) -> None:
    steps: list[str] = []
    announced: list[WatchCursor] = []

    class Snapshot(MemorySnapshot):
        async def apply(self, batch: Sequence[KvUpdate], cursor: WatchCursor) -> None:
            steps.append("store")
            await super().apply(batch, cursor)

    async def apply(batch: list[KvUpdate]) -> None:
        await asyncio.sleep(0)  # only when it has returned does the next step come
        steps.append("apply")

    async def on_applied(cursor: WatchCursor) -> None:
        steps.append("announce")
        assert snapshot.cursor == cursor
        announced.append(cursor)
        if len(announced) == 2:
            stop.set()
        else:
            await store.put("b", b"2")

    snapshot, stop = Snapshot(), asyncio.Event()
    version = await store.put("a", b"1")
    async with bounded():
        cursor = await watch_applied(store, apply=apply, snapshot=snapshot, on_applied=on_applied, stop=stop)
    assert steps == ["apply", "store", "announce"] * 2
    assert announced[0].revision == version.as_u64()
    assert cursor == snapshot.cursor == announced[-1]


async def test_the_state_comes_first_then_every_change_and_a_restart_takes_only_what_came_after(
    store: KvStore,
) -> None:
    await store.put_many({"a": b"1", "b": b"1"})
    table, snapshot = Table(), MemorySnapshot()
    async with following(store, table, snapshot=snapshot) as run:
        await table.holds({"a": b"1", "b": b"1"})
        await store.put("c", b"1")
        await store.delete("a")
        await table.holds({"b": b"1", "c": b"1"})
        assert await run.end() == snapshot.cursor == run.cursors[-1]
    await store.put("d", b"1")
    again = Table()
    again.values = values_of(snapshot)
    await follow_until(store, again, {"b": b"1", "c": b"1", "d": b"1"}, snapshot=snapshot)
    assert again.changes == [("PUT", "d", b"1")]
    assert values_of(snapshot) == again.values


async def test_a_cursor_that_is_given_goes_before_that_of_the_snapshot(store: KvStore) -> None:
    table, snapshot = Table(), MemorySnapshot()
    first = await store.put("a", b"1")
    await store.put("b", b"2")
    await follow_until(store, table, {"a": b"1", "b": b"2"}, snapshot=snapshot)
    behind = Table()
    await follow_until(store, behind, {"b": b"2"}, snapshot=snapshot, cursor=WatchCursor.from_version(first))
    assert behind.changes == [("PUT", "b", b"2")]


async def test_what_parse_drops_moves_the_cursor_and_is_in_the_snapshot(store: KvStore) -> None:
    snapshot, stop, seen = MemorySnapshot(), asyncio.Event(), []

    def parse(update: KvUpdate) -> int | None:
        return int(update.value) if update.value.isdigit() else None

    def on_applied(cursor: WatchCursor) -> None:
        if cursor.revision == version.as_u64():
            stop.set()

    await store.put_many({"a": b"1", "b": b"x", "c": b"3"})
    version = await store.put("d", b"y")
    async with bounded():
        cursor = await watch_applied(
            store, apply=seen.append, parse=parse, snapshot=snapshot, on_applied=on_applied, stop=stop
        )
    assert [item for batch in seen for item in batch] == [1, 3]
    assert all(seen)  # never an empty batch
    assert cursor.revision == version.as_u64()
    assert sorted(values_of(snapshot)) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (WatchScope.everything(), {"a.1", "a.2", "ab", "b.1"}),
        ("a.", {"a.1", "a.2"}),
        (WatchScope.prefix("a"), {"a.1", "a.2", "ab"}),
        (["b.", "a.", "a.1"], {"a.1", "a.2", "b.1"}),
        (WatchScope.several(["b", "ab"]), {"ab", "b.1"}),
    ],
    ids=["everything", "a prefix", "a prefix inside a token", "several that overlap", "several"],
)
async def test_the_scope(store: KvStore, prefix: Any, expected: set[str]) -> None:
    await store.put_many(dict.fromkeys(["a.1", "a.2", "ab", "b.1"], b"1"))
    table = Table()
    await follow_until(store, table, dict.fromkeys(expected, b"1"), prefix)
    assert len(table.changes) == len(expected)


async def test_of_no_prefixes_it_ends_at_once(store: KvStore) -> None:
    await store.put("a", b"1")
    async with bounded():
        cursor = await watch_applied(store, [], apply=lambda _: pytest.fail("nothing was asked for"))
    assert cursor.is_none


async def test_a_bad_prefix(store: KvStore) -> None:
    with pytest.raises(InvalidKeyError):
        await watch_applied(store, "a.*", apply=lambda _: None)


async def test_a_quiet_prefix_moves_on_with_the_bucket(store: KvStore) -> None:
    table, snapshot = Table(), MemorySnapshot()
    await store.put("a.1", b"1")
    async with following(store, table, "a.", snapshot=snapshot, batch=BatchConfig(progress_interval=0.05)) as run:
        await table.holds({"a.1": b"1"})
        version = await store.put("b", b"1")

        async def moved() -> bool:
            return snapshot.cursor.revision == version.as_u64()

        await eventually(moved)
        assert run.cursors[-1] == snapshot.cursor
    assert table.changes == [("PUT", "a.1", b"1")]


# Unknown versions.


class _Blanked(MemoryWatch):
    """Hands out the updates of some keys as if their versions could not be read."""

    def _take(self) -> KvUpdate:
        update = super()._take()
        return replace(update, version=VersionToken.unknown()) if update.key.startswith("blank") else update

    @property
    def cursor(self) -> WatchCursor:
        return self.known

    def batches(self, max_items: int = 1000, max_wait: float = 0.01) -> AsyncIterator[list[KvUpdate]]:
        return self._known_batches(super().batches(max_items, max_wait))

    async def _known_batches(self, batches: AsyncIterator[list[KvUpdate]]) -> AsyncIterator[list[KvUpdate]]:
        async for batch in batches:
            for update in batch:
                if update.revision is not None:
                    self.known = WatchCursor(revision=update.revision, incarnation=super().cursor.incarnation)
            yield batch

    known = WatchCursor.none()


class _BlankedStore(MemoryStore):
    def watch(self, prefix: str | Iterable[str] = "", *, cursor: WatchCursor | None = None) -> Watch:
        prefixes = (prefix,) if isinstance(prefix, str) else tuple(prefix)
        return _Blanked(self._ref, prefixes, cursor or WatchCursor.none())


async def test_an_unknown_version_is_applied_and_never_moves_the_cursor() -> None:
    async with MemoryConnection() as connection:
        made = await connection.store("config")
        assert isinstance(made, MemoryStore)
        store = _BlankedStore(made._ref)
        table, snapshot = Table(), MemorySnapshot()
        async with following(store, table, snapshot=snapshot) as run:
            await store.put("blank.1", b"1")
            await table.holds({"blank.1": b"1"})
            assert run.cursors == []
            assert snapshot.cursor.is_none
            version = await store.put("a", b"1")
            await table.holds({"blank.1": b"1", "a": b"1"})
            await store.put("blank.2", b"1")
            await table.holds({"blank.1": b"1", "a": b"1", "blank.2": b"1"})
            cursor = await run.end()
        assert cursor.revision == version.as_u64()
        assert run.cursors == [cursor]
        assert values_of(snapshot) == table.values


# Batches.


async def test_a_batch_is_flushed_when_it_is_full(store: KvStore) -> None:
    await store.put_many({f"k.{number}": b"1" for number in range(10)})
    table = Table()
    async with following(store, table, batch=BatchConfig(max_items=5, window=30.0)):
        await table.holds({f"k.{number}": b"1" for number in range(10)})
    assert [len(batch) for batch in table.batches] == [5, 5]


async def test_a_stop_flushes_what_has_arrived(store: KvStore) -> None:
    table, snapshot = Table(), MemorySnapshot()
    keys = {f"k.{number}": b"1" for number in range(7)}
    version = (await store.put_many(keys))[-1]
    async with following(store, table, snapshot=snapshot, batch=LARGE_WINDOW) as run:
        # The window is open for half a minute: nothing is applied before the stop.
        async with store.watch() as other:
            async for update in other:
                if update.version == version:
                    break
        assert table.batches == []
        cursor = await run.end()
    assert table.values == values_of(snapshot) == keys
    assert cursor.revision == version.as_u64()
    assert run.cursors == [cursor]


async def test_a_commit_is_applied_as_a_unit(connection: Connection, store: KvStore) -> None:
    if not connection.capabilities.transactions:
        return
    snapshot = BrittleSnapshot()
    table = Table()
    last: dict[str, bytes] = {}
    async with following(store, table, snapshot=snapshot, batch=BatchConfig(max_items=3)):
        for number in range(10):
            await store.put(f"alone.{number}", b"1")
            async with store.transaction() as txn:
                for key in range(7):
                    txn.put(f"k.{number}.{key}", b"1")
                    last[f"k.{number}.{key}"] = b"1"
            last[f"alone.{number}"] = b"1"
        await table.holds(last)
    for kept in (
        [[update.key for update in batch] for batch in table.batches],
        [[key for _, key, _ in batch] for batch, _ in snapshot.attempts],
    ):
        of_commits = [[key for key in batch if key.startswith("k.")] for batch in kept]
        assert all(len(keys) % 7 == 0 for keys in of_commits)
        assert sum(map(len, of_commits)) == 70


# Failures.


async def test_what_apply_raises_ends_it_before_the_batch(store: KvStore) -> None:
    snapshot, table = MemorySnapshot(), Table()

    def apply(batch: list[KvUpdate]) -> None:
        if any(update.key == "bad" for update in batch):
            raise LookupError("bad")
        table.apply(batch)

    version = await store.put("a", b"1")
    async with following(store, table, apply=apply, snapshot=snapshot) as run:
        await table.holds({"a": b"1"})
        await store.put("bad", b"1")
        assert isinstance(await run.failed(), LookupError)
    assert snapshot.cursor.revision == version.as_u64()
    assert [cursor.revision for cursor in run.cursors] == [version.as_u64()]
    assert list(values_of(snapshot)) == ["a"]
    after = Table()
    after.values = dict(table.values)
    await follow_until(store, after, {"a": b"1", "bad": b"1"}, snapshot=snapshot)
    assert after.changes == [("PUT", "bad", b"1")]


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("error", [SnapshotError(message="full"), OSError(28, "full")], ids=["its own", "any"])
async def test_a_failing_snapshot_is_tried_again_with_its_batch(store: KvStore, error: Exception) -> None:
    await store.put_many({"a": b"1", "b": b"1"})
    table, snapshot = Table(), BrittleSnapshot()
    snapshot.failing, snapshot.error = 16, error
    await follow_until(store, table, {"a": b"1", "b": b"1"}, snapshot=snapshot)
    assert table.changes == [("PUT", "a", b"1"), ("PUT", "b", b"1")]  # applied once
    assert len(snapshot.attempts) >= 17
    assert all(attempt == snapshot.attempts[0] for attempt in snapshot.attempts[:17])
    assert values_of(snapshot) == table.values


@pytest.mark.usefixtures("no_pauses")
async def test_the_failures_of_a_snapshot_are_counted_in_a_row(store: KvStore) -> None:
    table, snapshot = Table(), BrittleSnapshot()
    async with following(store, table, snapshot=snapshot):
        for number in range(1, 4):
            snapshot.failing = 16
            await store.put("a", b"%d" % number)
            await table.holds({"a": b"%d" % number})

            async def stored(value: bytes = b"%d" % number) -> bool:
                return values_of(snapshot) == {"a": value}

            await eventually(stored)


@pytest.mark.usefixtures("no_pauses")
async def test_a_snapshot_that_goes_on_failing_ends_it(store: KvStore) -> None:
    await store.put("a", b"1")
    table, snapshot = Table(), BrittleSnapshot()
    snapshot.failing = 17
    async with following(store, table, snapshot=snapshot) as run:
        assert await run.failed() is snapshot.error
    assert len(snapshot.attempts) == 17
    assert run.cursors == []
    assert snapshot.cursor.is_none


async def test_a_damaged_snapshot_is_not_tried_again(store: KvStore) -> None:
    await store.put("a", b"1")
    table, snapshot = Table(), BrittleSnapshot()
    snapshot.failing, snapshot.error = 1, SnapshotCorruptedError(message="a block is damaged")
    async with following(store, table, snapshot=snapshot) as run:
        assert await run.failed() is snapshot.error
    assert len(snapshot.attempts) == 1


async def test_a_failing_snapshot_does_not_hold_up_a_stop(store: KvStore) -> None:
    await store.put("a", b"1")
    table, snapshot = Table(), BrittleSnapshot()
    snapshot.failing = 17
    async with following(store, table, snapshot=snapshot) as run:
        await table.holds({"a": b"1"})
        with pytest.raises(SnapshotError):
            await run.end()


async def test_a_bucket_that_is_gone(connection: Connection, store: KvStore) -> None:
    table = Table()
    await store.put("a", b"1")
    async with following(store, table, snapshot=MemorySnapshot()) as run:
        await table.holds({"a": b"1"})
        await connection.delete_store(store.name)
        assert isinstance(await run.failed(), StoreNotFoundError)


async def test_without_a_snapshot_an_expired_cursor_is_an_error(store: KvStore) -> None:
    await store.put("a", b"1")
    table = Table()
    cursor = await follow_until(store, table, {"a": b"1"})
    await overwrite_all(store, {"a": b"2"})
    with pytest.raises(CursorExpiredError):
        await watch_applied(store, apply=table.apply, cursor=cursor)
    assert table.values == {"a": b"1"}
