"""Listings that others cut short or wait on for ever: complete over a settled bucket, ended in time on a dead path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from slipstream.errors import OperationTimeoutError
from slipstream.interfaces import KvStore
from slipstream.stores.nats import NatsConnection
from slipstream.stores.nats import consumer as consumer_module
from slipstream.stores.nats.feed import Feed
from slipstream.stores.nats.lane import Frame
from slipstream.testing._raw import Raw, raw_client
from slipstream.testing._waiting import LIMIT, bounded, eventually
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer

Connect = Callable[..., Awaitable[NatsConnection]]
MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]

LISTINGS = 3000
CONNECTIONS = 6
KEYS = [f"k.{number:03}" for number in range(200)]


class TestSettledBucket:
    @pytest.mark.timeout(300)  # takes 10 s; on a busy machine more
    async def test_none_of_three_thousand_is_short(self, connect: Connect, bucket: str) -> None:
        stores = [await (await connect()).store(bucket) for _ in range(CONNECTIONS)]
        await stores[0].put_many({key: key.encode() for key in KEYS})
        listed, wrong = 0, list[tuple[int, int]]()

        async def list_on(store: KvStore, first: int) -> None:
            nonlocal listed
            for turn in range(first, LISTINGS, CONNECTIONS):
                if turn % 2:
                    found = await store.keys()
                else:
                    entries = await store.scan()
                    assert all(entry.value == entry.key.encode() for entry in entries)
                    found = [entry.key for entry in entries]
                listed += 1
                if found != KEYS:
                    wrong.append((turn, len(found)))

        async with asyncio.TaskGroup() as tasks:
            for first, store in enumerate(stores):
                tasks.create_task(list_on(store, first))
        assert wrong == []
        assert listed == LISTINGS


class TestDeadPath:
    @pytest.mark.parametrize("listing", ["keys", "scan", "iter_scan", "history"])
    @pytest.mark.parametrize("when", ["while it is set up", "while it delivers"])
    async def test_it_ends_in_time_and_the_server_reaps_the_consumer_although_the_path_never_heals(
        self,
        connect: Connect,
        nats_server: NatsServer,
        fault_proxy: MakeProxy,
        bucket: str,
        monkeypatch: pytest.MonkeyPatch,
        listing: str,
        when: str,
    ) -> None:
        monkeypatch.setattr(consumer_module, "_INACTIVE_SECONDS", 1)
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        # Nothing notices the dead path but the deadline of the listing itself.
        connection = await connect(proxy.url, op_timeout=1.0, ping_interval=30.0)
        store = await connection.store(bucket)
        direct = await (await connect(nats_server.url)).store(bucket)
        await direct.put_many({key: bytes(1000) for key in KEYS})

        async def work() -> object:
            match listing:
                case "keys":
                    return await store.keys()
                case "scan":
                    return await store.scan()
                case "iter_scan":
                    return [entry async for entry in store.iter_scan()]
                case _:
                    return await store.history("k.001")

        async with raw_client(nats_server.url) as raw:
            listing_task = asyncio.create_task(work())
            await self._dies(proxy, raw, bucket, monkeypatch, when)
            # In time: op_timeout and a moment to let go. What hangs, hangs for good.
            async with asyncio.timeout(LIMIT):
                with pytest.raises(OperationTimeoutError):
                    await listing_task
            # The client's farewell is swallowed, too, and the server still holds its end of the connection: interest
            # goes when that is closed, as it is by the server's own pings, or here.
            await connection.shutdown()
            await proxy.aclose()
            await raw.no_consumers(bucket)

    async def _dies(self, proxy: FaultProxy, raw: Raw, bucket: str, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
        if when == "while it is set up":
            proxy.latency(0.1)  # long enough to be caught before the answer is there

            async def under_way() -> bool:
                return bool(await raw.consumers(bucket))

            await eventually(under_way)
            proxy.black_hole()
            return
        proxy.bandwidth(1_000_000)  # not all of it comes at once, and what is asked meanwhile is answered in time
        delivering = asyncio.Event()
        on_frames = Feed._on_frames

        def noticed(feed: Feed, generation: int, frames: list[Frame]) -> None:
            on_frames(feed, generation, frames)
            proxy.black_hole()
            delivering.set()

        monkeypatch.setattr(Feed, "_on_frames", noticed)
        async with bounded():
            await delivering.wait()
