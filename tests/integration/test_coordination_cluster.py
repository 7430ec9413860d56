"""Elections and locks on a cluster of three whose bucket has no leader for longer than their ttl.

With the timeout that a connection has by default, 30 s: a request to a bucket without a leader is not answered, and a
contender that waited for it as long would be too late.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import pytest_asyncio

import slipstream
from slipstream import KvStore, LeaderElection, Lease, Lock, StoreConfig, Term
from slipstream.errors import FencedError, KvError
from slipstream.testing.cluster import NatsCluster
from tests.coordination.stints import Stints, written_tokens

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]
TTL = 2.0  # seconds; the nodes choose another leader no sooner than 4 s after they last heard of the old one
WITHIN = TTL + 10.0  # seconds until the next holder, from the moment when the bucket is led again
Contend = Callable[[KvStore, str, Stints], Coroutine[Any, Any, None]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[NatsCluster]:
    async with NatsCluster(advertise=False) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: NatsCluster) -> NatsCluster:
    """Whole again, whatever the test before has broken."""
    await running.heal()
    await running.ready()
    return running


@pytest_asyncio.fixture(loop_scope="module")
async def bucket(cluster: NatsCluster) -> str:
    """A new bucket with a copy on each node."""
    name = f"test-{secrets.token_hex(8)}"
    async with slipstream.connect(cluster.url) as connection:
        await connection.store(StoreConfig(name=name, num_replicas=3))
    await cluster.in_sync(name)
    return name


async def write_until_cancelled(store: KvStore, held: Lease | Term, name: str, stints: Stints) -> None:
    """Hold it, and write its token again and again, each time under another key."""
    token = held.fencing_token
    async with stints.of(name, token):
        writer = held.fenced(store)
        for number in itertools.count():
            try:
                await writer.put(f"log.{name}.{token.revision}.{number}", str(token).encode())
            except FencedError:
                raise
            except KvError:  # it is the cluster that fails
                pass
            await asyncio.sleep(0.1)


async def campaign(store: KvStore, name: str, stints: Stints) -> None:
    async def lead(term: Term) -> None:
        await write_until_cancelled(store, term, name, stints)

    await LeaderElection(store, "held", ttl=TTL, candidate=name).run(lead)


async def lock(store: KvStore, name: str, stints: Stints) -> None:
    while True:
        with suppress(FencedError):
            async with Lock(store, "held", ttl=TTL, holder=name) as lease:
                await write_until_cancelled(store, lease, name, stints)


@asynccontextmanager
async def contending(contend: Contend, bucket: str, urls: list[str]) -> AsyncIterator[tuple[Stints, list[KvStore]]]:
    """A contender for each URL, one after the other: the first has it when the block begins."""
    stints, stores, tasks = Stints(), [], []
    async with AsyncExitStack() as stack:
        for number, url in enumerate(urls):
            connection = await stack.enter_async_context(slipstream.connect(url))
            stores.append(await connection.store(bucket))
            tasks.append(asyncio.create_task(contend(stores[-1], f"c{number}", stints)))
            await stints.after()
        try:
            yield stints, stores
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert [repr(task.exception()) for task in tasks if not task.cancelled()] == []


def no_two_held_it(stints: Stints) -> bool:
    return stints.overlaps() == [] and stints.tokens_grow()


@pytest.mark.parametrize("contend", [campaign, lock])
async def test_a_failover_that_is_longer_than_the_ttl(cluster: NatsCluster, bucket: str, contend: Contend) -> None:
    async with contending(contend, bucket, [cluster.url] * 3) as (stints, stores):
        first = await stints.after()
        leader, others = await cluster.placement(bucket)
        await leader.kill()
        others[0].pause()  # one alone is no majority: nobody is chosen
        try:
            await asyncio.sleep(3 * TTL)  # the passing of time is the fault
            others[0].resume()
            await cluster.leader(bucket, other_than=leader)
            async with asyncio.timeout(WITHIN):
                await stints.after(first.token)
        finally:
            await leader.start()
        assert no_two_held_it(stints)
        await cluster.in_sync(bucket)
        tokens = await written_tokens(stores[0])
    assert first.token in tokens
    assert tokens == sorted(tokens)


@pytest.mark.parametrize("contend", [campaign, lock])
async def test_a_holder_that_is_left_alone_with_the_old_leader(
    cluster: NatsCluster, bucket: str, contend: Contend
) -> None:
    """Its node takes its requests and cannot store them; it is not even disconnected."""
    old, others = await cluster.placement(bucket)
    async with contending(contend, bucket, [old.url, ",".join(node.url for node in others)]) as (stints, stores):
        first = await stints.after()
        assert first.holder == "c0"
        cluster.isolate(old)
        await cluster.leader(bucket, other_than=old)
        async with asyncio.timeout(WITHIN):
            second = await stints.after(first.token)
        assert second.holder == "c1"
        assert no_two_held_it(stints)
        await cluster.heal()
        await cluster.in_sync(bucket)
        past_the_clock = stores[0].fenced("held.holder", first.token.version)
        for _ in range(3):
            with pytest.raises(FencedError):
                await past_the_clock.put("log.late", str(first.token).encode())
        tokens = await written_tokens(stores[1])
    assert first.token in tokens
    assert tokens == sorted(tokens)
