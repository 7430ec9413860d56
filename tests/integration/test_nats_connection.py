"""The life of a NATS connection: opening, losing, finding again and shutting down, on real servers."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from pydantic import SecretStr

from slipstream.errors import (
    BulkWriteError,
    ConnectionFailedError,
    NotConnectedError,
    OperationTimeoutError,
    PermissionDeniedError,
    UnsupportedError,
)
from slipstream.interfaces import KvStore
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig, nats_connect
from slipstream.testing._waiting import bounded, eventually
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer

MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]
MONITORED = 'http: "127.0.0.1:-1"'


def connection(url: str, *, op_timeout: float = 10.0, **options: object) -> NatsConnection:
    return NatsConnection(NatsConnectionConfig(url=SecretStr(url), op_timeout=op_timeout, **options))  # type: ignore[arg-type]


async def clients(server: NatsServer) -> int:
    """How many clients the server says are connected."""
    ports = json.loads((server.directory / f"nats-server_{server.pid}.ports").read_text())

    def ask() -> int:
        with urllib.request.urlopen(f"{ports['monitoring'][0]}/connz", timeout=5) as answer:
            return int(json.load(answer)["num_connections"])

    return await asyncio.to_thread(ask)


async def until_healthy(conn: NatsConnection, healthy: bool = True) -> None:
    async def reached() -> bool:
        return conn.is_healthy() is healthy

    await eventually(reached)


async def until_stuck(conn: NatsConnection) -> None:
    """The server reads no more, and the sockets of both sides are full."""
    session = conn._session
    assert session is not None

    async def stuck() -> bool:
        return session.client.pending_data_size > 0

    await eventually(stuck)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
async def monitored() -> AsyncIterator[NatsServer]:
    async with NatsServer(config=MONITORED) as server:
        yield server


@pytest.fixture(autouse=True)
async def no_task_stays_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    # The fixture itself ends in another task than it began in.
    if left := asyncio.all_tasks() - before - {asyncio.current_task()}:
        _, running = await asyncio.wait(left, timeout=2)
        assert not running


class TestConnect:
    async def test_it_is_idempotent(self, monitored: NatsServer) -> None:
        conn = connection(monitored.url)
        assert not conn.is_healthy()
        try:
            for _ in range(3):
                await conn.connect()
                assert conn.is_healthy()
            assert await clients(monitored) == 1
        finally:
            await conn.shutdown()

    async def test_nothing_is_sent_before_it(self, monitored: NatsServer) -> None:
        conn = connection(monitored.url)
        for refused in (conn.store("b"), conn.stores(), conn.delete_store("b")):
            with pytest.raises(NotConnectedError, match="connect"):
                await refused
        with pytest.raises(NotConnectedError):
            _ = conn.capabilities
        assert await clients(monitored) == 0

    async def test_twenty_at_once_leave_one_client(self, monitored: NatsServer) -> None:
        conn = connection(monitored.url)
        unhealthy_after_connect = []

        async def one() -> None:
            await conn.connect()
            unhealthy_after_connect.append(not conn.is_healthy())

        async def only_one_left() -> bool:
            assert conn.is_healthy()  # the losers' events are not the winner's
            return await clients(monitored) == 1

        try:
            async with bounded(), asyncio.TaskGroup() as tasks:
                for _ in range(20):
                    tasks.create_task(one())
            assert unhealthy_after_connect == [False] * 20
            await eventually(only_one_left)
            assert conn.capabilities.cas
            store = await conn.store("b")
            await store.put("k", b"v")
        finally:
            await conn.shutdown()
        assert not conn.is_healthy()

    async def test_a_cancelled_one_leaves_no_client(self, monitored: NatsServer) -> None:
        async def none_left() -> bool:
            return await clients(monitored) == 0

        for turns in range(0, 40, 3):
            conn = connection(monitored.url)
            task = asyncio.create_task(conn.connect())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            async with bounded():
                await asyncio.wait({task})
            await conn.shutdown()
        await eventually(none_left)

    async def test_refused_is_told_quickly(self) -> None:
        conn = connection(f"nats://user:hunter2@127.0.0.1:{free_port()}", op_timeout=30)
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionFailedError, match=r"nats://127\.0\.0\.1:\d+") as caught:
                await conn.connect()
        assert "hunter2" not in f"{caught.value}{caught.value!r}"
        assert caught.value.retryable
        assert not conn.is_healthy()

    async def test_all_refused_is_told_quickly(self) -> None:
        conn = connection(f"127.0.0.1:{free_port()},127.0.0.1:{free_port()},127.0.0.1:{free_port()}", op_timeout=30)
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionFailedError):
                await conn.connect()

    async def test_a_failed_one_can_be_repeated(self, nats_server: NatsServer) -> None:
        await nats_server.stop()
        conn = connection(nats_server.url)
        with pytest.raises(ConnectionFailedError):
            await conn.connect()
        await nats_server.start()
        await conn.connect()
        assert conn.is_healthy()
        await conn.shutdown()

    async def test_an_unknown_host(self) -> None:
        with pytest.raises(ConnectionFailedError, match=r"no-such-host\.invalid"):
            async with asyncio.timeout(10):
                await connection("nats://no-such-host.invalid").connect()

    async def test_nobody_there_who_speaks_nats(self) -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        listener = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with listener:
            with pytest.raises(ConnectionFailedError, match="INFO"):
                await connection(f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}").connect()

    async def test_a_server_that_hangs_up_on_the_login(self, nats_server: NatsServer, fault_proxy: MakeProxy) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
        async with bounded():
            greeting = len(await reader.readline())
        writer.close()
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        for more in (0, 1, 3):
            proxy.cut_after(greeting + more, "to_client")
            async with bounded():
                with pytest.raises(ConnectionFailedError):
                    await connection(proxy.url).connect()
        async with connection(proxy.url) as conn:
            assert conn.is_healthy()

    async def test_a_server_that_never_answers(self, nats_server: NatsServer) -> None:
        nats_server.pause()
        conn = connection(nats_server.url, op_timeout=30, connect_timeout=0.3)
        async with bounded():
            with pytest.raises(ConnectionFailedError, match=r"no answer within 0\.3 s"):
                await conn.connect()
        nats_server.resume()

    async def test_a_server_that_never_answers_and_op_timeout(self, nats_server: NatsServer) -> None:
        nats_server.pause()
        conn = connection(nats_server.url, op_timeout=0.3, connect_timeout=30)
        async with asyncio.timeout(1.5):
            with pytest.raises(ConnectionFailedError, match=r"no answer within 0\.3 s"):
                await conn.connect()
        nats_server.resume()

    @pytest.mark.parametrize("alive", [0, 1, 2])
    async def test_a_list_with_dead_servers_connects(self, nats_server: NatsServer, alive: int) -> None:
        servers = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        servers[alive] = f"127.0.0.1:{nats_server.port}"
        for _ in range(5):  # nats-py shuffles them
            async with connection(",".join(servers)) as conn:
                assert conn.is_healthy()

    async def test_a_list_with_a_server_that_refuses_the_login_connects(self, nats_server: NatsServer) -> None:
        async with NatsServer(config="authorization { token: other }", jetstream=False) as strict:
            for _ in range(6):
                async with connection(f"nats://hunter2@127.0.0.1:{nats_server.port},127.0.0.1:{strict.port}") as conn:
                    assert conn.is_healthy()

    async def test_nats_connect_gives_a_client_that_its_caller_closes(self, monitored: NatsServer) -> None:
        client = await nats_connect(monitored.url, name="mine")
        try:
            assert client.is_connected
            assert client.options["name"] == "mine"
            assert client.options["max_reconnect_attempts"] == -1
            assert await clients(monitored) == 1
        finally:
            await client.close()

    async def test_nats_connect_fails_as_connect_does(self) -> None:
        with pytest.raises(ConnectionFailedError):
            await nats_connect(f"nats://127.0.0.1:{free_port()}")
        with pytest.raises(ValueError, match="validation error"):
            await nats_connect("http://127.0.0.1")


class TestShutdown:
    async def test_it_is_for_good(self, nats_url: str) -> None:
        conn = connection(nats_url)
        await conn.connect()
        store = await conn.store("test-connection-shutdown")
        await conn.shutdown()
        await conn.shutdown()
        assert not conn.is_healthy()
        with pytest.raises(NotConnectedError, match="shut down"):
            await conn.connect()
        for refused in (conn.store("b"), conn.stores(), store.get("k"), store.put("k", b"v"), store.scan()):
            with pytest.raises(NotConnectedError):
                await refused
        assert not conn.is_healthy()
        async with connection(nats_url) as janitor:
            await janitor.delete_store("test-connection-shutdown")

    async def test_before_connect(self) -> None:
        conn = connection("nats://127.0.0.1:1")
        await conn.shutdown()
        with pytest.raises(NotConnectedError):
            await conn.connect()

    async def test_while_connecting(self, monitored: NatsServer) -> None:
        async def none_left() -> bool:
            return await clients(monitored) == 0

        outcomes = set()
        for turns in range(0, 60, 3):
            conn = connection(monitored.url)
            task = asyncio.create_task(conn.connect())
            for _ in range(turns):
                await asyncio.sleep(0)
            async with bounded():
                was_open = task.done()
                await conn.shutdown()
                await asyncio.wait({task})
            assert not conn.is_healthy()
            if was_open:
                task.result()
            else:
                assert isinstance(task.exception(), NotConnectedError)
            outcomes.add(was_open)
        assert False in outcomes
        await eventually(none_left)

    async def test_while_connecting_to_a_server_that_does_not_answer(self, nats_server: NatsServer) -> None:
        nats_server.pause()
        conn = connection(nats_server.url, op_timeout=1.0, connect_timeout=0.3)
        task = asyncio.create_task(conn.connect())
        await asyncio.sleep(0)
        async with bounded():
            await conn.shutdown()
            with pytest.raises((NotConnectedError, ConnectionFailedError)):
                await task
        nats_server.resume()

    async def test_pending_operations_end(self, nats_server: NatsServer) -> None:
        conn = connection(nats_server.url, op_timeout=30)
        await conn.connect()
        store = await conn.store("b")
        watch = store.watch()
        await watch.__aenter__()
        nats_server.pause()
        tasks = [
            asyncio.create_task(store.get("k")),
            asyncio.create_task(store.put("k", b"v")),
            asyncio.create_task(store.scan()),
            asyncio.create_task(conn.stores()),
            asyncio.create_task(conn.store("other")),
            asyncio.create_task(anext(watch)),
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(4):
            await conn.shutdown()
            await asyncio.wait(tasks)
        nats_server.resume()
        errors = [task.exception() for task in tasks]
        assert {type(error) for error in errors} == {NotConnectedError}
        assert [getattr(error, "outcome_unknown", None) for error in errors] == [
            False,
            True,
            False,
            False,
            False,
            False,
        ]
        await watch.aclose()

    async def test_two_at_once(self, monitored: NatsServer) -> None:
        async def none_left() -> bool:
            return await clients(monitored) == 0

        conn = connection(monitored.url)
        await conn.connect()
        async with bounded():
            await asyncio.gather(conn.shutdown(), conn.shutdown())
        await eventually(none_left)

    async def test_cancelled_it_goes_on(self, monitored: NatsServer) -> None:
        async def none_left() -> bool:
            return await clients(monitored) == 0

        conn = connection(monitored.url)
        await conn.connect()
        task = asyncio.create_task(conn.shutdown())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert not conn.is_healthy()
        async with bounded():
            await conn.shutdown()
        await eventually(none_left)

    async def test_of_a_half_dead_connection_is_quick(self, nats_server: NatsServer, fault_proxy: MakeProxy) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        conn = connection(proxy.url, op_timeout=30)
        await conn.connect()
        store = await conn.store("b")
        async with store.watch() as watch:
            await watch.wait_hydrated()
            proxy.black_hole()
            async with asyncio.timeout(4):
                await conn.shutdown()

    async def test_of_a_paused_server_with_full_buffers_is_quick(self, nats_server: NatsServer) -> None:
        conn = connection(nats_server.url, op_timeout=30)
        await conn.connect()
        store = await conn.store("b")
        nats_server.pause()
        # More than the sockets of both sides take.
        writing = asyncio.create_task(store.put_many((f"k.{i}", b"x" * 500_000) for i in range(60)))
        reading = asyncio.create_task(store.get("k.0"))
        await until_stuck(conn)
        async with asyncio.timeout(4):
            await conn.shutdown()
            await asyncio.wait({writing, reading})
        nats_server.resume()
        assert writing.exception() is not None
        assert reading.exception() is not None


class TestHealth:
    async def test_it_follows_the_server(self, nats_server: NatsServer) -> None:
        async with connection(nats_server.url) as conn:
            store = await conn.store("b")
            version = await store.put("k", b"v")
            for end in (nats_server.kill, nats_server.stop):
                await end()
                await until_healthy(conn, False)
                await nats_server.start()
                await until_healthy(conn)
                entry = await store.get("k")
                assert entry is not None
                assert entry.version == version

    async def test_capabilities_are_known_throughout(self, nats_server: NatsServer) -> None:
        async with connection(nats_server.url) as conn:
            known = conn.capabilities
            assert known.cas
            assert known.streaming_watch
            assert known.max_value_size > 0
            await nats_server.kill()
            await until_healthy(conn, False)
            assert conn.capabilities == known
            await nats_server.start()
            await until_healthy(conn)
            assert conn.capabilities == known

    async def test_a_half_dead_connection_is_noticed(self, nats_server: NatsServer, fault_proxy: MakeProxy) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        async with connection(proxy.url, ping_interval=0.2, connect_timeout=0.5, reconnect_max_wait=0.2) as conn:
            proxy.black_hole()
            await until_healthy(conn, False)
            await proxy.heal()
            await until_healthy(conn)
            await conn.store("b")

    async def test_what_a_stuck_server_did_not_take_is_not_sent_later(self, nats_server: NatsServer) -> None:
        async with connection(nats_server.url, ping_interval=0.5, op_timeout=1, reconnect_max_wait=0.2) as conn:
            store = await conn.store("b")
            nats_server.pause()
            filling = asyncio.create_task(store.put_many((f"k.{i}", b"x" * 500_000) for i in range(60)))
            await until_stuck(conn)
            with pytest.raises(OperationTimeoutError) as caught:
                await store.put("late", b"v")
            assert caught.value.outcome_unknown
            with pytest.raises(BulkWriteError):
                await filling
            await until_healthy(conn, False)
            nats_server.resume()
            await until_healthy(conn)
            await store.put("k", b"v")
            assert await store.get("late") is None

    async def test_a_lost_server_is_replaced_by_another_of_the_list(self, nats_server: NatsServer) -> None:
        async with NatsServer() as other, connection(f"{nats_server.url},{other.url}") as conn:
            for _ in range(2):
                (name,) = {"b"} | set(await conn.stores())
                store = await conn.store(name)
                await store.put("k", b"v")
                first = conn.capabilities
                current = nats_server if str(nats_server.port) in await where(conn) else other
                await current.kill()
                await until_healthy(conn, False)
                await until_healthy(conn)
                assert conn.capabilities == first
                await current.start()


async def where(conn: NatsConnection) -> str:
    """The server that a connection is on."""
    session = conn._session
    assert session is not None
    return session.where


class TestBorrowedClient:
    @pytest.fixture
    async def client(self, nats_server: NatsServer) -> AsyncIterator[Client]:
        async def quiet(_: Exception) -> None:
            return

        client = await nats.connect(
            nats_server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=quiet
        )
        yield client
        await client.close()

    async def test_it_is_used_and_never_closed(self, client: Client, nats_server: NatsServer) -> None:
        before = set(client._subs)
        async with NatsConnection.from_client(client, op_timeout=10) as conn:
            assert conn.is_healthy()
            assert conn.capabilities.cas
            store = await conn.store("b")
            version = await store.put("k", b"v")
            assert [entry.version for entry in await store.scan()] == [version]
            async with store.watch() as watch, bounded():
                assert (await anext(watch)).version == version
        assert not conn.is_healthy()
        assert client.is_connected
        await client.flush()
        # The one that stays is nats-py's own, for requests.
        left = {client._subs[sid].subject for sid in set(client._subs) - before}
        assert len(left) <= 1
        with pytest.raises(NotConnectedError, match="shut down"):
            await conn.connect()

    async def test_its_state_is_read_without_connect(self, client: Client) -> None:
        conn = NatsConnection.from_client(client, op_timeout=10)
        assert conn.is_healthy()
        assert await conn.stores() == []
        store = await conn.store("b")
        await store.put("k", b"v")
        assert conn.capabilities.cas
        await conn.shutdown()
        assert not conn.is_healthy()
        assert client.is_connected

    async def test_many_first_uses_at_once(self, client: Client) -> None:
        conn = NatsConnection.from_client(client, op_timeout=10)
        async with bounded():
            await asyncio.gather(*(conn.store(f"b{i}") for i in range(10)), conn.connect())
        await conn.shutdown()

    async def test_several_connections_share_one_client(self, client: Client) -> None:
        async with NatsConnection.from_client(client) as one, NatsConnection.from_client(client) as other:
            version = await (await one.store("b")).put("k", b"v")
            entry = await (await other.store("b")).get("k")
            assert entry is not None
            assert entry.version == version
            await one.shutdown()
            assert other.is_healthy()
            await other.stores()

    async def test_it_is_never_connected_for_its_owner(self, nats_server: NatsServer) -> None:
        client = Client()
        conn = NatsConnection.from_client(client)
        assert not conn.is_healthy()
        with pytest.raises(NotConnectedError, match="connect it yourself"):
            await conn.connect()
        await client.connect(nats_server.url)
        await conn.connect()
        assert conn.is_healthy()
        await client.close()
        assert not conn.is_healthy()
        with pytest.raises(NotConnectedError, match="connect it yourself"):
            await conn.connect()
        assert client.is_closed
        await conn.shutdown()

    async def test_its_health_follows_the_client(self, client: Client, nats_server: NatsServer) -> None:
        async with NatsConnection.from_client(client, op_timeout=10) as conn:
            store = await conn.store("b")
            version = await store.put("k", b"v")
            await nats_server.kill()
            await until_healthy(conn, False)
            assert not client.is_connected
            reading = asyncio.create_task(store.get("k"))  # waits for the connection
            await nats_server.start()
            async with bounded():
                entry = await reading
            assert entry is not None
            assert entry.version == version
            await until_healthy(conn)

    async def test_a_request_right_after_the_loss_does_not_block_the_loop(
        self, client: Client, nats_server: NatsServer
    ) -> None:
        async with NatsConnection.from_client(client, op_timeout=0.5) as conn:
            store = await conn.store("b")
            await nats_server.kill()
            async with bounded():
                while client.is_connected:  # noqa: ASYNC110 - its events belong to its owner
                    await asyncio.sleep(0)
                with pytest.raises(OperationTimeoutError):
                    await store.get("k")

    async def test_shut_down_while_it_is_disconnected(self, client: Client, nats_server: NatsServer) -> None:
        conn = NatsConnection.from_client(client, op_timeout=10)
        await conn.connect()
        await conn.store("b")
        before = {sub.subject for sub in client._subs.values()}
        await nats_server.kill()
        await until_healthy(conn, False)
        async with bounded():
            await conn.shutdown()
        # What it subscribed is not replayed on the owner's next connection.
        assert len(before) > len(client._subs)

    async def test_a_closed_one_ends_operations(self, client: Client) -> None:
        async with NatsConnection.from_client(client, op_timeout=10) as conn:
            store = await conn.store("b")
            async with store.watch() as watch:
                await watch.wait_hydrated()
                waiting = asyncio.create_task(anext(watch))
                await asyncio.sleep(0)
                await client.close()
                async with bounded():
                    with pytest.raises(NotConnectedError):
                        await waiting
                    with pytest.raises(NotConnectedError):
                        await store.get("k")


class TestPermissions:
    CONFIG = """
        authorization { users = [
            { user: admin, password: a }
            { user: no_writes, password: a, permissions: { publish: { deny: "$KV.b.>" } } }
            { user: no_consumers, password: a, permissions: { publish: { deny: "$JS.API.CONSUMER.CREATE.>" } } }
            { user: no_reads, password: a,
              permissions: { publish: { deny: ["$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.>"] } } }
            { user: no_buckets, password: a, permissions: { publish: { deny: "$JS.API.STREAM.CREATE.>" } } }
            { user: no_api, password: a, permissions: { publish: { deny: "$JS.API.>" } } }
            { user: no_flow_control, password: a, permissions: { publish: { deny: "$JS.FC.>" } } }
            { user: no_inbox, password: a, permissions: { subscribe: { deny: "_INBOX.>" } } }
            { user: own_inbox, password: a, permissions: { subscribe: { allow: "_MINE.>" } } }
        ] }"""

    @pytest.fixture
    async def server(self) -> AsyncIterator[NatsServer]:
        async with NatsServer(config=self.CONFIG) as server:
            async with connection(self.url(server, "admin")) as conn:
                await (await conn.store("b")).put("k", b"v")
            yield server

    def url(self, server: NatsServer, user: str) -> str:
        return f"nats://{user}:a@127.0.0.1:{server.port}"

    async def test_a_write_is_refused_at_once(self, server: NatsServer) -> None:
        async with connection(self.url(server, "no_writes"), op_timeout=30) as conn:
            store = await conn.store("b")
            assert await store.get("k") is not None
            version = (await store.scan())[0].version
            async with bounded():
                for write in (
                    store.put("k", b"w"),
                    store.create("new", b"w"),
                    store.update("k", b"w", version),
                    store.delete("k"),
                    store.delete_with_version("k", version),
                    store.purge("k"),
                ):
                    with pytest.raises(PermissionDeniedError, match=r"publish on '\$KV\.b\.") as caught:
                        await write
                    assert not caught.value.outcome_unknown
            assert conn.is_healthy()
            assert await store.get("k") is not None

    async def test_a_borrowed_client_tells_soon(self, server: NatsServer) -> None:
        async def quiet(_: Exception) -> None:
            return

        client = await nats.connect(self.url(server, "no_writes"), error_cb=quiet)
        try:
            async with NatsConnection.from_client(client, op_timeout=30) as conn, bounded():
                store = await conn.store("b")
                for _ in range(2):
                    with pytest.raises(PermissionDeniedError):
                        await store.put("k", b"w")
        finally:
            await client.close()

    async def test_a_scan_and_a_watch_are_refused_at_once(self, server: NatsServer) -> None:
        async with connection(self.url(server, "no_consumers"), op_timeout=30) as conn:
            store = await conn.store("b")
            async with bounded():
                with pytest.raises(PermissionDeniedError, match=r"CONSUMER\.CREATE"):
                    await store.scan()
                with pytest.raises(PermissionDeniedError, match=r"CONSUMER\.CREATE"):
                    await store.keys()
                with pytest.raises(PermissionDeniedError, match=r"CONSUMER\.CREATE"):
                    await anext(store.iter_scan())
                with pytest.raises(PermissionDeniedError, match=r"CONSUMER\.CREATE"):
                    await store.watch().__aenter__()
                with pytest.raises(PermissionDeniedError, match=r"CONSUMER\.CREATE"):
                    await store.history("k")
            assert await store.get("k") is not None

    @pytest.mark.parametrize("lane", ["data", "slow"])
    async def test_a_watch_that_may_not_answer_flow_control_ends(self, server: NatsServer, lane: str) -> None:
        """The server waits for the answer after some megabytes, and sends heartbeats meanwhile."""
        async with connection(self.url(server, "no_flow_control"), op_timeout=30, lane=lane) as conn:
            store = await conn.store("b")
            await store.put_many([(f"large.{number}", bytes(64 * 1024)) for number in range(200)])
            async with bounded(), store.watch() as watch:
                with pytest.raises(PermissionDeniedError, match=r"(?i)\$JS\.FC\."):
                    async for _ in watch:
                        pass
            async with bounded():
                with pytest.raises(PermissionDeniedError, match=r"(?i)\$JS\.FC\."):
                    await store.scan()

    async def test_a_read_is_refused_at_once(self, server: NatsServer) -> None:
        async with connection(self.url(server, "no_reads"), op_timeout=30) as conn:
            for reads in ("any", "leader"):
                store = await conn.store("b", reads=reads)
                async with bounded():
                    with pytest.raises(PermissionDeniedError, match="GET"):
                        await store.get("k")
                    with pytest.raises(PermissionDeniedError, match="GET"):
                        await store.get_many(["k", "l"])

    async def test_opening_a_bucket_without_the_api(self, server: NatsServer) -> None:
        async with connection(self.url(server, "no_api"), op_timeout=30) as conn, bounded():
            with pytest.raises(PermissionDeniedError, match=r"\$JS\.API"):
                await conn.store("b")

    async def test_making_a_bucket(self, server: NatsServer) -> None:
        async with connection(self.url(server, "no_buckets"), op_timeout=6) as conn:
            await conn.store("b")
            async with bounded():
                with pytest.raises(PermissionDeniedError, match=r"STREAM\.CREATE\.KV_new"):
                    await conn.store("new")

    async def test_no_inbox_to_answer_to(self, server: NatsServer) -> None:
        async with bounded(), connection(self.url(server, "no_inbox"), op_timeout=30) as conn:
            with pytest.raises(PermissionDeniedError, match=r"subscription on '_INBOX"):
                await conn.store("b")

    async def test_an_inbox_of_ones_own(self, server: NatsServer) -> None:
        async with bounded(), connection(self.url(server, "own_inbox"), inbox_prefix="_MINE") as conn:
            store = await conn.store("b")
            assert [entry.key for entry in await store.scan()] == ["k"]
            await conn.store("made_through_nats_py")


class TestWithoutJetStream:
    async def test_a_server_without(self, caplog: pytest.LogCaptureFixture) -> None:
        async with NatsServer(jetstream=False) as server, bounded(), connection(server.url, op_timeout=30) as conn:
            assert conn.is_healthy()
            for refused in (conn.store("b"), conn.stores(), conn.delete_store("b")):
                with pytest.raises(UnsupportedError, match=rf"nats-server {server.version()} at nats://.*no JetStream"):
                    await refused
            capabilities = conn.capabilities
            assert not any(
                (capabilities.cas, capabilities.streaming_watch, capabilities.prefix_watch, capabilities.purge)
            )
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    async def test_an_account_without(self) -> None:
        config = """
            accounts {
                WITHOUT { users = [{ user: without, password: a }] }
                WITH { jetstream: enabled, users = [{ user: with, password: a }] }
            }"""
        async with NatsServer(config=config) as server, bounded():
            url = f"nats://{{}}:a@127.0.0.1:{server.port}"
            async with connection(url.format("without"), op_timeout=30) as conn:
                assert conn.is_healthy()
                with pytest.raises(UnsupportedError, match="not enabled for this account"):
                    await conn.store("b")
                assert not conn.capabilities.cas
            async with connection(url.format("with")) as conn:
                await conn.store("b")
                assert conn.capabilities.cas

    async def test_a_wrong_domain(self, nats_server: NatsServer) -> None:
        async with bounded(), connection(nats_server.url, domain="elsewhere", op_timeout=30) as conn:
            with pytest.raises(UnsupportedError):
                await conn.store("b")

    async def test_the_right_domain(self, tmp_path: Path) -> None:
        config = f'jetstream {{ domain: hub, store_dir: "{tmp_path}" }}'
        async with NatsServer(config=config, jetstream=False) as server, connection(server.url, domain="hub") as conn:
            store = await conn.store("b")
            await store.put("k", b"v")
            assert [entry.value for entry in await store.scan()] == [b"v"]
            assert await conn.stores() == ["b"]
            await conn.delete_store("b")


class TestDeadlines:
    """Every operation ends by `op_timeout` + 1 s with OperationTimeoutError, whatever does not answer."""

    KEYS = 5000

    OPERATIONS: dict[str, Callable[[KvStore, NatsConnection], Awaitable[object]]] = {  # noqa: RUF012
        "get": lambda store, conn: store.get("k.1"),
        "entry": lambda store, conn: store.entry("k.1"),
        "get_many": lambda store, conn: store.get_many(f"k.{i}" for i in range(200)),
        "keys": lambda store, conn: store.keys(),
        "scan": lambda store, conn: store.scan(),
        "scan a prefix": lambda store, conn: store.scan("k."),
        "iter_scan": lambda store, conn: _all_of(store),
        "history": lambda store, conn: store.history("k.1"),
        "revision": lambda store, conn: _revision(store),
        "put": lambda store, conn: store.put("k.1", b"w"),
        "create": lambda store, conn: store.create("new", b"w"),
        "update": lambda store, conn: _update(store),
        "delete": lambda store, conn: store.delete("k.1"),
        "delete_with_version": lambda store, conn: _delete_with_version(store),
        "purge": lambda store, conn: store.purge("k.1"),
        "purge_deletes": lambda store, conn: store.purge_deletes(),
        "put_many": lambda store, conn: store.put_many({f"k.{i}": b"w" for i in range(5)}),
        "set-up of a watch": lambda store, conn: store.watch().__aenter__(),
        "set-up of a watch on prefixes": lambda store, conn: store.watch(["k.", "l."]).__aenter__(),
        "status": lambda store, conn: store.status(),
        "store": lambda store, conn: conn.store("b"),
        "a new store": lambda store, conn: conn.store("new"),
        "stores": lambda store, conn: conn.stores(),
        "delete_store": lambda store, conn: conn.delete_store("b"),
    }

    async def test_a_half_dead_connection(self, nats_server: NatsServer, fault_proxy: MakeProxy) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        # No reconnect within the time: pings are slower than the operations.
        await self._all_time_out(proxy.url, proxy.black_hole, ping_interval=30.0)
        await proxy.heal()

    async def test_a_half_dead_connection_that_is_noticed(
        self, nats_server: NatsServer, fault_proxy: MakeProxy
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        await self._all_time_out(proxy.url, proxy.black_hole, ping_interval=0.1, connect_timeout=0.2)
        await proxy.heal()

    async def test_answers_that_get_lost(self, nats_server: NatsServer, fault_proxy: MakeProxy) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        await self._all_time_out(proxy.url, lambda: proxy.black_hole("to_client"), ping_interval=30.0)
        await proxy.heal()

    async def test_a_paused_server(self, nats_server: NatsServer) -> None:
        await self._all_time_out(nats_server.url, nats_server.pause)
        nats_server.resume()

    async def test_a_dead_server(self, nats_server: NatsServer) -> None:
        async with connection(nats_server.url, op_timeout=1.0) as conn:
            store = await conn.store("b")
            await nats_server.kill()
            await self._check(store, conn, 1.0)

    async def _all_time_out(self, url: str, break_it: Callable[[], None], **options: object) -> None:
        async with connection(url, op_timeout=10.0, **options) as conn:
            await (await conn.store("b")).put_many({f"k.{i}": b"v" for i in range(self.KEYS)})
        conn = connection(url, op_timeout=1.0, **options)
        await conn.connect()
        try:
            store = await conn.store("b")
            break_it()
            await self._check(store, conn, 1.0)
        finally:
            async with asyncio.timeout(4):
                await conn.shutdown()
        assert not [
            task for task in asyncio.all_tasks() if "/slipstream/stores/" in repr(task) or "/nats/aio/" in repr(task)
        ]

    async def _check(self, store: KvStore, conn: NatsConnection, op_timeout: float) -> None:
        outcomes = await asyncio.gather(
            *(self._outcome(operation(store, conn), op_timeout) for operation in self.OPERATIONS.values())
        )
        wrong = {
            name: outcome
            for name, outcome in zip(self.OPERATIONS, outcomes, strict=True)
            if not isinstance(outcome, OperationTimeoutError)
        }
        assert set(wrong) == {"put_many"}, wrong
        errors = getattr(wrong["put_many"], "errors", {})
        assert {type(error) for error in errors.values()} == {OperationTimeoutError}
        assert len(errors) == 5

    async def _outcome(self, operation: Awaitable[object], op_timeout: float) -> object:
        try:
            async with asyncio.timeout(op_timeout + 1.0):
                return await operation
        except Exception as error:  # noqa: BLE001 - the caller says which one is right
            return error


async def _all_of(store: KvStore) -> list[object]:
    return [entry async for entry in store.iter_scan()]


async def _revision(store: KvStore) -> object:
    from slipstream.model import VersionToken

    return await store.revision("k.1", VersionToken.from_u64(2))


async def _update(store: KvStore) -> object:
    from slipstream.model import VersionToken

    return await store.update("k.1", b"w", VersionToken.from_u64(2))


async def _delete_with_version(store: KvStore) -> object:
    from slipstream.model import VersionToken

    return await store.delete_with_version("k.1", VersionToken.from_u64(2))
