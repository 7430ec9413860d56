"""Leases when things break: connections that are cut, servers killed, paused and restarted.

What each holder writes carries its fencing token and goes to a key of its own, so that the bucket is the history:
sorted by revision, the tokens must never go back.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest
from pydantic import SecretStr

from slipstream import FencingToken, LeaderElection, Lease, Membership, Term
from slipstream.coordination import membership
from slipstream.errors import FencedError, KvError
from slipstream.interfaces import KvStore
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.testing._waiting import LIMIT, eventually
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer
from tests.coordination.stints import written_tokens

MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]
TTL = 2.0
SLOW = 30.0


def connection_to(url: str, **options: float) -> NatsConnection:
    options.setdefault("op_timeout", LIMIT)
    return NatsConnection(NatsConnectionConfig(url=SecretStr(url), heartbeat=0.5, **options))  # type: ignore[arg-type]


@pytest.fixture
async def store(nats_server: NatsServer) -> AsyncIterator[KvStore]:
    async with connection_to(nats_server.url) as connection:
        yield await connection.store("coordination")


async def is_in_token_order(store: KvStore) -> None:
    tokens = await written_tokens(store)
    assert tokens
    assert tokens == sorted(tokens)


async def write_as(name: str, store: KvStore, lease: Lease | Term) -> None:
    token = lease.fencing_token
    await lease.fenced(store).put(f"log.{name}.{secrets.token_hex(4)}", str(token).encode())


def has_fencing(store: KvStore) -> bool:
    try:
        store.fenced("k", FencingToken.parse("1-1").version)
    except KvError:
        return False
    return True


class TestFences:
    async def test_the_server_refuses_every_late_write_of_a_former_holder(
        self, nats_server: NatsServer, store: KvStore
    ) -> None:
        if not has_fencing(store):
            return
        async with connection_to(nats_server.url) as connection:
            other = await connection.store(store.name)
            former = Lease(other, "leader", ttl=TTL)
            past_the_clock = other.fenced("leader.holder", (await former.acquire()).version)
            await former.release()
            async with Lease(store, "leader", ttl=TTL):
                for number in range(20):
                    with pytest.raises(FencedError):
                        await past_the_clock.put(f"log.{number}", b"late")
        assert await store.keys("log.") == []


class TestConnections:
    async def test_a_holder_that_is_cut_off_knows_before_another_holds(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, store: KvStore
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        async with connection_to(proxy.url) as connection:
            lease = Lease(await connection.store(store.name), "leader", ttl=TTL)
            token = await lease.acquire()
            next_one = Lease(store, "leader", ttl=TTL)
            async with asyncio.timeout(TTL + 10):
                acquiring = asyncio.create_task(next_one.acquire())
                proxy.black_hole()
                assert await acquiring > token
                assert lease.lost.is_set()
                assert not lease.is_held
                await next_one.release()
            await proxy.heal()

    @pytest.mark.parametrize("direction", ["to_client", "to_server", "both"])
    async def test_a_short_cut_costs_nothing(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, store: KvStore, direction: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        async with connection_to(proxy.url) as connection:
            far = await connection.store(store.name)
            async with Lease(far, "leader", ttl=6) as lease:
                ticket = (await store.keys("leader.queue."))[0]
                proxy.black_hole(direction)  # type: ignore[arg-type]
                # The passing of time is the fault: a renewal, every third of the ttl, goes unanswered meanwhile. There
                # is no event to wait for, since it is one of nothing: most ways the renewal itself never arrives.
                await asyncio.sleep(2.5)
                await proxy.heal()
                async with store.watch(ticket) as watch, asyncio.timeout(10):
                    for _ in range(3):
                        await anext(watch)
                assert lease.is_held
                assert not lease.lost.is_set()

    async def test_renewals_with_lost_answers_are_settled(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, store: KvStore
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        async with connection_to(proxy.url) as connection:
            lease = Lease(await connection.store(store.name), "leader", ttl=6)
            await lease.acquire()
            for _ in range(5):
                proxy.reset()
                proxy.cut_after(400, "to_client")
                await asyncio.sleep(1)
            await proxy.heal()
            assert lease.is_held
            await lease.release()


class TestServers:
    async def test_a_lease_outlives_a_restart_that_is_shorter_than_it(
        self, nats_server: NatsServer, store: KvStore
    ) -> None:
        async with asyncio.timeout(SLOW), Lease(store, "leader", ttl=10) as lease:
            await nats_server.kill()
            await nats_server.start()
            waiting = asyncio.create_task(Lease(store, "leader", ttl=10).acquire())

            async def is_back() -> bool:
                return len(await store.keys("leader.queue.")) == 2

            await eventually(is_back)
            assert lease.is_held
            if has_fencing(store):
                await write_as("a", store, lease)
            waiting.cancel()

    async def test_those_who_wait_outlive_a_restart_and_come_in_turn(
        self, nats_server: NatsServer, store: KvStore
    ) -> None:
        holder, waiter = Lease(store, "leader", ttl=10), Lease(store, "leader", ttl=10)
        await holder.acquire()
        async with asyncio.timeout(SLOW):
            acquiring = asyncio.create_task(waiter.acquire())

            async def waits() -> bool:
                return len(await store.keys("leader.queue.")) == 2

            await eventually(waits)
            await nats_server.kill()
            await nats_server.start()
            await holder.release()
            assert await acquiring > holder.fencing_token
            await waiter.release()

    async def test_after_a_long_outage_there_is_a_leader_again(self, nats_server: NatsServer, store: KvStore) -> None:
        async with asyncio.timeout(SLOW), connection_to(nats_server.url) as connection:
            other = await connection.store(store.name)
            tokens: list[FencingToken] = []
            led_again = asyncio.Event()

            async def lead(term: Term) -> None:
                tokens.append(term.fencing_token)
                if len(tokens) > 1:
                    led_again.set()
                await asyncio.Event().wait()

            running = [
                asyncio.create_task(LeaderElection(each, "leader", ttl=TTL).run(lead)) for each in (store, other)
            ]

            async def leads() -> bool:
                return bool(tokens)

            await eventually(leads)
            nats_server.pause()
            await asyncio.sleep(TTL + 1)  # the passing of time is the fault
            nats_server.resume()
            async with asyncio.timeout(TTL + 10):
                await led_again.wait()
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        assert tokens == sorted(set(tokens))


class TestMembers:
    async def test_one_comes_back_after_an_outage_of_any_length(
        self, nats_server: NatsServer, store: KvStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(membership, "_GRACE_SECONDS", 0.5)
        async with asyncio.timeout(SLOW), Membership(store, "group", member="a", ttl=1) as members:
            nats_server.pause()
            await asyncio.sleep(6)  # longer than a name that is taken is waited for
            nats_server.resume()
            await members.set_value(b"back")
            async for change in members:
                if change.value == b"back":
                    break
            assert dict(members) == {"a": b"back"}


class TestHistory:
    async def test_no_writes_of_two_holders_interleave(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, store: KvStore
    ) -> None:
        """Five holders, each behind a proxy of its own that breaks at random, for some ten seconds."""
        if not has_fencing(store):
            return
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + 10
        chance = random.Random(7)

        async def hold(name: str, far: KvStore) -> None:
            while loop.time() < ends_at:
                with suppress(KvError):
                    async with Lease(far, "leader", ttl=1) as lease:
                        for _ in range(chance.randint(1, 30)):
                            await write_as(name, far, lease)

        async def disturb(proxy: FaultProxy) -> None:
            while loop.time() < ends_at:
                await asyncio.sleep(chance.uniform(0.1, 1))
                chance.choice([proxy.drop, proxy.reset, proxy.black_hole, lambda: proxy.latency(0.2)])()
                await asyncio.sleep(chance.uniform(0.1, 1.5))
                await proxy.heal()

        async with AsyncExitStack() as stack, asyncio.timeout(45):
            proxies = [await fault_proxy("127.0.0.1", nats_server.port) for _ in range(5)]
            far = [
                await (await stack.enter_async_context(connection_to(proxy.url, op_timeout=3))).store(store.name)
                for proxy in proxies
            ]
            async with asyncio.TaskGroup() as group:
                for number, proxy in enumerate(proxies):
                    group.create_task(hold(f"h{number}", far[number]))
                    group.create_task(disturb(proxy))
        await is_in_token_order(store)
        assert len(set(await written_tokens(store))) > 2
