"""Lease: one holder, kept alive, replaced when it dies, and lost before another one has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from slipstream import FencingToken, Lease
from slipstream.errors import (
    FencedError,
    InvalidKeyError,
    NotConnectedError,
    OperationTimeoutError,
    UnsupportedError,
)
from slipstream.interfaces import Connection, KvStore
from slipstream.testing._waiting import bounded, cancelled_after, eventually, ticks

OpenStore = Callable[[], Awaitable[tuple[Connection, KvStore]]]
TTL = 1.0  # of those who shall die soon
HELD = 3.0  # of those who shall not, though the machine stalls for a second


def keepalives() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "slipstream-keepalive"]


async def waiting(store: KvStore, count: int) -> None:
    """Return once so many are in the queue of `job`, the holder included."""

    async def are_there() -> bool:
        return len(await store.keys("job.queue.")) == count

    await eventually(are_there)


class TestHolding:
    async def test_one_holds_it_and_others_do_not(self, store: KvStore) -> None:
        first, second = Lease(store, "job"), Lease(store, "job")
        await first.acquire()
        assert await second.try_acquire() is None
        assert (first.is_held, second.is_held) == (True, False)
        await first.release()
        assert not first.is_held
        assert await second.try_acquire() is not None
        assert second.is_held
        await second.release()

    async def test_the_token_is_the_winning_write_and_grows(self, store: KvStore) -> None:
        lease, tokens = Lease(store, "job"), []
        for _ in range(3):
            tokens.append(await lease.acquire())
            entry = await store.get("job.holder")
            assert entry is not None
            assert lease.fencing_token == tokens[-1]
            assert tokens[-1].version == entry.version
            assert tokens[-1].incarnation == (await store.status()).incarnation
            await lease.release()
        assert tokens == sorted(set(tokens))
        assert [FencingToken.parse(str(token)) for token in tokens] == tokens

    async def test_it_is_kept_alive(self, store: KvStore) -> None:
        async with Lease(store, "job", ttl=HELD) as lease:
            rival = Lease(store, "job", ttl=HELD)
            with pytest.raises(OperationTimeoutError):
                await rival.acquire(timeout=1.5 * HELD)
            assert lease.is_held
            assert not lease.lost.is_set()
            assert (await store.keys("job.queue.")) != []

    async def test_whoever_waits_gets_it_when_it_is_released(self, store: KvStore) -> None:
        first, second = Lease(store, "job", ttl=60), Lease(store, "job", ttl=60)
        await first.acquire()
        async with bounded(), asyncio.TaskGroup() as group:
            next_token = group.create_task(second.acquire())
            await waiting(store, 2)
            await first.release()
        assert next_token.result() > first.fencing_token
        await second.release()

    async def test_a_release_can_be_repeated_and_leaves_the_next_holder_alone(self, store: KvStore) -> None:
        first, second = Lease(store, "job"), Lease(store, "job")
        await first.release()
        await first.acquire()
        await first.release()
        await second.acquire()
        await first.release()
        assert await first.try_acquire() is None
        await second.resign()
        assert not second.lost.is_set()

    async def test_the_leases_of_a_process_share_one_task_that_ends_with_them(self, store: KvStore) -> None:
        leases = [Lease(store, f"job{number}", ttl=HELD) for number in range(5)]
        for lease in leases:
            await lease.acquire()
        assert len(keepalives()) == 1
        await asyncio.sleep(1.5 * HELD)  # the passing of time is what is tested
        assert all(lease.is_held for lease in leases)
        for lease in leases:
            await lease.release()
        async with bounded():
            await asyncio.gather(*keepalives())

    async def test_one_object_is_one_contender(self, store: KvStore) -> None:
        lease = Lease(store, "job")
        with pytest.raises(RuntimeError, match="never held"):
            _ = lease.fencing_token
        await lease.acquire()
        for again in (lease.acquire, lease.try_acquire):
            with pytest.raises(RuntimeError, match="make another one"):
                await again()
        assert lease.is_held
        await lease.release()

    async def test_its_arguments_are_checked(self, store: KvStore) -> None:
        with pytest.raises(InvalidKeyError):
            Lease(store, "no key")
        for ttl in (0.9, float("nan")):
            with pytest.raises(ValueError, match="at least one second"):
                Lease(store, "job", ttl=ttl)

    async def test_a_key_that_is_none_of_ours_is_named(self, store: KvStore) -> None:
        await store.put("job.queue.mine", b"something")
        with pytest.raises(Exception, match=r"job\.queue\.mine"):
            await Lease(store, "job").acquire()


class TestWaiting:
    async def test_a_timeout_leaves_nothing_behind(self, store: KvStore) -> None:
        async with Lease(store, "job"):
            with pytest.raises(OperationTimeoutError, match="job"):
                await Lease(store, "job").acquire(timeout=0.3)
            await waiting(store, 1)

    @pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34])
    async def test_a_cancel_at_any_time_leaves_nothing_behind(self, store: KvStore, turns: int) -> None:
        lease = Lease(store, "job")
        await cancelled_after(turns, lease.acquire())
        await lease.release()
        assert await store.keys("job.queue.") == []
        assert await Lease(store, "job").try_acquire() is not None

    async def test_it_waits_in_turn(self, store: KvStore) -> None:
        holder = Lease(store, "job", ttl=60)
        await holder.acquire()
        order: list[int] = []

        async def one(number: int) -> None:
            async with Lease(store, "job", ttl=60):
                order.append(number)

        async with bounded(), asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(one(number))
                await waiting(store, number + 2)
            await holder.release()
        assert order == [0, 1, 2, 3, 4]

    async def test_who_gives_up_waiting_is_passed_over(self, store: KvStore) -> None:
        holder, last = Lease(store, "job", ttl=60), Lease(store, "job", ttl=60)
        await holder.acquire()
        async with bounded(), asyncio.TaskGroup() as group:
            between = group.create_task(Lease(store, "job", ttl=60).acquire())
            await waiting(store, 2)
            winning = group.create_task(last.acquire())
            await waiting(store, 3)
            between.cancel()
            await waiting(store, 2)
            assert not winning.done()
            await holder.release()
        assert last.is_held
        await last.release()

    async def test_it_ends_with_the_connection(self, open_store: OpenStore, store: KvStore) -> None:
        connection, other = await open_store()
        async with Lease(store, "job"), bounded():
            task = asyncio.create_task(Lease(other, "job").acquire())
            await waiting(store, 2)
            await connection.shutdown()
            with pytest.raises(NotConnectedError):
                await task


class TestLosing:
    async def test_a_dead_holder_is_replaced_after_it_knows(self, open_store: OpenStore, store: KvStore) -> None:
        connection, other = await open_store()
        dead, next_one = Lease(other, "job", ttl=TTL), Lease(store, "job", ttl=HELD)
        await dead.acquire()
        async with bounded():
            acquiring = asyncio.create_task(next_one.acquire())
            await waiting(store, 2)
            await connection.shutdown()
            assert await acquiring > dead.fencing_token
        assert dead.lost.is_set()
        assert "shut down" in (dead.lost.reason or "")
        assert not dead.is_held
        await next_one.release()

    async def test_the_dead_before_are_all_replaced(self, open_store: OpenStore, store: KvStore) -> None:
        connection, other = await open_store()
        await Lease(other, "job", ttl=TTL).acquire()
        async with bounded(), asyncio.TaskGroup() as group:
            dying = [group.create_task(_acquire_or_end(Lease(other, "job", ttl=TTL))) for _ in range(3)]
            await waiting(store, 4)
            alive = Lease(store, "job", ttl=TTL)
            acquiring = group.create_task(alive.acquire())
            await waiting(store, 5)
            await connection.shutdown()
            await acquiring
        assert [task.result() for task in dying] == [False] * 3
        await alive.release()

    async def test_the_block_is_cancelled_and_says_why(self, open_store: OpenStore) -> None:
        connection, other = await open_store()
        seen: list[str] = []
        lease = Lease(other, "job", ttl=TTL)

        async def hold() -> None:
            async with bounded(), lease:
                await connection.shutdown()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    seen.append("cancelled")
                    raise

        with pytest.raises(FencedError, match="not held any more") as caught:
            await hold()
        assert seen == ["cancelled"]
        assert caught.value.expected == lease.fencing_token.version
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        await ticks(3)  # nothing of it comes later

    async def test_a_cancel_from_elsewhere_stays_one(self, store: KvStore) -> None:
        entered = asyncio.Event()

        async def hold() -> None:
            async with Lease(store, "job"):
                entered.set()
                await asyncio.Event().wait()

        async with bounded():
            task = asyncio.create_task(hold())
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await store.keys("job.queue.") == []

    async def test_a_blocked_loop_finds_it_lost_before_it_writes(self, store: KvStore, open_store: OpenStore) -> None:
        connection, _ = await open_store()
        if not connection.capabilities.fencing:
            return
        lease = Lease(store, "job", ttl=HELD)
        await lease.acquire()
        writer = lease.fenced(store)
        await writer.put("k", b"1")
        before = (await store.status()).last_revision
        time.sleep(HELD)  # noqa: ASYNC251 - the loop stands still
        with pytest.raises(FencedError, match="stood still"):
            await writer.put("k", b"2")
        assert not lease.is_held
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == b"1"
        assert entry.revision is not None
        assert entry.revision <= before
        await lease.release()

    async def test_whose_ticket_was_taken_away_has_lost_it(self, store: KvStore) -> None:
        lease = Lease(store, "job", ttl=TTL)
        await lease.acquire()
        for key in await store.keys("job.queue."):
            await store.purge(key)
        async with bounded():
            await lease.lost.wait()
        assert "removed" in (lease.lost.reason or "")
        assert await Lease(store, "job", ttl=TTL).try_acquire() is not None

    async def test_a_lost_lease_can_be_acquired_again(self, store: KvStore) -> None:
        lease = Lease(store, "job", ttl=HELD)
        first = await lease.acquire()
        lost = lease.lost
        time.sleep(HELD)  # noqa: ASYNC251 - the loop stands still
        async with bounded():
            await lost.wait()
            assert await lease.acquire() > first
        assert lease.is_held
        assert not lease.lost.is_set()
        await lease.release()

    async def test_one_that_was_lost_before_its_block_is_not_acquired_again_behind_ones_back(
        self, store: KvStore
    ) -> None:
        lease = Lease(store, "job", ttl=HELD)
        first = await lease.acquire()
        time.sleep(HELD)  # noqa: ASYNC251 - the loop stands still

        async def hold() -> None:
            async with bounded(), lease:
                await asyncio.Event().wait()

        with pytest.raises(FencedError, match="stood still"):
            await hold()
        assert lease.fencing_token == first
        async with bounded(), lease:
            assert lease.fencing_token > first

    async def test_a_bucket_made_again_is_another_life(self, open_store: OpenStore) -> None:
        connection, store = await open_store()
        config = (await store.status()).config
        lease = Lease(store, "job", ttl=TTL)
        first = await lease.acquire()
        await connection.delete_store(store.name)
        again = await connection.store(config)
        async with bounded():
            await lease.lost.wait()
        token = await Lease(again, "job", ttl=TTL).acquire()
        assert token > first
        assert token.incarnation > first.incarnation


class TestFencing:
    async def test_the_server_refuses_what_an_old_holder_writes(self, open_store: OpenStore, store: KvStore) -> None:
        connection, _ = await open_store()
        old, new = Lease(store, "job"), Lease(store, "job")
        token = await old.acquire()
        if not connection.capabilities.fencing:
            with pytest.raises(UnsupportedError):
                old.fenced(store)
            return
        past_the_clock = store.fenced("job.holder", token.version)  # as if the local clock had seen nothing
        await past_the_clock.put("k", b"old")
        await old.release()
        await new.acquire()
        for _ in range(3):
            with pytest.raises(FencedError):
                await past_the_clock.put("k", b"late")
        await new.fenced(store).put("k", b"new")
        with pytest.raises(FencedError, match="released"):
            await old.fenced(store).put("k", b"late")
        await new.release()

    async def test_renewals_leave_the_fence_where_it_is(self, open_store: OpenStore, store: KvStore) -> None:
        connection, _ = await open_store()
        if not connection.capabilities.fencing:
            return
        async with Lease(store, "job", ttl=HELD) as lease:
            writer = lease.fenced(store)
            key = (await store.keys("job.queue."))[0]
            first = await store.get(key)
            async with store.watch(key) as watch, bounded():
                for _ in range(3):
                    assert await anext(watch)
                    await writer.put("k", b"1")
            entry = await store.get(key)
            assert first is not None
            assert entry is not None
            assert entry.version != first.version

    async def test_a_refused_write_ends_the_holding(self, open_store: OpenStore, store: KvStore) -> None:
        connection, _ = await open_store()
        if not connection.capabilities.fencing:
            return
        lease = Lease(store, "job")

        async def hold() -> None:
            async with lease:
                await store.delete("job.holder")
                await lease.fenced(store).put("k", b"1")

        with pytest.raises(FencedError):
            await hold()
        assert lease.lost.is_set()
        assert await store.get("k") is None

    async def test_it_fences_the_bucket_that_it_lives_in(self, open_store: OpenStore) -> None:
        connection, store = await open_store()
        other = await connection.store(f"{store.name}-other")
        try:
            async with Lease(store, "job") as lease:
                with pytest.raises(UnsupportedError, match=store.name):
                    lease.fenced(other)
        finally:
            await connection.delete_store(other.name)


async def _acquire_or_end(lease: Lease) -> bool:
    try:
        await lease.acquire()
    except NotConnectedError:
        return False
    return True
