"""What becomes of a connection whose path, server or client library fails, on both lanes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from nats.aio.client import Client

from slipstream.errors import KvError, NotConnectedError, OperationTimeoutError
from slipstream.interfaces import KvStore, Watch
from slipstream.model import ConnectionEvent, ConnectionState, KvUpdate, StoreConfig
from slipstream.stores.nats import NatsConnection
from slipstream.stores.nats.client import StoreClient
from slipstream.testing._raw import Raw, raw_client
from slipstream.testing._waiting import bounded, eventually, ticks
from slipstream.testing.checkers import History, Ledger, check_linearizable, check_watch
from slipstream.testing.cluster import NatsCluster
from slipstream.testing.proxy import Direction, FaultProxy
from slipstream.testing.server import NatsServer

Connect = Callable[..., Awaitable[NatsConnection]]
MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]
Fault = Callable[[FaultProxy], None]

BOTH = ("data", "slow")
NOTICED = 6.0
"""Seconds in which a connection that is dead without a word has to be noticed, with pings as they are by default."""
QUICK = {"ping_interval": 0.4, "connect_timeout": 0.4, "reconnect_max_wait": 0.1}

both_lanes = pytest.mark.parametrize("lane", BOTH)


async def until_state(events: AsyncIterator[ConnectionEvent], state: ConnectionState) -> list[ConnectionEvent]:
    """The next events up to the first of that state, which is the last of them."""
    seen: list[ConnectionEvent] = []
    while not seen or seen[-1].state is not state:
        seen.append(await anext(events))
    return seen


def client_of(conn: NatsConnection) -> StoreClient:
    assert conn._session is not None
    client = conn._session.client
    assert isinstance(client, StoreClient)
    return client


async def until_stored(raw: Raw, bucket: str, revision: int) -> None:
    async def stored() -> bool:
        return bool((await raw.state(bucket))["last_seq"] >= revision)

    await eventually(stored)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class TestDeadWithoutAWord:
    """No FIN and no RST: the path is gone, with everything as it is by default."""

    FAULTS: dict[str, Fault] = {  # noqa: RUF012
        "half dead": lambda proxy: proxy.half_dead(),
        "black hole": lambda proxy: proxy.black_hole(),
        "frozen": lambda proxy: proxy.freeze(),
    }

    @pytest.mark.parametrize("fault", list(FAULTS.values()), ids=list(FAULTS))
    async def test_it_is_noticed_and_another_path_is_taken(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, bucket: str, fault: Fault
    ) -> None:
        async def live(lane: str) -> None:
            paths = [await fault_proxy("127.0.0.1", nats_server.port) for _ in range(2)]
            conn = await connect(",".join(path.url for path in paths), lane=lane, op_timeout=30.0)
            events = conn.events()
            store = await conn.store(f"{bucket}-{lane}")
            await store.put("k", b"before")
            (path,) = (path for path in paths if path.connections)
            async with store.watch() as watch:
                assert (await anext(watch)).value == b"before"
                fault(path)
                writing, reading = asyncio.create_task(store.put("k", b"in flight")), asyncio.create_task(store.keys())
                async with asyncio.timeout(NOTICED):
                    lost = (await until_state(events, ConnectionState.DISCONNECTED))[-1]
                assert lost.server == path.url
                assert lost.reason
                async with bounded():
                    attempts = await until_state(events, ConnectionState.CONNECTED)
                    await writing
                    assert await reading == ["k"]
                    assert (await anext(watch)).value == b"in flight"
                # The path that kept silent was not asked again.
                assert {event.server for event in attempts} == {other.url for other in paths if other is not path}
                await path.heal()

        async with asyncio.TaskGroup() as lanes:
            for lane in BOTH:
                lanes.create_task(live(lane))

    @both_lanes
    async def test_the_only_path_is_taken_again_once_it_is_back(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, bucket: str, lane: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        conn = await connect(proxy.url, lane=lane, op_timeout=30.0, **QUICK)
        events = conn.events()
        store = await conn.store(bucket)
        proxy.black_hole()
        writing = asyncio.create_task(store.put("k", b"v"))
        async with bounded():
            await until_state(events, ConnectionState.DISCONNECTED)
            # Attempts fail, are counted, and go on.
            while (event := await anext(events)).attempt < 3:
                assert event.state is ConnectionState.RECONNECTING
                assert event.server == proxy.url
            assert not writing.done()
            await proxy.heal()
            await until_state(events, ConnectionState.CONNECTED)
            assert (await writing).as_u64() == 1

    @both_lanes
    async def test_pings_are_settable(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, lane: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        patient = await connect(proxy.url, lane=lane, ping_interval=60.0)
        quick = await connect(proxy.url, lane=lane, ping_interval=0.1, max_pings_out=1)
        patient_events, events = patient.events(), quick.events()
        await anext(patient_events)
        proxy.black_hole()
        async with bounded():
            await until_state(events, ConnectionState.DISCONNECTED)
        assert patient.is_healthy()
        unasked = asyncio.ensure_future(anext(patient_events))
        await ticks(3)
        assert not unasked.done()
        unasked.cancel()


def _kill_ping_task(client: StoreClient) -> None:
    assert client._ping_interval_task is not None
    client._ping_interval_task.cancel()


def _kill_reader(client: StoreClient) -> None:
    assert client._reading_task is not None
    client._reading_task.cancel()


def _kill_flusher(client: StoreClient) -> None:
    assert client._flusher_task is not None
    client._flusher_task.cancel()


@both_lanes
class TestWatchdog:
    """nats-py as it has been seen: a task of it dead, and the client says CONNECTED. Its own pings are dead as well."""

    async def test_silence_is_noticed_without_the_pings_of_nats_py(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, bucket: str, lane: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        conn = await connect(proxy.url, lane=lane, **QUICK)
        events, store = conn.events(), await conn.store(bucket)
        _kill_ping_task(client_of(conn))
        proxy.black_hole()
        async with bounded():
            lost = (await until_state(events, ConnectionState.DISCONNECTED))[-1]
            assert "answered nothing for 0.8 s" in lost.reason
            await proxy.heal()
            await until_state(events, ConnectionState.CONNECTED)
            await store.put("k", b"v")

    @pytest.mark.parametrize("kill", [_kill_reader, _kill_flusher])
    async def test_a_client_with_a_dead_task_and_no_socket_is_replaced(
        self, nats_server: NatsServer, connect: Connect, bucket: str, lane: str, kill: Callable[[StoreClient], None]
    ) -> None:
        conn = await connect(nats_server.url, lane=lane, **QUICK)
        events, store = conn.events(), await conn.store(bucket)
        client = client_of(conn)
        for each in (_kill_ping_task, _kill_reader, kill):
            each(client)
        await ticks(3)
        transport: Any = client._transport
        (transport if lane == "data" else transport._io_writer.transport).abort()
        await ticks(3)
        assert client.is_connected  # or so it says
        async with bounded():
            await until_state(events, ConnectionState.DISCONNECTED)
            await until_state(events, ConnectionState.CONNECTED)
            await store.put("k", b"v")

    async def test_a_reader_that_died_is_replaced(
        self, nats_server: NatsServer, connect: Connect, bucket: str, lane: str
    ) -> None:
        conn = await connect(nats_server.url, lane=lane, **QUICK)
        events, store = conn.events(), await conn.store(bucket)
        for each in (_kill_ping_task, _kill_reader):
            each(client_of(conn))
        async with bounded():
            await until_state(events, ConnectionState.DISCONNECTED)
            await until_state(events, ConnectionState.CONNECTED)
            await store.put("k", b"v")

    @pytest.mark.parametrize("stuck", [False, True], ids=["dead", "stuck"])
    async def test_a_reconnect_that_nobody_carries_on_is_begun_again(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, bucket: str, lane: str, stuck: bool
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        conn = await connect(proxy.url, lane=lane, **QUICK)
        events, store = conn.events(), await conn.store(bucket)
        proxy.refuse()
        proxy.drop()
        async with bounded():
            await until_state(events, ConnectionState.RECONNECTING)
            client = client_of(conn)
            task = client._reconnection_task
            assert task is not None
            task.cancel()
            await asyncio.wait({task})
            if stuck:
                client._reconnection_task = asyncio.create_task(_forever())
            await proxy.heal()
            await until_state(events, ConnectionState.CONNECTED)
            await store.put("k", b"v")

    async def test_a_connection_that_nobody_was_told_of_is_replaced(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, bucket: str, lane: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        conn = await connect(proxy.url, lane=lane, **QUICK)
        events, store = conn.events(), await conn.store(bucket)
        client = client_of(conn)
        async with bounded():
            proxy.drop()
            await until_state(events, ConnectionState.RECONNECTING)
            while not client.is_connected:  # noqa: ASYNC110 - the very turn in which nats-py says so
                await asyncio.sleep(0)
            assert client._reconnection_task is not None
            client._reconnection_task.cancel()  # before it has replayed the subscriptions and called back
            await asyncio.wait({client._reconnection_task})
            assert client.is_connected
            assert not conn.is_healthy()
            await until_state(events, ConnectionState.CONNECTED)
            await store.put("k", b"v")

    async def test_a_program_that_stood_still_keeps_its_connection(
        self, nats_url: str, connect: Connect, bucket: str, lane: str
    ) -> None:
        conn = await connect(nats_url, lane=lane, ping_interval=0.1)
        events, store = conn.events(), await conn.store(bucket)
        await anext(events)
        client = client_of(conn)
        for _ in range(2):
            time.sleep(0.5)  # noqa: ASYNC251 - that is the fault: the loop does not turn
            known = client.pongs

            async def goes_on(known: int = known) -> bool:
                return client.pongs >= known + 5

            await eventually(goes_on)
        await store.put("k", b"v")
        await conn.shutdown()
        assert [event.state async for event in events] == [ConnectionState.CLOSED]


@both_lanes
class TestReconnecting:
    """What nats-py leaves behind when reconnecting goes wrong."""

    async def test_an_attempt_that_fails_at_its_very_end_leaves_no_task(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, lane: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        conn = await connect(proxy.url, lane=lane, reconnect_max_wait=0.05)
        events = conn.events()
        await anext(events)
        reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
        async with bounded():
            greeting = len(await reader.readline())
            writer.close()
            for more in range(len("PONG\r\n") - 2, len("PONG\r\n") + 3):
                proxy.drop()
                await until_state(events, ConnectionState.DISCONNECTED)
                await proxy.cut_after(greeting + more, "to_client").wait()
                await until_state(events, ConnectionState.CONNECTED)
            tasks = [task for task in asyncio.all_tasks() if "/nats/aio/client.py" in repr(task)]
            kinds = [
                kind for task in tasks for kind in ("_read_loop", "_ping_interval", "_flusher") if kind in repr(task)
            ]
            assert sorted(kinds) == ["_flusher", "_ping_interval", "_read_loop"]
            await conn.shutdown()
        assert not [task for task in asyncio.all_tasks() if "/nats/aio/client.py" in repr(task)]

    async def test_one_that_swallows_its_cancellation_is_waited_for(
        self, nats_server: NatsServer, connect: Connect, bucket: str, lane: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        conn = await connect(nats_server.url, lane=lane)
        events, store = conn.events(), await conn.store(bucket)
        client = client_of(conn)
        greet, reconnect = client._process_connect_init, Client._attempt_reconnect
        entered = asyncio.Event()
        running = most = 0

        async def counted(self: Client) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await reconnect(self)
            finally:
                running -= 1

        async def swallowing() -> None:
            if not entered.is_set():
                entered.set()
                with suppress(asyncio.CancelledError):  # as wait_for does where what it waits for ends just then
                    await _forever()
            await greet()

        monkeypatch.setattr(Client, "_attempt_reconnect", counted)
        monkeypatch.setattr(client, "_process_connect_init", swallowing)
        async with bounded():
            await client.redial(ConnectionError("first"))
            await entered.wait()
            await client.redial(ConnectionError("second"))
            await until_state(events, ConnectionState.CONNECTED)
            await store.put("k", b"v")
        assert (running, most) == (0, 1)


async def _forever() -> None:
    await asyncio.Event().wait()


@both_lanes
class TestReset:
    """One RST, and a put whose answer is on its way."""

    async def test_without_retries_a_put_in_flight_ends_with_the_connection(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, bucket: str, lane: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        conn = await connect(proxy.url, lane=lane, op_timeout=60.0, retry_writes=False)
        events, store = conn.events(), await conn.store(bucket)
        async with raw_client(nats_server.url) as raw, bounded():
            proxy.freeze("to_client")
            writing = asyncio.create_task(store.put("k", b"v"))
            await until_stored(raw, bucket, 1)
            proxy.reset()
            await until_state(events, ConnectionState.DISCONNECTED)
            # The row says 0.1 s of its 60: it takes turns of the loop, and nothing that waits.
            await ticks(5)
            assert writing.done()
            with pytest.raises(NotConnectedError) as caught:
                writing.result()
            assert caught.value.outcome_unknown
            await proxy.heal()

    async def test_with_retries_it_is_stored_once(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, bucket: str, lane: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        conn = await connect(proxy.url, lane=lane, op_timeout=60.0)
        store = await conn.store(bucket)
        async with raw_client(nats_server.url) as raw, bounded():
            proxy.freeze("to_client")
            writing = asyncio.create_task(store.put("k", b"v"))
            await until_stored(raw, bucket, 1)
            proxy.reset()
            await proxy.heal()
            assert (await writing).as_u64() == 1
            assert (await raw.state(bucket))["last_seq"] == 1

    async def test_a_get_in_flight_is_answered_by_the_next_connection(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, bucket: str, lane: str
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        conn = await connect(proxy.url, lane=lane, op_timeout=60.0)
        store = await conn.store(bucket)
        await store.put("k", b"v")
        proxy.freeze("to_client")
        reading = asyncio.create_task(store.get("k"))
        await ticks(10)
        proxy.reset()
        async with bounded():
            await proxy.heal()
            entry = await reading
        assert entry is not None
        assert entry.value == b"v"


@both_lanes
async def test_cut_at_random_bytes_forty_times(
    nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, bucket: str, lane: str
) -> None:
    """One connection lives through all of it, with the checkers on; short cuts end it within its handshake."""
    proxy = await fault_proxy("127.0.0.1", nats_server.port)
    chance = random.Random(f"cuts {lane}")
    conn = await connect(proxy.url, lane=lane, reconnect_max_wait=0.1)
    store = await conn.store(bucket)
    history = History()
    updates: list[KvUpdate] = []
    done = False

    async def work(name: str) -> None:
        client = history.client(store, name)
        number = 0
        while not done:
            key = f"k.{number % 4}"
            number += 1
            with suppress(KvError):
                await client.put(key, f"{name} {number} ".encode() * 20)
            with suppress(KvError):
                await client.get(key)

    async def follow(watch: Watch) -> None:
        async for batch in watch.batches():
            updates.extend(batch)

    async with raw_client(nats_server.url) as raw, store.watch() as watch, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow(watch))
        workers = [tasks.create_task(work(f"w{number}")) for number in range(3)]
        for _ in range(40):
            direction: Direction = "to_server" if chance.random() < 0.5 else "to_client"
            size = chance.randrange(1, 700) if chance.random() < 0.5 else chance.randrange(700, 30_000)
            cut = proxy.cut_after(size, direction)
            async with bounded():
                await cut.wait()
        done = True
        async with bounded():
            await asyncio.wait(workers)
            await store.put("end", b"end")
        end = await raw.contents(bucket)

        async def caught_up() -> bool:
            return bool(updates) and updates[-1].key == "end"

        await eventually(caught_up)
        following.cancel()
    ledger = Ledger.of(history.actions)
    ledger.acknowledge(end["end"][0], "end", b"end")
    check_watch(updates, ledger, end)
    check_linearizable(history.actions)
    assert conn.is_healthy()
    assert len(ledger.acknowledged) > 40


@both_lanes
@pytest.mark.parametrize("fault", ["refused", "swallowed"])
async def test_a_put_that_timed_out_never_lands_over_a_newer_write(
    nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, bucket: str, lane: str, fault: str
) -> None:
    proxy = await fault_proxy("127.0.0.1", nats_server.port)
    conn = await connect(proxy.url, lane=lane, op_timeout=1.0, **QUICK)
    store, theirs = await conn.store(bucket), await (await connect(nats_server.url)).store(bucket)
    keys = [f"k.{number}" for number in range(50)]
    if fault == "refused":
        proxy.refuse()
        proxy.drop()
    else:
        proxy.black_hole()

    async def put(store: KvStore, key: str) -> BaseException | None:
        try:
            await store.put(key, b"old")
        except KvError as error:
            return error
        return None

    async with raw_client(nats_server.url) as raw, bounded():
        # Some before the loss is noticed, some after it; each has its own deadline.
        first = [asyncio.create_task(put(store, key)) for key in keys[:25]]
        if fault == "refused":
            await ticks(5)
        second = [asyncio.create_task(put(store, key)) for key in keys[25:]]
        await theirs.put_many(dict.fromkeys(keys, b"newer"))
        errors = await asyncio.gather(*first, *second)
        assert {type(error) for error in errors} == {OperationTimeoutError}
        await proxy.heal()

        async def works() -> bool:
            return conn.is_healthy() and await put(store, "works") is None

        await eventually(works)
        contents = await raw.contents(bucket)
        assert {key: contents[key][1] for key in keys} == dict.fromkeys(keys, b"newer")


@both_lanes
class TestFailover:
    async def test_dead_and_silent_servers_are_not_waited_for(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, connect: Connect, lane: str
    ) -> None:
        silent, alive = [await fault_proxy("127.0.0.1", nats_server.port) for _ in range(2)]
        silent.black_hole()
        dead = f"nats://127.0.0.1:{free_port()}"
        options = {"connect_timeout": 0.5, "reconnect_max_wait": 0.1, "ping_interval": 0.2}
        conn = await connect(f"{dead},{silent.url},{alive.url}", lane=lane, op_timeout=30.0, **options)
        events, client = conn.events(), client_of(conn)
        asked: list[str | None] = []
        async with bounded():
            await until_state(events, ConnectionState.CONNECTED)
            for _ in range(5):
                known = client.pongs

                async def kept_for_a_while(known: int = known) -> bool:
                    return client.pongs >= known + 3

                await eventually(kept_for_a_while)
                alive.drop()
                seen = await until_state(events, ConnectionState.CONNECTED)
                asked += [event.server for event in seen if event.state is ConnectionState.RECONNECTING]
        # What they are is learned once: when it connected, or at the first loss.
        assert asked.count(silent.url) <= 1
        assert asked.count(dead) <= 1
        assert asked.count(alive.url) == 5

    async def test_a_server_that_says_why_it_hangs_up_is_not_given_up(
        self, nats_server: NatsServer, connect: Connect, bucket: str, lane: str
    ) -> None:
        conn = await connect(nats_server.url, lane=lane)
        events, store = conn.events(), await conn.store(bucket)
        await anext(events)
        await client_of(conn)._send_command(b"NO SUCH OPERATION\r\n")
        await client_of(conn)._flush_pending()
        async with bounded():
            lost = await anext(events)
            assert lost.state is ConnectionState.DISCONNECTED
            assert "unknown protocol operation" in lost.reason
            await until_state(events, ConnectionState.CONNECTED)
            await store.put("k", b"v")


async def test_a_borrowed_client_is_looked_at(nats_server: NatsServer) -> None:
    async def quiet(_: Exception) -> None:
        return

    client = Client()
    await client.connect(nats_server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=quiet)
    async with NatsConnection.from_client(client) as conn, bounded():
        events = conn.events()
        assert (await anext(events)).server == nats_server.url
        await nats_server.kill()
        assert (await anext(events)).state is ConnectionState.DISCONNECTED
        await nats_server.start()
        assert (await anext(events)).state is ConnectionState.CONNECTED
        await client.close()
        lost = await anext(events)
        assert (lost.state, lost.reason) == (ConnectionState.DISCONNECTED, "the client was closed")
        await conn.shutdown()
        assert [event.state async for event in events] == [ConnectionState.CLOSED]


LEAVES_AFTER = """
lame_duck_duration: "30s"
lame_duck_grace_period: "{grace}"
"""


async def test_a_node_of_a_cluster_that_goes_takes_nothing_with_it(
    nats_cluster: NatsCluster, connect: Connect, bucket: str
) -> None:
    """Both lanes at once, to nodes that the cluster told of: every put is done, no watch has a gap or a repeat."""
    history = History()
    updates: dict[str, list[KvUpdate]] = {lane: [] for lane in BOTH}
    done = False

    async def put(store: KvStore, lane: str) -> None:
        client, number = history.client(store, lane), 0
        while not done:
            number += 1
            await client.put(f"k.{number % 5}", f"{lane} {number}".encode())

    async def follow(watch: Watch, lane: str) -> None:
        async for batch in watch.batches():
            updates[lane] += batch

    def at_the_end(lane: str) -> Callable[[], Awaitable[bool]]:
        async def reached() -> bool:
            return bool(updates[lane]) and updates[lane][-1].key == "end"

        return reached

    going, *others = nats_cluster.nodes
    async with AsyncExitStack() as stack, asyncio.timeout(50):
        raw = await stack.enter_async_context(raw_client(others[0].url))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        connections = [await connect(going.url, lane=lane, op_timeout=30.0) for lane in BOTH]
        events = [conn.events() for conn in connections]
        stores = [await conn.store(StoreConfig(name=bucket, num_replicas=3), reads="leader") for conn in connections]
        following = [
            tasks.create_task(follow(await stack.enter_async_context(store.watch()), lane))
            for lane, store in zip(BOTH, stores, strict=True)
        ]
        writing = [tasks.create_task(put(store, lane)) for lane, store in zip(BOTH, stores, strict=True)]
        os.kill(going.pid, signal.SIGUSR2)
        for each in events:
            seen = await until_state(each, ConnectionState.LAME_DUCK)
            seen = await until_state(each, ConnectionState.CONNECTED)
            assert seen[-1].server in {node.url for node in others}
        os.kill(going.pid, 0)  # it was left before it cut anybody off
        done = True
        await asyncio.wait(writing)
        await stores[0].put("end", b"end")
        for lane in BOTH:
            await eventually(at_the_end(lane))
        end = await raw.contents(bucket)
        for task in following:
            task.cancel()
    ledger = Ledger.of(history.actions)
    ledger.acknowledge(end["end"][0], "end", b"end")
    for lane in BOTH:
        check_watch(updates[lane], ledger, end)
    check_linearizable(history.actions)


@both_lanes
class TestLameDuck:
    async def test_another_server_of_the_list_is_taken_before_it_cuts_us_off(
        self, connect: Connect, bucket: str, lane: str
    ) -> None:
        config = LEAVES_AFTER.format(grace="20s")
        async with NatsServer(config=config) as one, NatsServer(config=config) as other:
            for server in (one, other):
                await (await connect(server.url)).store(bucket)
            conn = await connect(f"{one.url},{other.url}", lane=lane)
            events, store = conn.events(), await conn.store(bucket)
            first = await anext(events)
            going, staying = (one, other) if first.server == one.url else (other, one)
            async with store.watch() as watch, bounded():
                await watch.wait_hydrated()
                os.kill(going.pid, signal.SIGUSR2)
                seen = await until_state(events, ConnectionState.CONNECTED)
                assert [(event.state, event.server) for event in seen if event.attempt <= 1] == [
                    (ConnectionState.LAME_DUCK, going.url),
                    (ConnectionState.DISCONNECTED, going.url),
                    (ConnectionState.RECONNECTING, staying.url),
                    (ConnectionState.CONNECTED, staying.url),
                ]
                os.kill(going.pid, 0)  # it runs still: nobody was cut off
                await store.put("k", b"v")

    async def test_the_only_server_is_kept_until_it_goes_and_found_when_it_is_back(
        self, connect: Connect, bucket: str, lane: str
    ) -> None:
        config = LEAVES_AFTER.format(grace="1s")
        async with NatsServer(config=config) as server:
            conn = await connect(server.url, lane=lane)
            events, store = conn.events(), await conn.store(bucket)
            await anext(events)
            async with bounded():
                os.kill(server.pid, signal.SIGUSR2)
                assert (await anext(events)).state is ConnectionState.LAME_DUCK
                assert conn.is_healthy()
                assert (await anext(events)).state is ConnectionState.DISCONNECTED
                writing = asyncio.create_task(store.put("k", b"v"))
                await server.restart()
                await until_state(events, ConnectionState.CONNECTED)
                await writing
