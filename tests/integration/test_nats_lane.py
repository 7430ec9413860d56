"""The data lane on real servers: what it takes from nats-py, and what becomes of a conversation that breaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client

from slipstream.errors import KvError, OperationTimeoutError, PermissionDeniedError
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.stores.nats import client as nats_client
from slipstream.stores.nats import session as nats_session
from slipstream.stores.nats.client import changed
from slipstream.stores.nats.data_lane import DataLane
from slipstream.stores.nats.decode import NO_HEADERS, Headers
from slipstream.stores.nats.lane import (
    Closed,
    Denied,
    Disconnected,
    Frame,
    Lane,
    NoResponders,
    Pending,
    TooLarge,
    read_frame,
)
from slipstream.stores.nats.slow_lane import SlowLane
from slipstream.stores.nats.transport import LaneTransport
from slipstream.stores.nats.wire import WireReader
from slipstream.testing._waiting import bounded, eventually
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer, ServerProcess

MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]


def connection(url: str, *, op_timeout: float = 10.0, **options: object) -> NatsConnection:
    return NatsConnection(NatsConnectionConfig(url=url, op_timeout=op_timeout, **options))  # type: ignore[arg-type]


def lane_of(conn: NatsConnection) -> Lane:
    assert conn._session is not None
    return conn._session.lane


def data_lane_of(conn: NatsConnection) -> DataLane:
    lane = lane_of(conn)
    assert isinstance(lane, DataLane)
    return lane


def transport_of(conn: NatsConnection) -> LaneTransport:
    transport = data_lane_of(conn)._client._transport
    assert isinstance(transport, LaneTransport)
    return transport


def _denying(subject: str) -> str:
    return f"""authorization {{ users = [
        {{ user: u, password: p, permissions: {{ publish: {{ deny: "{subject}" }} }} }}
    ] }}"""


# What of nats-py it stands on.


def test_nats_py_is_as_the_data_lane_knows_it() -> None:
    # This fails where a new nats-py changes what `client.py` reaches into. Read what it names there, see that the
    # lane still holds (this file, the contract), and only then add the version to TESTED.
    assert changed() == []


@pytest.mark.parametrize("name", [*nats_client.CALLS, *nats_client.PROPERTIES])
def test_what_is_gone_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Client, name)
    assert [line for line in changed() if f"Client.{name}" in line]


def test_what_is_called_otherwise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def _connect_to_server(self: Client, server: object, tls: bool) -> None: ...

    monkeypatch.setattr(Client, "_connect_to_server", _connect_to_server)
    monkeypatch.setattr(nats_client, "__version__", "2.99.0")
    first, second = changed()
    assert "2.99.0" in first
    assert "_connect_to_server is called as (self" in second


async def test_without_it_the_slow_lane_is_taken_and_said_once(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nats_client, "__version__", "2.99.0")
    nats_session._changed.cache_clear()
    try:
        for _ in range(2):
            async with connection(nats_url) as conn:
                assert isinstance(lane_of(conn), SlowLane)
    finally:
        nats_session._changed.cache_clear()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "2.99.0" in warnings[0]


async def test_one_setting_chooses(nats_url: str) -> None:
    async with connection(nats_url) as conn:
        assert isinstance(lane_of(conn), DataLane)
    async with connection(nats_url, lane="slow") as conn:
        assert isinstance(lane_of(conn), SlowLane)
    with pytest.raises(ValueError, match="lane"):
        NatsConnectionConfig(lane="fast")  # type: ignore[arg-type]


async def test_a_borrowed_client_takes_the_slow_lane(nats_url: str) -> None:
    client = Client()
    await client.connect(nats_url)
    try:
        async with NatsConnection.from_client(client) as conn:
            await conn.stores()
            assert isinstance(lane_of(conn), SlowLane)
    finally:
        await client.close()


# A conversation, cut.


class Conversation:
    """What a real server sends to a client that does a bit of everything, byte by byte as it came."""

    def __init__(self) -> None:
        self.received = b""

    def record(self, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 5) as peer:
            peer.settimeout(5)

            def ask(reply: str, subject: str, payload: bytes = b"") -> None:
                command = b"PUB %b in.%b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload)
                peer.sendall(command)

            def until(*ends: bytes) -> None:
                while not all(end in self.received for end in ends):
                    self.received += peer.recv(65536)

            options = {"verbose": False, "headers": True, "no_responders": True, "protocol": 1}
            login = json.dumps({**options, "user": "u", "pass": "p"}).encode()
            peer.sendall(b"CONNECT " + login + b"\r\nPING\r\nSUB in.* s1\r\nSUB w s2\r\nSUB x 7\r\n")
            until(b"PONG\r\n")
            stream = {"name": "KV_b", "subjects": ["$KV.b.>"], "allow_direct": True, "allow_rollup_hdrs": True}
            ask("made", "$JS.API.STREAM.CREATE.KV_b", json.dumps(stream).encode())
            until(b"in.made")
            for i in range(20):
                ask(f"put{i}", f"$KV.b.k.{i}", b"\r\nMSG w s2 3\r\n" + bytes(range(256)) * i)
            head = b"NATS/1.0\r\nNats-Msg-Id: 1\r\nKV-Operation: DEL\r\n\r\n"
            peer.sendall(b"HPUB $KV.b.gone in.del %d %d\r\n%b\r\n" % (len(head), len(head), head))
            until(b"in.put19", b"in.del")
            consumer = {
                "name": "c",
                "deliver_policy": "all",
                "ack_policy": "none",
                "deliver_subject": "w",
                "idle_heartbeat": 100_000_000,
            }
            wanted = json.dumps({"stream_name": "KV_b", "config": consumer}).encode()
            ask("consumer", "$JS.API.CONSUMER.CREATE.KV_b.c", wanted)
            until(b"in.consumer", b"Idle Heartbeat")
            ask("get", "$JS.API.DIRECT.GET.KV_b.$KV.b.gone")
            ask("none", "$JS.API.DIRECT.GET.KV_b.$KV.b.nothing")
            ask("nobody", "nobody.listens")
            ask("denied", "denied.Subject")
            peer.sendall(b"PUB x 5\r\nplain\r\nPING\r\n")
            until(b"in.get", b"in.none", b"in.nobody", b"-ERR", b"plain\r\n")

    def read(self, chunks: list[bytes]) -> tuple[list[object], list[bytes]]:
        seen: list[object] = []

        def taker(sid: str) -> Callable[[list[Frame]], None]:
            return lambda frames: seen.extend(
                (sid, m.subject, m.reply, m.data, dict(m.headers), m.status, m.description)
                for m in map(read_frame, frames)
            )

        reader = WireReader({b"s1": taker("s1"), b"s2": taker("s2")})
        others = [operation for chunk in chunks for operation in reader.feed(chunk)]
        return seen, others


@pytest.fixture(scope="module")
def conversation() -> Conversation:
    config = _denying("denied.>")
    recorded = Conversation()
    with ServerProcess(config=config) as server:
        recorded.record(server.port)
    return recorded


def test_the_recording_has_everything(conversation: Conversation) -> None:
    seen, others = conversation.read([conversation.received])
    statuses = {message[5] for message in seen}  # type: ignore[index]
    assert {None, 100, 404, 503} <= statuses
    assert {operation[:4] for operation in others} == {b"INFO", b"PONG", b"-ERR", b"MSG "}
    assert sum(message[0] == "s2" and message[5] is None for message in seen) == 21  # type: ignore[index]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_recorded_conversation_may_be_cut_anywhere(conversation: Conversation, data: st.DataObject) -> None:
    stream = conversation.received
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=60)))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert conversation.read(pieces) == conversation.read([stream])


def test_a_recorded_conversation_byte_by_byte(conversation: Conversation) -> None:
    stream = conversation.received
    assert conversation.read([stream[i : i + 1] for i in range(len(stream))]) == conversation.read([stream])


async def test_cut_anywhere_it_goes_on_with_the_next_connection(
    nats_server: NatsServer, fault_proxy: MakeProxy
) -> None:
    proxy = await fault_proxy("127.0.0.1", nats_server.port)
    chance = random.Random(20261121)
    async with connection(proxy.url, reconnect_max_wait=0.1) as conn:
        store = await conn.store("b")
        await store.put_many({f"k.{i}": b"\r\nMSG" + bytes(500) for i in range(200)})
        async with store.watch("k.") as watch:
            latest: dict[str, bytes] = {}

            async def follow() -> None:
                async for update in watch:
                    latest[update.key] = update.value

            following = asyncio.create_task(follow())
            for round_ in range(40):
                cut = proxy.cut_after(chance.randrange(1, 60_000), chance.choice(["to_client", "to_server"]))
                async with asyncio.timeout(30):
                    while not cut.is_set():
                        value = b"%d" % round_
                        await store.put(f"k.{chance.randrange(200)}", value * 100)
                        entry = await store.get("k.0")
                        assert entry is not None
                        assert len(await store.scan("k.")) == 200
            expected = {entry.key: entry.value for entry in await store.scan("k.")}

            async def caught_up() -> bool:
                return latest == expected

            await eventually(caught_up)
            following.cancel()
            await asyncio.wait({following})


# A connection that goes.


async def test_what_is_pending_fails_at_once(nats_server: NatsServer, fault_proxy: MakeProxy) -> None:
    proxy = await fault_proxy("127.0.0.1", nats_server.port)
    async with connection(proxy.url) as conn:
        await conn.store("b")
        lane = data_lane_of(conn)
        proxy.black_hole("to_client")
        one = asyncio.create_task(lane.request("$JS.API.INFO"))
        many = asyncio.create_task(lane.request_many("$JS.API.DIRECT.GET.KV_b", b'{"multi_last":["$KV.b.>"]}'))
        posted = lane.post("$JS.API.INFO")
        await asyncio.sleep(0)
        assert len(lane._pending) == 3
        proxy.drop()
        async with asyncio.timeout(5):
            await asyncio.wait({one, many})
        for task in (one, many):
            assert isinstance(error := task.exception(), Disconnected)
            assert error.sent
        with pytest.raises(Disconnected):
            await posted.answer()
        assert lane._pending == {}
        await proxy.heal()


async def test_what_was_not_sent_is_never_sent(nats_server: NatsServer, fault_proxy: MakeProxy) -> None:
    proxy = await fault_proxy("127.0.0.1", nats_server.port)
    async with connection(proxy.url, reconnect_max_wait=0.1) as conn:
        store = await conn.store("b")
        lane = data_lane_of(conn)
        for turn in range(3):
            lane.post(f"$KV.b.lost.{turn}", b"v")
            lane._client._pending.append(b"PUB $KV.b.late 1\r\nv\r\n")  # a command of nats-py's own
            lane._client._pending_data_size += 1
            transport_of(conn).abort()  # in the same turn: nothing has left yet
            assert not lane.is_connected
            with pytest.raises(Disconnected) as caught:
                lane.post("$KV.b.refused", b"v")
            assert not caught.value.sent
            async with bounded():
                await lane.wait_connected()
            assert await store.get("nothing") is None  # the new connection has been used
        assert await store.keys() == []


async def test_a_peer_that_stopped_reading_is_let_go_of(nats_server: NatsServer) -> None:
    async with connection(nats_server.url, op_timeout=1.0, ping_interval=0.2, connect_timeout=0.3) as conn:
        store = await conn.store("b")
        await store.put("k", b"v")
        before = transport_of(conn)
        nats_server.pause()
        # More than the sockets of both sides take: the transport never gets rid of it.
        with pytest.raises(KvError):
            await store.put_many({f"k.{i}": b"x" * 500_000 for i in range(60)})
        nats_server.resume()

        async def on_another_one() -> bool:
            return conn.is_healthy() and transport_of(conn) is not before

        await eventually(on_another_one)
        entry = await store.get("k")
        assert entry is not None


async def test_subscriptions_are_there_again_after_a_reconnect(nats_server: NatsServer) -> None:
    async with connection(nats_server.url) as conn:
        lane = data_lane_of(conn)
        seen: list[bytes] = []
        kept = await lane.subscribe("kept", lambda frames: seen.extend(data for *_, data in frames))
        closed = await lane.subscribe("closed", lambda frames: seen.extend(data for *_, data in frames))
        closed.close()
        closed.close()
        await nats_server.restart()
        async with bounded():
            await lane.wait_connected()
        lane.send("closed", b"closed")
        lane.send("kept", b"kept")
        await lane.request("$JS.API.INFO")
        assert seen == [b"kept"]
        kept.close()
        lane.send("kept", b"late")
        await lane.request("$JS.API.INFO")
        assert seen == [b"kept"]


async def test_a_server_that_speaks_nonsense_is_left() -> None:
    served = 0

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            writer.write(b'INFO {"max_payload": 1048576, "version": "2.15.1", "headers": true}\r\n')
            await reader.readuntil(b"PING\r\n")
            writer.write(b"PONG\r\n")
            if served < 3:
                await reader.readuntil(b"SUB ")  # connected: before, it would be a server that refuses
                writer.write(b"HTTP/1.1 200 OK\r\n")
            await reader.read()

    listener = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with listener:
        conn = connection(f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}", op_timeout=0.5)
        await conn.connect()

        async def left_twice() -> bool:
            return served >= 3

        await eventually(left_twice)
        async with bounded():
            await conn.shutdown()


# What is sent.


async def test_a_key_that_comes_twice_is_written_again_when_the_first_write_is_done(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connection(nats_url) as conn:
        store = await conn.store("twice")
        lane = data_lane_of(conn)
        posted: dict[str, list[Pending]] = {}
        post = lane.post

        def spy(subject: str, payload: bytes = b"", headers: Headers = NO_HEADERS) -> Pending:
            assert all(earlier.peek() is not None for earlier in posted.get(subject, [])), "it is still under way"
            posted.setdefault(subject, []).append(request := post(subject, payload, headers))
            return request

        monkeypatch.setattr(lane, "post", spy)
        versions = await store.put_many([("a", b"1"), ("b", b"1"), ("a", b"2"), ("a", b"3")])
        assert len(posted["$KV.twice.a"]) == 3
        assert [version.as_u64() for version in versions] == [1, 2, 3, 4]
        entry = await store.get("a")
        assert entry is not None
        assert entry.value == b"3"


async def test_what_is_written_in_one_turn_leaves_in_one_write(nats_url: str) -> None:
    async with connection(nats_url) as conn:
        lane = data_lane_of(conn)
        io = transport_of(conn)._io
        assert io is not None
        writes: list[bytes] = []
        send = io.write

        def write(data: bytes) -> None:
            writes.append(bytes(data))
            send(data)

        io.write = write  # type: ignore[method-assign]
        answers = await asyncio.gather(*(lane.request("$JS.API.INFO") for _ in range(50)))
        assert len(answers) == 50
        assert len([data for data in writes if b"$JS.API.INFO" in data]) == 1


async def test_too_large_is_refused_before_anything_is_sent(nats_url: str) -> None:
    async with connection(nats_url) as conn:
        lane = data_lane_of(conn)
        with pytest.raises(TooLarge):
            await lane.request("s", b"x" * (lane.max_payload + 1))
        with pytest.raises(TooLarge):
            await lane.request("s", b"x" * (lane.max_payload - 10), {"A": "counts as well"})
        assert lane._pending == {}
        with pytest.raises(NoResponders):
            await lane.request("nobody.listens", b"x" * lane.max_payload)
        assert conn.is_healthy()


async def test_a_refusal_reaches_its_own_request() -> None:
    config = (
        """authorization { users = [{ user: u, password: p, permissions: { publish: { deny: "$KV.b.Case" } } }] }"""
    )
    async with NatsServer(config=config) as server, connection(f"nats://u:p@127.0.0.1:{server.port}") as conn:
        store = await conn.store("b")
        refused = asyncio.create_task(store.put("Case", b"v"))
        taken = asyncio.create_task(store.put("case", b"v"))
        async with bounded():
            await asyncio.wait({refused, taken})
        assert isinstance(refused.exception(), PermissionDeniedError)
        assert taken.exception() is None
        with pytest.raises(Denied):
            await lane_of(conn).request("$KV.b.Case")
        assert conn.is_healthy()


async def test_cancelled_requests_leave_nothing(nats_url: str) -> None:
    async with connection(nats_url) as conn:
        lane = data_lane_of(conn)
        for turns in range(4):
            task = asyncio.create_task(lane.request("$JS.API.INFO"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert lane._pending == {}
        posted = lane.post("$JS.API.INFO")
        posted.close()
        posted.close()
        assert lane._pending == {}


async def test_a_reader_that_fails_stops_nobody_else(nats_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with connection(nats_url) as conn:
        lane = data_lane_of(conn)

        def fail(frames: list[Frame]) -> None:
            raise RuntimeError("a bug")

        await lane.subscribe("lane.fails", fail)
        lane.send("lane.fails", b"x")
        assert (await lane.request("$JS.API.INFO")).data
    assert "a reader of lane.fails failed" in caplog.text


async def test_closed_is_closed(nats_url: str) -> None:
    conn = connection(nats_url)
    await conn.connect()
    lane = lane_of(conn)
    await conn.shutdown()
    with pytest.raises(Closed):
        await lane.request("$JS.API.INFO")
    with pytest.raises(Closed):
        await lane.subscribe("s", lambda messages: None)
    with pytest.raises(Closed):
        await lane.wait_connected()
    lane.send("s")


async def test_a_half_dead_connection_times_out(nats_server: NatsServer, fault_proxy: MakeProxy) -> None:
    proxy = await fault_proxy("127.0.0.1", nats_server.port)
    async with connection(proxy.url, op_timeout=0.5, ping_interval=30.0) as conn:
        store = await conn.store("b")
        proxy.black_hole("to_client")
        async with bounded():
            with pytest.raises(OperationTimeoutError):
                await store.get("k")
        assert data_lane_of(conn)._pending == {}
        await proxy.heal()


# TLS.


@pytest.fixture
async def tls_server(tmp_path: Path) -> AsyncIterator[tuple[NatsServer, ssl.SSLContext]]:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    done = await asyncio.to_thread(
        subprocess.run, [*command, *names, "-keyout", key, "-out", certificate], capture_output=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    async with NatsServer(config=f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}') as server:
        yield server, ssl.create_default_context(cafile=str(certificate))


async def test_tls(tls_server: tuple[NatsServer, ssl.SSLContext]) -> None:
    server, context = tls_server
    url = f"tls://localhost:{server.port}"
    async with bounded(), connection(url, tls=context) as conn:
        assert isinstance(lane_of(conn), DataLane)
        store = await conn.store("b")
        await store.put_many({f"k.{i}": b"x" * 10_000 for i in range(300)})
        assert len(await store.scan()) == 300
        await server.restart()
        assert len(await store.scan()) == 300
    with pytest.raises(KvError):
        await connection(url, op_timeout=2.0).connect()
