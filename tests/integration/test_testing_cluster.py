"""The cluster of the harness: what it says of leaders is so, and what it cuts is cut."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from nats.aio.subscription import Subscription

import slipstream
from slipstream import StoreConfig
from slipstream.testing._raw import Raw, raw_client
from slipstream.testing._waiting import cancelled_after
from slipstream.testing.cluster import ClusterNode, NatsCluster

QUIET = 0.2  # seconds without a message that count as silence
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]  # each wait for a cluster: 40 s


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[NatsCluster]:
    """Shared by these tests: an election is what takes their time."""
    async with NatsCluster(config="max_payload: 54321") as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(running: NatsCluster) -> NatsCluster:
    """Whole again, whatever the test before has broken."""
    await running.heal()
    await running.ready()
    return running


@pytest_asyncio.fixture(loop_scope="module")
async def bucket(cluster: NatsCluster) -> str:
    """A new bucket with a copy on each node and one key in it."""
    name = f"test-{secrets.token_hex(8)}"
    async with slipstream.connect(cluster.url) as conn:
        store = await conn.store(StoreConfig(name=name, num_replicas=3))
        await store.put("key", b"value")
    await cluster.in_sync(name)
    return name


async def put(node: ClusterNode, bucket: str) -> None:
    async with slipstream.connect(node.url, op_timeout=20) as conn:
        await (await conn.store(bucket)).put("key", b"newer")


async def greeting(port: int, *, within: float = 5) -> dict[str, Any]:
    """The INFO that a server begins with."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return dict(json.loads((await asyncio.wait_for(reader.readline(), within))[5:]))
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)  # a reset is an end as well


class TestReady:
    async def test_every_node_takes_part(self, cluster: NatsCluster, bucket: str) -> None:
        assert len({node.port for node in cluster.nodes}) == len({node.directory for node in cluster.nodes}) == 3
        assert await cluster.meta_leader() in cluster.nodes
        placement = await cluster.placement(bucket)
        assert sorted(node.name for node in (placement.leader, *placement.followers)) == ["n1", "n2", "n3"]
        assert await cluster.leader(bucket) is placement.leader
        async with slipstream.connect(cluster.url) as conn:
            assert (await (await conn.store(bucket)).status()).leader == placement.leader.name

    async def test_a_bucket_with_one_copy_has_a_leader_alone(self, cluster: NatsCluster) -> None:
        name = f"test-{secrets.token_hex(8)}"
        async with slipstream.connect(cluster.url) as conn:
            status = await (await conn.store(name)).status()
        placement = await cluster.placement(name)
        assert (placement.leader.name, placement.followers) == (status.leader, [])

    async def test_extra_configuration_and_the_others_reach_clients(self, cluster: NatsCluster) -> None:
        for node in cluster.nodes:
            info = await greeting(node.port)
            assert info["max_payload"] == 54321
            assert sorted(info["connect_urls"]) == sorted(f"127.0.0.1:{each.port}" for each in cluster.nodes)

    async def test_a_wait_for_what_does_not_come_ends(self, tmp_path: Path) -> None:
        with pytest.raises(TimeoutError, match=r"no meta leader .* 0.01 s"):
            async with NatsCluster(tmp_path, start_timeout=0.01):
                pytest.fail("it was ready")
        assert sorted(path.name for path in await asyncio.to_thread(lambda: list(tmp_path.iterdir()))) == [
            "n1",
            "n2",
            "n3",
        ]

    async def test_a_configuration_that_is_wrong_is_told_and_leaves_no_process(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match=r"(?s)nats-server ended.*no_such_option"):
            async with NatsCluster(tmp_path, config="no_such_option { }"):
                pytest.fail("it started")

    @pytest.mark.parametrize("turns", [0, 1, 5, 20])
    async def test_a_cancelled_start_leaves_no_process(self, tmp_path: Path, turns: int) -> None:
        cluster = NatsCluster(tmp_path)
        starting = await cancelled_after(turns, cluster.__aenter__())
        assert starting.cancelled()
        for node in cluster.nodes:
            with pytest.raises(RuntimeError, match="not running"):
                _ = node.pid
        assert not any(proxy.connections for proxy in cluster._routes.values())
        assert not await asyncio.to_thread(lambda: list(tmp_path.glob("*/*.ports")))

    async def test_nothing_is_left_behind_and_nodes_may_be_kept_secret(self) -> None:
        async with NatsCluster(advertise=False) as cluster:
            pids = [node.pid for node in cluster.nodes]
            folders = [node.directory for node in cluster.nodes]
            assert "connect_urls" not in await greeting(cluster.nodes[0].port)
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        assert not any(folder.exists() or folder.parent.exists() for folder in folders)


class TestNodes:
    async def test_another_leads_after_a_kill_and_the_node_comes_back(self, cluster: NatsCluster, bucket: str) -> None:
        killed = await cluster.leader(bucket)
        await killed.kill()
        new = await cluster.leader(bucket)
        assert new is not killed
        await put(new, bucket)
        await killed.start()
        await cluster.ready()
        await cluster.in_sync(bucket)
        assert killed in (await cluster.placement(bucket)).followers

    async def test_another_leads_after_a_pause_and_the_node_comes_back(self, cluster: NatsCluster, bucket: str) -> None:
        paused = await cluster.leader(bucket)
        paused.pause()
        assert await paused.monitor("/healthz") is None
        new = await cluster.leader(bucket)
        assert new is not paused
        await put(new, bucket)
        paused.resume()
        await cluster.ready()
        await cluster.in_sync(bucket)
        assert await paused.monitor("/healthz") is not None


class TestPartitions:
    async def test_nodes_tell_one_another_no_way_around_the_proxies(self, cluster: NatsCluster) -> None:
        for proxy in cluster._routes.values():
            info = await greeting(proxy.port)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(info["host"], info["port"])

    async def test_a_partition_takes_the_routes_of_both_directions(self, cluster: NatsCluster) -> None:
        one, other, third = cluster.nodes
        cluster.partition(one, other)
        parted = {(one.name, other.name), (other.name, one.name)}
        for pair, proxy in cluster._routes.items():
            if pair in parted:
                with pytest.raises(TimeoutError):
                    await greeting(proxy.port, within=QUIET)
            else:
                assert third.name in pair
                assert await greeting(proxy.port)

    async def test_another_leads_after_an_isolation_and_the_node_comes_back(
        self, cluster: NatsCluster, bucket: str
    ) -> None:
        isolated = await cluster.leader(bucket)
        cluster.isolate(isolated)
        new = await cluster.leader(bucket, other_than=isolated)
        await put(new, bucket)
        await cluster.heal()
        await cluster.ready()
        await cluster.in_sync(bucket)
        assert isolated in (await cluster.placement(bucket)).followers

    async def test_a_partition_is_between_two_nodes_only(self, cluster: NatsCluster) -> None:
        one, other, third = cluster.nodes
        async with raw_client(one.url) as here, raw_client(other.url) as there, raw_client(third.url) as beside:
            inbox = await here.client.subscribe("across")
            await here.client.flush()
            for peer in (there, beside):  # they learn of the subscription in their own time
                await heard(inbox, peer, b"before")
            cluster.partition(one, other)
            await there.client.publish("across", b"late")
            await there.client.flush()
            await heard(inbox, beside, b"around it")
            await cluster.heal()
            assert (await inbox.next_msg(5)).data == b"late"
            await heard(inbox, there, b"healed")


async def heard(inbox: Subscription, peer: Raw, payload: bytes) -> None:
    """Publish it until it arrives, and nothing but earlier copies of it before."""
    async with asyncio.timeout(40):
        arrived: bytes | None = None
        while arrived is None:
            await peer.client.publish("across", payload)
            arrived = await next_or_none(inbox)
    assert arrived == payload
    while (more := await next_or_none(inbox)) is not None:
        assert more == payload


async def next_or_none(inbox: Subscription) -> bytes | None:
    try:
        return bytes((await inbox.next_msg(QUIET)).data)
    except TimeoutError:
        return None
