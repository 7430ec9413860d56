"""Lock and Semaphore: in turn, never more than there may be, and a hand-over that wakes one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import nats
import pytest
from nats.aio.msg import Msg
from pydantic import SecretStr

from slipstream import Lock, Semaphore
from slipstream.errors import FencedError, OperationTimeoutError
from slipstream.interfaces import Connection, KvStore
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.testing._waiting import LIMIT, bounded, cancelled_after, eventually

OpenStore = Callable[[], Awaitable[tuple[Connection, KvStore]]]
CONTENDERS = 50
# Messages, answers included, however many wait: a removal, a win, a look at the queue, a watch that ends; some fifteen.
PER_HAND_OVER = 20


async def tickets(store: KvStore, prefix: str, count: int) -> None:
    """Return once so many are in the queue."""

    async def are_there() -> bool:
        return len(await store.keys(prefix)) == count

    await eventually(are_there)


class TestLock:
    async def test_fifty_contenders_have_it_one_at_a_time(self, store: KvStore) -> None:
        inside, most, count = 0, 0, 0

        async def one() -> None:
            nonlocal inside, most, count
            async with Lock(store, "lock", ttl=60):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1
                count += 1

        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            for _ in range(CONTENDERS):
                group.create_task(one())
        assert (most, count) == (1, CONTENDERS)

    async def test_it_is_fair(self, store: KvStore) -> None:
        order: list[int] = []

        async def one(number: int) -> None:
            async with Lock(store, "lock", ttl=30):
                order.append(number)

        holder = Lock(store, "lock", ttl=30)
        await holder.acquire()
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(one(number))
                await tickets(store, "lock.queue.", number + 2)
            assert order == []
            await holder.release()
        assert order == list(range(10))

    async def test_tasks_may_share_an_object(self, store: KvStore) -> None:
        lock, inside, order = Lock(store, "lock", ttl=30), 0, []

        async def one(number: int) -> None:
            nonlocal inside
            async with lock as lease:
                inside += 1
                assert inside == 1
                assert lease.is_held
                await asyncio.sleep(0)
                inside -= 1
                order.append(number)

        async with bounded():
            await asyncio.gather(*(one(number) for number in range(5)))
        assert order == [0, 1, 2, 3, 4]

    async def test_it_may_be_tried_and_waited_for_with_a_timeout(self, store: KvStore) -> None:
        first, second = Lock(store, "lock"), Lock(store, "lock")
        assert await first.try_acquire()
        assert not await first.try_acquire()
        assert not await second.try_acquire()
        for lock in (first, second):
            with pytest.raises(OperationTimeoutError, match="lock"):
                await lock.acquire(timeout=0.2)
        assert first.is_held
        await first.release()
        await first.release()
        assert await second.acquire(timeout=LIMIT) > first.fencing_token
        await first.release()
        assert second.is_held
        await second.release()

    @pytest.mark.parametrize("turns", [0, 1, 3, 8, 21])
    async def test_a_cancelled_wait_leaves_nothing_behind(self, store: KvStore, turns: int) -> None:
        lock = Lock(store, "lock")
        async with Lock(store, "lock"):
            await cancelled_after(turns, lock.acquire())
            assert len(await store.keys("lock.queue.")) == 1
        async with bounded(), lock:
            assert lock.is_held

    async def test_one_that_was_lost_can_be_had_again(self, open_store: OpenStore) -> None:
        _, store = await open_store()
        lock = Lock(store, "lock", ttl=1)

        async def hold() -> None:
            async with lock:
                for key in await store.keys("lock.queue."):
                    await store.purge(key)
                await asyncio.Event().wait()

        async with bounded():
            with pytest.raises(FencedError):
                await hold()
            async with lock:
                assert lock.is_held

    @pytest.mark.parametrize("contenders", [12, CONTENDERS])
    async def test_a_hand_over_wakes_one(self, nats_url: str, contenders: int) -> None:
        """Every message in the account is counted, but for the heartbeats of the watches of those who wait."""
        name = f"herd-{secrets.token_hex(8)}"
        counted = 0

        async def count(message: Msg) -> None:
            nonlocal counted
            if (message.headers or {}).get("Status") != "100" and b"Idle Heartbeat" not in message.data:
                counted += 1

        client = await nats.connect(nats_url)
        config = NatsConnectionConfig(url=SecretStr(nats_url), op_timeout=LIMIT, heartbeat=30)
        async with NatsConnection(config) as connection:
            store = await connection.store(name)
            try:
                locks = [Lock(store, "lock", ttl=600) for _ in range(contenders)]
                await locks[0].acquire()
                async with asyncio.timeout(40), asyncio.TaskGroup() as group:
                    waiting = []
                    for number, lock in enumerate(locks[1:], 2):
                        waiting.append(group.create_task(lock.acquire()))
                        await tickets(store, "lock.queue.", number)
                    await client.subscribe(">", cb=count)
                    await client.flush()
                    hand_overs = 10
                    for number in range(hand_overs):
                        # By the task that has it: here the lease of the lock stands for it.
                        await locks[number]._lease.release()
                        await waiting[number]
                    await client.flush()
                    each = counted / hand_overs
                    for task in waiting[hand_overs:]:
                        task.cancel()
                assert 0 < each <= PER_HAND_OVER
            finally:
                await connection.delete_store(name)
                await client.close()


class TestSemaphore:
    @pytest.mark.parametrize("permits", [1, 3])
    async def test_there_are_never_more_holders_than_permits(self, store: KvStore, permits: int) -> None:
        inside, most, count = 0, 0, 0
        all_are_in = asyncio.Event()

        async def one() -> None:
            nonlocal inside, most, count
            async with Semaphore(store, "gate", permits, ttl=30) as permit:
                assert permit.is_held
                inside += 1
                most = max(most, inside)
                if inside == permits:
                    all_are_in.set()
                await all_are_in.wait()  # the first ones for each other
                await asyncio.sleep(0.005)  # the work
                inside -= 1
                count += 1

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(one())
        assert (most, count) == (permits, 20)

    async def test_it_is_fair(self, store: KvStore) -> None:
        holders = [await Semaphore(store, "gate", 2, ttl=30).acquire() for _ in range(2)]
        order: list[int] = []
        first_is_in = asyncio.Event()

        async def one(number: int) -> None:
            async with Semaphore(store, "gate", 2, ttl=30):
                order.append(number)
                if number == 0:
                    first_is_in.set()
                    await asyncio.Event().wait()  # so that the others have one permit between them

        async with bounded(), asyncio.TaskGroup() as group:
            tasks = []
            for number in range(4):
                tasks.append(group.create_task(one(number)))
                await tickets(store, "gate.permits.", number + 3)
            await holders[0].release()
            await first_is_in.wait()  # with two permits free at once, either of the first two may notice first
            await holders[1].release()
            await asyncio.gather(*tasks[1:])
            tasks[0].cancel()
        assert order == [0, 1, 2, 3]

    async def test_a_dead_holder_is_replaced(self, store: KvStore, open_store: OpenStore) -> None:
        connection, other = await open_store()
        dead = await Semaphore(other, "gate", 2, ttl=1).acquire()
        alive = await Semaphore(store, "gate", 2, ttl=30).acquire()
        async with bounded(), asyncio.TaskGroup() as group:
            waiting = group.create_task(Semaphore(store, "gate", 2, ttl=30).acquire())
            await tickets(store, "gate.permits.", 3)
            await connection.shutdown()
            third = await waiting
        assert dead.lost.is_set()
        assert (dead.is_held, alive.is_held, third.is_held) == (False, True, True)
        for permit in (alive, third):
            await permit.release()
            await permit.release()
        assert await store.keys("gate.permits.") == []

    async def test_it_may_be_tried_and_shared(self, store: KvStore) -> None:
        gate = Semaphore(store, "gate", 2)
        first, second = await gate.try_acquire(), await gate.try_acquire()
        assert first is not None
        assert second is not None
        assert await gate.try_acquire() is None
        with pytest.raises(OperationTimeoutError):
            await gate.acquire(timeout=0.2)
        await first.release()
        async with bounded(), gate as third:
            assert third.is_held
        await second.release()
        with pytest.raises(ValueError, match="at least one permit"):
            Semaphore(store, "gate", 0)

    async def test_the_block_of_a_lost_permit_is_cancelled(self, store: KvStore) -> None:
        async def hold() -> None:
            async with bounded(), Semaphore(store, "gate", 1, ttl=1):
                for key in await store.keys("gate.permits."):
                    await store.purge(key)
                await asyncio.Event().wait()

        with pytest.raises(FencedError, match="removed"):
            await hold()
