"""A real nats-server for tests: one process in its own folder, on loopback, to be stopped, killed and paused."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from slipstream.stores.embedded.binary import find_nats_server

T = TypeVar("T")
_POLL = 0.01  # seconds; neither the ports file nor a listener that is not there yet offers an event to wait for


class ServerProcess:
    """The synchronous core of `NatsServer`, for fixtures that outlive an event loop. Methods as there, but blocking."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        config: str = "",
        jetstream: bool = True,
        start_timeout: float = 10.0,
        stop_grace: float = 5.0,
    ) -> None:
        self._config = config
        self._jetstream = jetstream
        self._start_timeout = start_timeout
        self._stop_grace = stop_grace
        self._given = directory
        self._folder: Path | None = None
        self._port: int | None = None
        self._info: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        if self._port is None:
            raise RuntimeError("the server was never started")
        return self._port

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def directory(self) -> Path:
        if self._folder is None:
            raise RuntimeError("the server was never started")
        return self._folder

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError("the server is running")
        binary = find_nats_server()
        if self._folder is None:
            self._folder = self._given or Path(tempfile.mkdtemp(prefix="slipstream-nats-"))
            self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / "server.conf"
        file.write_text(self._configuration(self._folder))
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "-c", file], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )
        try:
            self._wait_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        self._process.send_signal(signal.SIGCONT)  # a paused process takes its SIGTERM only when it goes on
        with suppress(subprocess.TimeoutExpired):  # the grace is over
            self._process.wait(self._stop_grace)
        self.kill()

    def kill(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for file in self._ports_files(self._process.pid):
            file.unlink(missing_ok=True)
        self._process = None

    def pause(self) -> None:
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        # The signal reaches its many threads one by one: until the last has stopped, an answer may still come.
        os.waitpid(process.pid, os.WUNTRACED)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        if self._given is None and self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def version(self) -> str:
        if not self._info:
            raise RuntimeError("the server was never started")
        return str(self._info["version"])

    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    @property
    def _log_file(self) -> Path:
        return self.directory / "server.log"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process

    def _configuration(self, folder: Path) -> str:
        lines = [
            f'listen: "127.0.0.1:{self._port or -1}"',
            f"ports_file_dir: {_quoted(folder)}",
        ]
        if self._jetstream:
            lines.append(f"jetstream {{ store_dir: {_quoted(folder / 'data')} }}")
        return "\n".join([*lines, self._config, ""])

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout
        while process.poll() is None and time.monotonic() < deadline:
            self._port = self._port or self._reported_port(process.pid)
            info = self._ask_info(deadline) if self._port else None
            if info:
                self._info = info
                return
            time.sleep(_POLL)
        why = "ended" if process.poll() is not None else f"was not ready within {self._start_timeout} s"
        raise RuntimeError(f"nats-server {why}; the end of its log:\n{self.log()[-2000:]}")

    def _reported_port(self, pid: int) -> int | None:
        for file in self._ports_files(pid):
            with suppress(json.JSONDecodeError):  # not yet written to its end
                return int(json.loads(file.read_text())["nats"][0].rpartition(":")[2])
        return None

    def _ports_files(self, pid: int) -> list[Path]:
        # Called after the binary, which may have any name.
        return list(self.directory.glob(f"*_{pid}.ports"))

    def _ask_info(self, deadline: float) -> dict[str, Any] | None:
        try:
            with socket.create_connection(("127.0.0.1", self.port), max(_POLL, deadline - time.monotonic())) as peer:
                line = peer.makefile("rb").readline()
        except OSError:
            return None
        return dict(json.loads(line[5:])) if line.startswith(b"INFO ") and line.endswith(b"\n") else None


class NatsServer:
    """A private nats-server: `async with NatsServer() as server: connect(server.url)`.

    It listens on 127.0.0.1, on a port that it picks at the first start and keeps from then on, and stores what it
    has in its folder, over restarts too. Ready means that it accepts connections and sends its INFO.

    Args:
        directory: where configuration, log and data go; None is a temporary folder, removed at the end.
        config: text that is appended to the server's configuration file.
        jetstream: whether the server has JetStream.
        start_timeout: seconds until a start has failed.
        stop_grace: seconds after SIGTERM until a stop sends SIGKILL.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        config: str = "",
        jetstream: bool = True,
        start_timeout: float = 10.0,
        stop_grace: float = 5.0,
    ) -> None:
        self._core = ServerProcess(
            directory, config=config, jetstream=jetstream, start_timeout=start_timeout, stop_grace=stop_grace
        )

    async def __aenter__(self) -> Self:
        await _in_thread(self._core.__enter__, undo=self._core.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _in_thread(self._core.close)

    @property
    def url(self) -> str:
        """`nats://127.0.0.1:<port>`; also while the server is down. Raises: RuntimeError before the first start."""
        return self._core.url

    @property
    def port(self) -> int:
        """Raises: RuntimeError before the first start."""
        return self._core.port

    @property
    def pid(self) -> int:
        """Raises: RuntimeError while the server is down."""
        return self._core.pid

    @property
    def is_running(self) -> bool:
        """It was started and has not ended, paused or not."""
        return self._core.is_running

    @property
    def directory(self) -> Path:
        """The folder. Raises: RuntimeError before the first start."""
        return self._core.directory

    async def start(self) -> None:
        """Start, and return when the server is ready; a cancelled start leaves no process.

        Raises: ConnectionFailedError without a binary; RuntimeError, with the end of the log, when the server ends
            or is not ready in time, and when it is running already.
        """
        await _in_thread(self._core.start, undo=self._core.kill)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL after the grace; does nothing if it is down."""
        await _in_thread(self._core.stop)

    async def kill(self) -> None:
        """SIGKILL; does nothing if it is down."""
        await _in_thread(self._core.kill)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers from now on, until `resume`."""
        self._core.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self._core.resume()

    async def restart(self) -> None:
        """Stop and start, with the same port and data."""
        await _in_thread(self._core.restart, undo=self._core.kill)

    def version(self) -> str:
        """As the server says itself, `2.15.1`. Raises: RuntimeError before the first start."""
        return self._core.version()

    def log(self) -> str:
        """Everything the server wrote, over all starts."""
        return self._core.log()


async def _in_thread(work: Callable[[], T], *, undo: Callable[[], None] | None = None) -> T:
    """Run it in a thread; cancelled, it is waited for all the same (it bounds itself) and undone."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if undo is not None and running.exception() is None:
            await asyncio.to_thread(undo)
        raise


def _quoted(path: Path) -> str:
    return json.dumps(str(path.absolute()), ensure_ascii=False)
