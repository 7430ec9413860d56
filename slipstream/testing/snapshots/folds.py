"""The fold: what batches make of it, how it is read, and that all of it is there again afterwards."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from slipstream.errors import InvalidKeyError, SnapshotError
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken, WatchCursor
from slipstream.testing._waiting import bounded, cancelled_after
from slipstream.testing.snapshots.base import (
    LIFE,
    SnapshotBackend,
    State,
    apply_numbers,
    batch_number,
    cursor_number,
    number_of,
    put,
    removal,
    state_of,
)

REMOVALS = pytest.mark.parametrize("operation", [Operation.DELETE, Operation.PURGE], ids=lambda kind: kind.value)


def at(revision: int) -> WatchCursor:
    return WatchCursor(revision=revision, incarnation=LIFE)


class FoldConformance(SnapshotBackend):
    """`apply`, `get`, `range`, `clear`, `cursor`, `close`."""

    async def test_a_new_one_is_empty_and_has_no_cursor(self, tmp_path: Path) -> None:
        assert await self.read(tmp_path / "made" / "by" / "it") == State()
        assert await self.read(tmp_path / "made" / "by" / "it") == State()

    async def test_path_may_be_a_str(self, tmp_path: Path) -> None:
        store, cursor = await self.kind.open(str(tmp_path))
        assert cursor.is_none
        await store.close()

    @pytest.mark.parametrize(
        "entry",
        [
            KvEntry(key="a", value=b"1", version=VersionToken.from_u64(7), created=LIFE + timedelta(microseconds=1)),
            KvEntry(key="a", value=b"1", version=VersionToken.unknown()),
            KvEntry(key="a", value=b"1", version=VersionToken.from_bytes(b"0123456789")),
            KvEntry(key="a", value=b"1", version=VersionToken.from_bytes(b"\0")),
            KvEntry(key="a", value=b"1", version=VersionToken.from_u64(2**64 - 1), created=LIFE.replace(year=1960)),
            KvEntry(key="a", value=bytes(range(256)) * 8192, version=VersionToken.from_u64(1)),
            KvEntry(key="/-_=.0." + "k" * 1017, value=b"\n\0", version=VersionToken.from_u64(0)),
        ],
        ids=["created", "unknown version", "long version", "zero version", "edges", "2 MiB", "long key"],
    )
    async def test_an_entry_is_there_as_it_was_and_again_after_a_restart(self, tmp_path: Path, entry: KvEntry) -> None:
        update = KvUpdate(
            operation=Operation.PUT,
            key=entry.key,
            value=entry.value,
            version=entry.version,
            created=entry.created,
            transaction="t",
            commit=True,
        )
        async with await self.open(tmp_path) as store:
            await store.apply([put("z", b"other", 6), update], at(7))
            assert store.get(entry.key) == entry
            assert store.get("absent") is None
        state = await self.read(tmp_path)
        assert state.fold[entry.key] == entry
        assert (len(state.fold), state.cursor) == (2, at(7))

    @REMOVALS
    @pytest.mark.parametrize("revision", [None, 3], ids=["unknown version", "known version"])
    async def test_a_removal_removes(self, tmp_path: Path, operation: Operation, revision: int | None) -> None:
        async with await self.open(tmp_path) as store:
            await store.apply([put("a", b"1", 1), put("b", b"2", 2)], at(2))
            await store.apply([removal(operation, "a", revision), removal(operation, "never.there", revision)], at(3))
            assert store.get("a") is None
            assert list(state_of(store).fold) == ["b"]
        assert list((await self.read(tmp_path)).fold) == ["b"]

    async def test_of_several_updates_of_a_key_the_last_one_counts(self, tmp_path: Path) -> None:
        gone = removal(Operation.DELETE, "a", 2)
        async with await self.open(tmp_path) as store:
            # In the order of the batch: an unknown version has no other.
            await store.apply([put("a", b"1", 9), put("a", b"2")], at(1))
            assert store.get("a") == put("a", b"2").entry
            await store.apply([gone, put("a", b"3", 3)], at(3))
            assert store.get("a") == put("a", b"3", 3).entry
            await store.apply([put("a", b"4", 4), gone], at(4))
            assert store.get("a") is None
            await store.apply([put("a", b"5", 5), gone, put("a", b"6", 6)], at(6))
        assert (await self.read(tmp_path)).fold == {"a": put("a", b"6", 6).entry}

    async def test_an_empty_batch_moves_the_cursor_alone(self, tmp_path: Path) -> None:
        async with await self.open(tmp_path) as store:
            await store.apply([put("a", b"1", 1)], at(1))
            await store.apply([], at(5))
        state = await self.read(tmp_path)
        assert (list(state.fold), state.cursor) == (["a"], at(5))

    @pytest.mark.parametrize(
        "cursor",
        [WatchCursor.none(), WatchCursor.from_u64(0), WatchCursor.from_u64(2**64 - 1), at(1)],
        ids=["none", "0", "highest", "incarnation"],
    )
    async def test_any_cursor_is_there_again(self, tmp_path: Path, cursor: WatchCursor) -> None:
        async with await self.open(tmp_path) as store:
            await store.apply([put("a", b"1", 1)], cursor)
            assert store.cursor == cursor
        assert (await self.read(tmp_path)).cursor == cursor

    async def test_many_batches_and_restarts_give_what_a_dict_gives(self, tmp_path: Path) -> None:
        states = [State()]
        for first in (1, 11, 21, 31):
            async with await self.open(tmp_path) as store:
                assert state_of(store) == states[-1]
                await apply_numbers(store, first, first + 9, states=states)
                assert state_of(store) == states[-1]
        assert await self.read(tmp_path) == states[-1]

    async def test_a_large_batch(self, tmp_path: Path) -> None:
        batch = [put(f"k.{number}", b"v" * (number % 300), number) for number in range(5000)]
        async with await self.open(tmp_path) as store:
            await store.apply(batch, at(5000))
            assert len(store) == 5000
        assert await self.read(tmp_path) == State().after(batch, at(5000))

    # ---- range

    @pytest.mark.parametrize("prefix", ["", "node", "node.", "node.a", "node.a.b", "nodes", "absent", "z"])
    @pytest.mark.parametrize("again", [False, True], ids=["", "after a restart"])
    async def test_range_gives_the_prefix_in_key_order(self, tmp_path: Path, prefix: str, again: bool) -> None:
        keys = ["node.b", "nodes.a", "node", "node.a", "node.a.b", "Node.a", "node/a", "node.ab", "a", "z", "node-a"]
        keys += [f"node.n{number}" for number in range(600)]
        async with await self.open(tmp_path) as store:
            await store.apply([put(key, b"v") for key in [*keys, "node.gone"]], at(1))
            await store.apply([removal(Operation.DELETE, "node.gone")], at(2))
            expected = sorted(key for key in keys if key.startswith(prefix))
            if not again:
                assert [entry.key for entry in store.range(prefix)] == expected
                return
        async with await self.open(tmp_path) as store:
            assert [entry.key for entry in store.range(prefix)] == expected

    async def test_range_sees_new_keys_and_no_removed_ones(self, tmp_path: Path) -> None:
        state = State()
        async with await self.open(tmp_path) as store:
            for number in range(1, 40):
                batch, cursor = batch_number(number, keys=30), cursor_number(number)
                await store.apply(batch, cursor)
                state = state.after(batch, cursor)
                assert state_of(store) == state

    async def test_a_key_that_lives_throughout_is_in_a_range_once(self, tmp_path: Path) -> None:
        stable = {f"k.{number:04}.stable" for number in range(700)}
        async with await self.open(tmp_path) as store:
            await store.apply([put(key, b"v", 1) for key in stable], at(1))
            seen = []
            for number, entry in enumerate(store.range("k.")):
                seen.append(entry.key)
                if number % 50 == 0:
                    coming, going = f"k.{number:04}.new", f"k.{number - 100:04}.new"
                    await store.apply([put(coming, b"v"), removal(Operation.DELETE, going)], at(number + 2))
            assert seen == sorted(set(seen))
            assert stable <= set(seen)

    @pytest.mark.parametrize("prefix", ["*", "node.>", "a b", "a..b", ".a", "a\n"])
    async def test_an_illegal_prefix_is_refused_at_once(self, tmp_path: Path, prefix: str) -> None:
        async with await self.open(tmp_path) as store:
            with pytest.raises(InvalidKeyError):
                store.range(prefix)

    # ---- clear

    async def test_clear_empties_the_fold_and_forgets_the_cursor(self, tmp_path: Path) -> None:
        async with await self.open(tmp_path) as store:
            await apply_numbers(store, 1, 5)
            await store.clear()
            assert state_of(store) == State()
            assert store.get("k.1") is None
        assert await self.read(tmp_path) == State()

    async def test_it_goes_on_after_clear(self, tmp_path: Path) -> None:
        states = [State()]
        async with await self.open(tmp_path) as store:
            await apply_numbers(store, 10, 15)
            await store.clear()
            await apply_numbers(store, 1, 3, states=states)
            assert state_of(store) == states[-1]
        assert await self.read(tmp_path) == states[-1]

    # ---- tasks

    async def test_batches_of_many_tasks_are_applied_one_after_the_other(self, tmp_path: Path) -> None:
        async with await self.open(tmp_path) as store:
            async with bounded():
                await asyncio.gather(*(store.apply([put(f"k.{n}", b"v", n)], at(n)) for n in range(1, 60)))
            assert len(store) == 59
            assert store.cursor == at(59)
        assert len((await self.read(tmp_path)).fold) == 59

    @pytest.mark.parametrize("turns", [*range(8), 20, 100])
    async def test_a_cancelled_batch_is_in_whole_or_not_at_all(self, tmp_path: Path, turns: int) -> None:
        states = [State()]
        async with await self.open(tmp_path) as store:
            await apply_numbers(store, 1, 2, states=states)
            task = await cancelled_after(turns, store.apply(batch_number(3), cursor_number(3)))
            assert task.cancelled() or task.exception() is None
            expected = [states[-1], states[-1].after(batch_number(3), cursor_number(3))]
            assert state_of(store) == expected[number_of(store.cursor) - 2]
            states = [state_of(store)]
            await apply_numbers(store, 4, 5, states=states)
        assert await self.read(tmp_path) == states[-1]

    @pytest.mark.parametrize("turns", [*range(8), 20, 100])
    async def test_a_cancelled_open_holds_nothing(self, tmp_path: Path, turns: int) -> None:
        task = await cancelled_after(turns, self.kind.open(tmp_path))
        if not task.cancelled():
            await task.result()[0].close()
        assert await self.read(tmp_path) == State()

    # ---- close

    async def test_close_can_be_repeated_and_the_block_closes(self, tmp_path: Path) -> None:
        store = await self.open(tmp_path)
        await store.close()
        await store.close()
        async with await self.open(tmp_path) as entered:
            await entered.close()
        await asyncio.gather(store.close(), store.close())

    async def test_a_closed_one_says_so(self, tmp_path: Path) -> None:
        async with await self.open(tmp_path) as store:
            await store.apply([put("a", b"1", 1)], at(1))
        with pytest.raises(SnapshotError, match="closed"):
            await store.apply([], at(2))
        with pytest.raises(SnapshotError, match="closed"):
            await store.clear()
        with pytest.raises(SnapshotError, match="closed"):
            store.get("a")
        with pytest.raises(SnapshotError, match="closed"):
            list(store.range())
        assert (await self.read(tmp_path)).cursor == at(1)

    async def test_close_waits_for_the_batch_under_way(self, tmp_path: Path) -> None:
        store = await self.open(tmp_path)
        batch = [put(f"k.{n}", bytes(300), n) for n in range(3000)]
        work = asyncio.create_task(store.apply(batch, at(3000)))
        await asyncio.sleep(0)
        await store.close()
        await work
        assert await self.read(tmp_path) == State().after(batch, at(3000))
