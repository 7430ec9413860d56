"""The harness itself: what it breaks is broken, and what it starts ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from slipstream.errors import ConnectionFailedError
from slipstream.testing.proxy import Direction, FaultProxy, Side
from slipstream.testing.server import NatsServer, ServerProcess

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]
QUIET = 0.2  # seconds without an answer that count as silence


async def dial(port: int) -> Streams:
    """A connection to a nats-server that has been greeted and answers pings."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"INFO ")
    writer.write(b'CONNECT {"verbose":false}\r\n')
    assert await ping((reader, writer))
    return reader, writer


async def ping(streams: Streams, within: float = 5) -> bool:
    reader, writer = streams
    writer.write(b"PING\r\n")
    try:
        async with asyncio.timeout(within):
            while line := await reader.readline():
                if line == b"PONG\r\n":
                    return True
    except TimeoutError:
        return False
    raise ConnectionResetError("the connection ended")


async def ended(streams: Streams) -> None:
    """Return when the other side has closed in good order; raises ConnectionResetError on a reset."""
    async with asyncio.timeout(5):
        while await streams[0].read(65536):
            continue


async def hang_up(*all_streams: Streams) -> None:
    for _, writer in all_streams:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in all_streams), return_exceptions=True)


@asynccontextmanager
async def plain_server() -> AsyncIterator[tuple[int, asyncio.Queue[Streams]]]:
    """A socket without a protocol: its port, and its end of each connection as it is made."""
    accepted: asyncio.Queue[Streams] = asyncio.Queue()
    ends: list[Streams] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append((reader, writer))
        accepted.put_nowait((reader, writer))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        try:
            yield server.sockets[0].getsockname()[1], accepted
        finally:
            await hang_up(*ends)


async def joined(port: int, accepted: asyncio.Queue[Streams]) -> dict[str, Streams]:
    """Both ends of a new connection that carries data both ways."""
    client = await asyncio.open_connection("127.0.0.1", port)
    server = await asyncio.wait_for(accepted.get(), 5)
    for (reader, _), (_, writer) in ((client, server), (server, client)):
        writer.write(b"hello\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"hello\n"
    return {"client": client, "server": server}


async def silent(streams: Streams) -> bool:
    """Neither data nor an end comes."""
    try:
        await asyncio.wait_for(streams[0].read(1), QUIET)
    except TimeoutError:
        return True
    return False


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TestNatsServer:
    async def test_ready_means_that_it_answers(self) -> None:
        async with NatsServer() as server:
            streams = await dial(server.port)
            await hang_up(streams)
            assert server.url == f"nats://127.0.0.1:{server.port}"
            assert tuple(map(int, server.version().split("."))) >= (2, 9)
            assert "Server is ready" in server.log()
            assert "JetStream" in server.log()

    async def test_nothing_is_left_behind(self) -> None:
        async with NatsServer() as server:
            pid, folder = server.pid, server.directory
            assert alive(pid)
        assert not alive(pid)
        assert not folder.exists()

    async def test_a_given_folder_stays(self, tmp_path: Path) -> None:
        async with NatsServer(tmp_path / "here"):
            pass
        assert (tmp_path / "here" / "data" / "jetstream").is_dir()

    @pytest.mark.parametrize("how", ["restart", "kill", "stop"])
    async def test_the_port_stays_over_restarts(self, nats_server: NatsServer, how: str) -> None:
        port, pid = nats_server.port, nats_server.pid
        if how == "restart":
            await nats_server.restart()
        else:
            await (nats_server.kill() if how == "kill" else nats_server.stop())
            assert not alive(pid)
            with pytest.raises(RuntimeError, match="not running"):
                _ = nats_server.pid
            with pytest.raises(ConnectionRefusedError):
                await dial(port)
            await nats_server.start()
        assert nats_server.pid != pid
        assert nats_server.port == port
        await hang_up(await dial(port))

    async def test_a_server_that_died_by_itself_can_be_started_again(self, nats_server: NatsServer) -> None:
        os.kill(nats_server.pid, signal.SIGKILL)
        await nats_server.restart()
        await hang_up(await dial(nats_server.port))

    async def test_a_paused_server_is_deaf_and_resumes(self, nats_server: NatsServer) -> None:
        streams = await dial(nats_server.port)
        nats_server.pause()
        assert not await ping(streams, within=QUIET)
        nats_server.resume()
        assert await ping(streams)
        await hang_up(streams)

    async def test_a_paused_server_can_be_stopped(self, nats_server: NatsServer) -> None:
        pid = nats_server.pid
        nats_server.pause()
        await nats_server.stop()
        assert not alive(pid)
        assert "Initiating Shutdown" in nats_server.log()

    async def test_starting_twice_is_an_error(self, nats_server: NatsServer) -> None:
        pid = nats_server.pid
        with pytest.raises(RuntimeError, match="is running"):
            await nats_server.start()
        assert nats_server.pid == pid

    async def test_extra_configuration_is_used(self) -> None:
        async with NatsServer(config="max_payload: 4321", jetstream=False) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            info = json.loads((await reader.readline())[5:])
            await hang_up((reader, writer))
        assert info["max_payload"] == 4321
        assert not info.get("jetstream")

    async def test_a_failed_start_tells_the_log_and_leaves_no_process(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match=r"(?s)nats-server ended.*no_such_option"):
            async with NatsServer(tmp_path, config="no_such_option { }"):
                pytest.fail("it started")

    async def test_a_start_that_takes_too_long_leaves_no_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        binary = tmp_path / "nats-server"
        binary.write_text("#!/bin/sh\necho $$ > pid\nexec sleep 600\n")
        binary.chmod(0o755)
        monkeypatch.setenv("SLIPSTREAM_NATS_SERVER", str(binary))
        with pytest.raises(RuntimeError, match="not ready within"):
            await NatsServer(tmp_path, start_timeout=2.0).start()
        assert not alive(int((tmp_path / "pid").read_text()))

    @pytest.mark.parametrize("turns", [0, 1, 2, 5])
    async def test_a_cancelled_start_leaves_no_process(self, tmp_path: Path, turns: int) -> None:
        server = NatsServer(tmp_path)
        starting = asyncio.create_task(server.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        with pytest.raises(RuntimeError, match="not running"):
            _ = server.pid
        assert not await asyncio.to_thread(lambda: list(tmp_path.glob("*.ports")))

    def test_the_core_needs_no_event_loop(self) -> None:
        with ServerProcess() as server:
            pid = server.pid
            assert alive(pid)
        assert not alive(pid)


class TestBinary:
    def test_a_wrong_override_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SLIPSTREAM_NATS_SERVER", "/nowhere/nats-server")
        with pytest.raises(ConnectionFailedError, match=r"\$SLIPSTREAM_NATS_SERVER .*/nowhere/nats-server"):
            ServerProcess().start()


class TestFaultProxy:
    @pytest.fixture
    async def proxy(self, nats_server: NatsServer, fault_proxy: MakeProxy) -> FaultProxy:
        return await fault_proxy("127.0.0.1", nats_server.port)

    async def test_without_a_fault_it_forwards(self, proxy: FaultProxy) -> None:
        streams = await dial(proxy.port)
        streams[1].write(b"SUB a 1\r\n" + b"PUB a 100000\r\n" + b"x" * 100_000 + b"\r\n")
        assert await asyncio.wait_for(streams[0].readline(), 5) == b"MSG a 1 100000\r\n"
        assert await asyncio.wait_for(streams[0].readexactly(100_002), 5) == b"x" * 100_000 + b"\r\n"
        await hang_up(streams)

    @pytest.mark.parametrize("direction", ["both", "to_server", "to_client"])
    async def test_a_black_hole_is_silent_and_open(self, proxy: FaultProxy, direction: Direction) -> None:
        streams = await dial(proxy.port)
        proxy.black_hole(direction)
        assert not await ping(streams, within=QUIET)
        assert not streams[0].at_eof()
        await proxy.heal()
        await ended(streams)  # it lost bytes
        healed = await dial(proxy.port)
        await hang_up(streams, healed)

    async def test_a_black_hole_takes_new_connections(self, proxy: FaultProxy) -> None:
        proxy.black_hole()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), QUIET)
        await hang_up((reader, writer))

    async def test_healing_spares_connections_that_lost_nothing(self, proxy: FaultProxy) -> None:
        streams = await dial(proxy.port)
        proxy.black_hole()
        await proxy.heal()
        assert await ping(streams)
        await hang_up(streams)

    async def test_refuse_keeps_what_is_open_and_the_port(self, proxy: FaultProxy) -> None:
        port = proxy.port
        streams = await dial(port)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await dial(port)
        assert await ping(streams)
        await proxy.heal()
        assert proxy.port == port
        await hang_up(streams, await dial(port))

    async def test_drop_ends_connections_in_good_order(self, proxy: FaultProxy) -> None:
        streams = await dial(proxy.port)
        proxy.drop()
        await ended(streams)
        await hang_up(streams, await dial(proxy.port))

    async def test_reset_resets_connections(self, proxy: FaultProxy) -> None:
        streams = await dial(proxy.port)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await ended(streams)
        await hang_up(streams, await dial(proxy.port))

    async def test_latency_delays_both_ways_and_keeps_the_order(self, proxy: FaultProxy) -> None:
        streams = await dial(proxy.port)
        proxy.latency(QUIET)
        assert not await ping(streams, within=QUIET)  # there and back takes twice as long
        proxy.latency(0)
        streams[1].write(b"SUB a 1\r\n")
        for number in range(5):
            proxy.latency(0.05)
            streams[1].write(b"PUB a 1\r\n%d\r\n" % number)
        seen = b""
        async with asyncio.timeout(5):
            while seen.count(b"MSG") < 5 or not seen.endswith(b"4\r\n"):
                seen += await streams[0].read(65536)
        assert [line for line in seen.split(b"\r\n") if line.isdigit()] == [b"0", b"1", b"2", b"3", b"4"]
        await hang_up(streams)

    async def test_cut_after_lets_exactly_so_many_bytes_through(self, proxy: FaultProxy) -> None:
        streams = await dial(proxy.port)
        cut = proxy.cut_after(10, "to_client")
        streams[1].write(b"PING\r\nPING\r\n")
        seen = b""
        async with asyncio.timeout(5):
            while data := await streams[0].read(65536):
                seen += data
        assert seen == b"PONG\r\nPONG"
        assert cut.is_set()
        await hang_up(streams, await dial(proxy.port))  # only once

    @pytest.mark.parametrize("direction", ["both", "to_server", "to_client"])
    async def test_a_freeze_holds_everything_back_and_loses_nothing(
        self, fault_proxy: MakeProxy, direction: Direction
    ) -> None:
        async with plain_server() as (port, accepted):
            proxy = await fault_proxy("127.0.0.1", port)
            ends = await joined(proxy.port, accepted)
            proxy.freeze(direction)
            for receiver, way in (("client", "to_client"), ("server", "to_server")):
                sender = "server" if receiver == "client" else "client"
                ends[sender][1].write(b"one\n")
                if direction in (way, "both"):
                    assert await silent(ends[receiver])
                else:
                    assert await asyncio.wait_for(ends[receiver][0].readline(), 5) == b"one\n"
            await proxy.heal()
            for receiver, way in (("client", "to_client"), ("server", "to_server")):
                if direction in (way, "both"):
                    assert await asyncio.wait_for(ends[receiver][0].readline(), 5) == b"one\n"
            await hang_up(ends["client"])

    async def test_a_frozen_end_of_the_stream_comes_late(self, fault_proxy: MakeProxy) -> None:
        async with plain_server() as (port, accepted):
            proxy = await fault_proxy("127.0.0.1", port)
            ends = await joined(proxy.port, accepted)
            proxy.freeze("to_client")
            ends["server"][1].close()
            assert await silent(ends["client"])
            await proxy.heal()
            await ended(ends["client"])
            await hang_up(ends["client"])

    @pytest.mark.parametrize(("survivor", "told"), [("client", "server"), ("server", "client")])
    async def test_half_dead_ends_one_side_and_does_not_tell_the_other(
        self, fault_proxy: MakeProxy, survivor: Side, told: Side
    ) -> None:
        async with plain_server() as (port, accepted):
            proxy = await fault_proxy("127.0.0.1", port)
            ends = await joined(proxy.port, accepted)
            proxy.half_dead(survivor)
            await ended(ends[told])
            ends[survivor][1].write(b"anyone?\n")
            assert await silent(ends[survivor])
            new = await joined(proxy.port, accepted)
            await proxy.heal()
            await ended(ends[survivor])
            assert await silent(new["client"])
            await hang_up(ends["client"], new["client"])

    @pytest.mark.parametrize(("sender", "receiver"), [("client", "server"), ("server", "client")])
    async def test_bandwidth_lets_only_so_much_through_and_loses_nothing(
        self, fault_proxy: MakeProxy, sender: Side, receiver: Side
    ) -> None:
        sent = bytes(range(256)) * 400
        async with plain_server() as (port, accepted):
            proxy = await fault_proxy("127.0.0.1", port)
            ends = await joined(proxy.port, accepted)
            proxy.bandwidth(1000)  # all of it would take minutes
            ends[sender][1].write(sent)
            seen = await asyncio.wait_for(ends[receiver][0].read(65536), 5)
            assert 0 < len(seen) < len(sent)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ends[receiver][0].readexactly(len(sent) - len(seen)), QUIET)
            proxy.bandwidth(None)
            seen += await asyncio.wait_for(ends[receiver][0].readexactly(len(sent) - len(seen)), 5)
            assert seen == sent
            await hang_up(ends["client"])

    @pytest.mark.parametrize("rate", [0, -1, float("nan")])
    def test_a_bandwidth_of_nothing_is_another_fault(self, rate: float) -> None:
        with pytest.raises(ValueError, match="black_hole"):
            FaultProxy("127.0.0.1", 1).bandwidth(rate)

    async def test_an_end_on_one_side_ends_the_other(self, proxy: FaultProxy, nats_server: NatsServer) -> None:
        streams = await dial(proxy.port)
        await nats_server.kill()
        await ended(streams)
        with pytest.raises(ConnectionResetError):  # nobody is behind the proxy
            await dial(proxy.port)
        await hang_up(streams)

    async def test_closing_leaves_neither_connections_nor_tasks(self, nats_server: NatsServer) -> None:
        before = asyncio.all_tasks()
        async with FaultProxy("127.0.0.1", nats_server.port) as proxy:
            streams = [await dial(proxy.port) for _ in range(3)]
            proxy.black_hole()
            await ping(streams[0], within=QUIET)
        assert proxy.connections == 0
        assert asyncio.all_tasks() == before
        for each in streams:
            await ended(each)
        with pytest.raises(ConnectionRefusedError):
            await dial(proxy.port)
        await hang_up(*streams)


async def test_the_session_server_answers(nats_url: str) -> None:
    await hang_up(await dial(int(nats_url.rpartition(":")[2])))
