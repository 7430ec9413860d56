"""With default reads there is one order of all operations that explains every answer, whatever befalls the leader.

Some clients stay on the leader's node, and know no other: with it they are cut off, and its answers are all they get.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

import slipstream
from slipstream import StoreConfig
from slipstream.testing.checkers import History, Kind, Outcome, check_linearizable
from slipstream.testing.cluster import ClusterNode, NatsCluster
from tests.integration.faults.workload import CONDITIONAL, MIXED, READING, Workload, new_bucket

FAULT_SECONDS = 15.0
CALM_SECONDS = 2.0
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

Fault = Callable[[NatsCluster, ClusterNode], Awaitable[None]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[NatsCluster]:
    """Nodes that tell their clients of no other node."""
    async with NatsCluster(advertise=False) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: NatsCluster) -> NatsCluster:
    """Whole again, whatever the test before has broken."""
    await running.restore()
    return running


@pytest_asyncio.fixture(loop_scope="module")
async def bucket(cluster: NatsCluster) -> str:
    name = f"test-{secrets.token_hex(8)}"
    async with slipstream.connect(cluster.url) as conn:
        await new_bucket(conn, StoreConfig(name=name, num_replicas=3))
    await cluster.in_sync(name)
    return name


async def nothing(cluster: NatsCluster, leader: ClusterNode) -> None:
    await asyncio.sleep(CALM_SECONDS)


async def kill(cluster: NatsCluster, leader: ClusterNode) -> None:
    await leader.kill()
    await cluster.meta_leader()
    await asyncio.sleep(FAULT_SECONDS)
    await leader.start()


async def pause(cluster: NatsCluster, leader: ClusterNode) -> None:
    leader.pause()
    await asyncio.sleep(FAULT_SECONDS)
    leader.resume()


async def cut_off(cluster: NatsCluster, leader: ClusterNode) -> None:
    cluster.isolate(leader)
    await asyncio.sleep(FAULT_SECONDS)
    await cluster.heal()


async def history_of(cluster: NatsCluster, bucket: str, fault: Fault) -> History:
    """What clients of all nodes saw, before, while and after the fault befell the leader."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    placement = await cluster.placement(bucket)
    homes = [("everywhere", cluster.url, MIXED), ("on leader", placement.leader.url, MIXED)]
    homes += [(f"on leader, reading {number}", placement.leader.url, READING) for number in range(2)]
    homes += [("on leader, conditional", placement.leader.url, CONDITIONAL)]
    homes += [(f"on {node.name}", node.url, MIXED) for node in placement.followers]
    async with AsyncExitStack() as stack:
        work = Workload(seed)
        stores = [
            (name, await (await stack.enter_async_context(slipstream.connect(url))).store(bucket), kinds)
            for name, url, kinds in homes
        ]
        async with asyncio.timeout(100), asyncio.TaskGroup() as clients:
            for name, store, kinds in stores:
                clients.create_task(work.client(store, name, kinds))
            await asyncio.sleep(CALM_SECONDS)
            await fault(cluster, placement.leader)
            await cluster.ready()
            await asyncio.sleep(CALM_SECONDS)
            work.stop()
    return work.history


FAULTS = [
    pytest.param(nothing, id="no fault"),
    pytest.param(kill, id="killed", marks=pytest.mark.slow),
    pytest.param(pause, id="paused", marks=pytest.mark.slow),
    pytest.param(cut_off, id="cut off", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("fault", FAULTS)
async def test_default_reads_are_linearizable(cluster: NatsCluster, bucket: str, fault: Fault) -> None:
    history = await history_of(cluster, bucket, fault)
    done = Counter(action.kind for action in history.actions if action.outcome is Outcome.DONE)
    print(Counter((action.kind.value, action.outcome.value, action.conflict) for action in history.actions))
    assert all(done[kind] >= 20 for kind in Kind), done
    check_linearizable(history.actions)
