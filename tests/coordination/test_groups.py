"""Membership, Barrier and Counter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from slipstream import Barrier, Counter, MemberChange, MemberEvent, Membership
from slipstream.coordination import membership
from slipstream.errors import AlreadyExistsError, DeserializationError, NotConnectedError, OperationTimeoutError
from slipstream.interfaces import Connection, KvStore
from slipstream.testing._waiting import bounded, cancelled_after, eventually

OpenStore = Callable[[], Awaitable[tuple[Connection, KvStore]]]
TTL = 1.0  # of those who shall die soon
HELD = 3.0  # of those who shall not, though the machine stalls for a second


def joined(member: str, value: bytes = b"") -> MemberChange:
    return MemberChange(event=MemberEvent.JOINED, member=member, value=value)


def left(member: str, value: bytes = b"") -> MemberChange:
    return MemberChange(event=MemberEvent.LEFT, member=member, value=value)


class TestMembership:
    async def test_who_is_there_is_told_first_and_then_who_comes_and_goes(self, store: KvStore) -> None:
        async with bounded(), Membership(store, "group", member="a", value=b"1") as a:
            assert dict(a) == {"a": b"1"}
            assert await anext(a) == joined("a", b"1")
            async with Membership(store, "group", member="b", value=b"2") as b:
                assert dict(b) == {"a": b"1", "b": b"2"}
                assert [await anext(b), await anext(b)] == [joined("a", b"1"), joined("b", b"2")]
                assert await anext(a) == joined("b", b"2")
                await b.set_value(b"3")
                assert b["b"] == b"3"
                assert await anext(a) == MemberChange(event=MemberEvent.CHANGED, member="b", value=b"3")
            assert await anext(a) == left("b", b"3")
            assert dict(a) == {"a": b"1"}
        assert await store.keys("group.") == []

    async def test_it_stays_for_as_long_as_the_block(self, store: KvStore) -> None:
        async with Membership(store, "group", member="a", ttl=HELD) as a:
            await anext(a)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5 * HELD):
                    await anext(a)
            assert list(a) == ["a"]

    async def test_a_dead_member_leaves(self, store: KvStore, open_store: OpenStore) -> None:
        connection, other = await open_store()
        dying = Membership(other, "group", member="b", ttl=TTL)
        await dying.__aenter__()
        async with bounded(), Membership(store, "group", join=False) as view:
            assert await anext(view) == joined("b")
            await connection.shutdown()
            assert await anext(view) == left("b")
            with pytest.raises(NotConnectedError):
                await _to_the_end(dying)
            await dying.__aexit__(None, None, None)

    async def test_one_that_was_removed_joins_again(self, store: KvStore) -> None:
        async with bounded(), Membership(store, "group", member="a", value=b"1", ttl=TTL) as a:
            await anext(a)
            await store.purge("group.a")
            assert [await anext(a), await anext(a)] == [left("a", b"1"), joined("a", b"1")]

    async def test_a_name_is_had_once(self, store: KvStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(membership, "_GRACE_SECONDS", 1.0)
        async with Membership(store, "group", member="a", ttl=HELD):
            with pytest.raises(AlreadyExistsError):
                async with asyncio.timeout(20), Membership(store, "group", member="a", ttl=HELD):
                    pytest.fail("two have the name")

    async def test_the_name_of_one_who_died_is_free_after_its_time(self, store: KvStore, open_store: OpenStore) -> None:
        connection, other = await open_store()
        dying = Membership(other, "group", member="a", value=b"old", ttl=TTL)
        await dying.__aenter__()
        await connection.shutdown()
        async with bounded(), Membership(store, "group", member="a", value=b"new", ttl=TTL) as again:
            assert dict(again) == {"a": b"new"}
        await dying.__aexit__(None, None, None)

    async def test_names_are_made_up_and_all_are_different(self, store: KvStore) -> None:
        async with Membership(store, "group") as a, Membership(store, "group") as b:
            assert {a.member, b.member} == set(b)
            assert len(b) == 2

    async def test_one_that_looks_on_sees_and_is_not_seen(self, store: KvStore) -> None:
        async with bounded(), Membership(store, "group", join=False) as view:
            assert dict(view) == {}
            with pytest.raises(RuntimeError, match="joined"):
                await view.set_value(b"1")
            async with Membership(store, "group", member="a"):
                assert await anext(view) == joined("a")

    async def test_it_ends_with_its_block(self, store: KvStore) -> None:
        before = asyncio.all_tasks()
        async with Membership(store, "group", member="a") as group:
            pass
        async with bounded():
            await _to_the_end(group)
        kept = {task for task in asyncio.all_tasks() - before if "membership" in task.get_name()}
        assert not kept


class TestBarrier:
    async def test_they_go_on_together_and_again(self, store: KvStore) -> None:
        barriers = [Barrier(store, "start", 3, ttl=30) for _ in range(3)]
        for _ in range(3):
            async with bounded():
                places = await asyncio.gather(*(barrier.wait() for barrier in barriers))
            assert sorted(places) == [0, 1, 2]

    async def test_one_too_few_wait(self, store: KvStore) -> None:
        async with bounded(), asyncio.TaskGroup() as group:
            two = [group.create_task(Barrier(store, "start", 3).wait()) for _ in range(2)]
            await _waiting(store, 2)
            with pytest.raises(OperationTimeoutError, match="fewer than 4"):
                await Barrier(store, "other", 4).wait(timeout=0.3)
            assert not any(task.done() for task in two)
            assert await Barrier(store, "start", 3).wait() == 2
        assert sorted(task.result() for task in two) == [0, 1]

    async def test_more_than_enough_are_let_through_in_groups(self, store: KvStore) -> None:
        async with bounded():
            places = await asyncio.gather(*(Barrier(store, "start", 3).wait() for _ in range(9)))
        assert sorted(places) == [0, 0, 0, 1, 1, 1, 2, 2, 2]

    async def test_who_gives_up_does_not_count(self, store: KvStore) -> None:
        for turns in (1, 5, 20):
            await cancelled_after(turns, Barrier(store, "start", 2).wait())
        assert await store.keys("start.waiting.") == []
        with pytest.raises(OperationTimeoutError):
            await Barrier(store, "start", 2).wait(timeout=0.3)

    async def test_the_dead_do_not_count(self, store: KvStore, open_store: OpenStore) -> None:
        connection, other = await open_store()
        async with bounded(), asyncio.TaskGroup() as group:
            dead = group.create_task(_wait_or_end(Barrier(other, "start", 3, ttl=TTL)))
            alive = group.create_task(Barrier(store, "start", 3, ttl=HELD).wait())
            await _waiting(store, 2)
            await connection.shutdown()
            await dead
            await _waiting(store, 1)
            others = [group.create_task(Barrier(store, "start", 3, ttl=HELD).wait()) for _ in range(2)]
        assert sorted([alive.result(), *(task.result() for task in others)]) == [0, 1, 2]


class TestCounter:
    async def test_nothing_is_lost_and_nothing_counted_twice(self, store: KvStore, open_store: OpenStore) -> None:
        _, other = await open_store()
        counters = [Counter(store, "count"), Counter(other, "count")]
        async with asyncio.timeout(30):
            numbers = await asyncio.gather(*(counters[number % 2].add() for number in range(40)))
        assert sorted(numbers) == list(range(1, 41))
        assert await counters[1].value() == 40

    async def test_it_counts_from_nothing_in_both_directions(self, store: KvStore) -> None:
        counter = Counter(store, "count")
        assert await counter.value() == 0
        assert await counter.add(-5) == -5
        await counter.set(7)
        assert await counter.add(0) == 7
        entry = await store.get("count")
        assert entry is not None
        assert entry.value == b"7"
        await store.delete("count")
        assert await counter.add() == 1

    async def test_what_is_no_number_is_named(self, store: KvStore) -> None:
        await store.put("count", b"many")
        for ask in (Counter(store, "count").value, Counter(store, "count").add):
            with pytest.raises(DeserializationError, match="count"):
                await ask()


async def _to_the_end(group: Membership) -> None:
    async for _ in group:
        pass


async def _waiting(store: KvStore, count: int) -> None:
    async def are_there() -> bool:
        return len(await store.keys("start.waiting.")) == count

    await eventually(are_there)


async def _wait_or_end(barrier: Barrier) -> None:
    with pytest.raises(NotConnectedError):
        await barrier.wait()
