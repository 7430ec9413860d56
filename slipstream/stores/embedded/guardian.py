"""The process that runs one nats-server for as long as anyone uses its folder.

    python -I guardian.py FOLDER BINARY START_TIMEOUT REPORT_FD KEEP|REMOVE

It detaches itself, writes one line of JSON to REPORT_FD (`{}`: ready, `busy`: there is another guardian, `error`: why
not) and closes it. Started by path, it needs nothing but the standard library: the program that started it may end,
or be upgraded, long before it does.

    users.lock      users hold it shared; the guardian ends when it gets it exclusively, and holds it while it stops
                    the server, so that who comes then waits and starts anew
    start.lock      held by a user who looks for a guardian or starts one
    guardian.lock   held by the guardian, with its pid
    server.lock     held by guardian and nats-server together (one open file), with the pid of the latter: held
                    without a guardian, it names a nats-server that was left behind
    guardian.alive  a named pipe whose writing end the guardian holds: its end tells the readers
    server.json     port, token and whether the server is ready; it outlives a guardian that was killed, so that the
                    next one takes its place at the same address, and not one that ended
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

USERS_LOCK = "users.lock"
START_LOCK = "start.lock"
GUARDIAN_LOCK = "guardian.lock"
SERVER_LOCK = "server.lock"
ALIVE = "guardian.alive"
PUBLISHED = "server.json"
CONFIG = "server.conf"
LOG = "server.log"
DATA = "data"

STOP_GRACE = 2.0  # seconds from SIGTERM to SIGKILL; the whole end has 5 s
MAX_RESTARTS = 5
STEADY_SECONDS = 10.0  # who has run so long is no longer "in a row"
_POLL_SECONDS = 0.01  # neither a ports file nor a listener that is not there yet offers an event
_LOG_TAIL = 2000


class StartError(Exception):
    """The nats-server does not run; the message says why."""


class Over(Exception):
    """Nobody uses the folder any more, or the guardian was told to end."""


def restart_delay(failures: int) -> float | None:
    """Seconds to wait before the restart that follows so many ends in a row; None: no more restarts."""
    return 0.1 * 2 ** (failures - 1) if failures <= MAX_RESTARTS else None


def read_published(folder: Path) -> dict[str, Any] | None:
    """What `server.json` holds, None if there is none."""
    try:
        return dict(json.loads((folder / PUBLISHED).read_text()))
    except (FileNotFoundError, ValueError):
        return None


class Guardian:
    """One nats-server and what happens to it. Everything is done by the main thread; the others only report to it."""

    def __init__(self, folder: Path, binary: str, start_timeout: float) -> None:
        self._folder = folder
        self._binary = binary
        self._start_timeout = start_timeout
        self._events: queue.SimpleQueue[subprocess.Popen[bytes] | type[Over]] = queue.SimpleQueue()
        self._server: subprocess.Popen[bytes] | None = None
        self._server_lock = os.open(folder / SERVER_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        self._users_lock = os.open(folder / USERS_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        left = read_published(folder) or {}
        self._port: int | None = left.get("port")
        self._token = str(left.get("token") or secrets.token_urlsafe(32))
        self._publish(ready=False)

    def run(self, report: Report) -> None:
        """Start, tell, and keep the server running. Returns once it is over; raises StartError where it cannot."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._events.put(Over))
        threading.Thread(target=self._wait_unused, daemon=True).start()
        try:
            self._take_server_lock()
            self._start_first()
            report.send({})
            self._keep_running()
        except Over:
            return
        finally:
            for name in (PUBLISHED, CONFIG):
                (self._folder / name).unlink(missing_ok=True)
            self._stop()

    def release(self) -> None:
        """Let the next users in."""
        os.close(self._server_lock)
        os.close(self._users_lock)

    def _wait_unused(self) -> None:
        try:
            fcntl.flock(self._users_lock, fcntl.LOCK_EX)
        finally:
            self._events.put(Over)

    def _take_server_lock(self) -> None:
        """Take it after the end of a nats-server whose guardian was killed (which ends by itself on Linux)."""
        began = time.monotonic()
        while not _try_lock(self._server_lock):
            waited = time.monotonic() - began
            if waited > 2 * STOP_GRACE:
                raise StartError("a nats-server that was left behind in this folder does not end")
            self._await_exit(None, _POLL_SECONDS)
            pid = int(os.pread(self._server_lock, 32, 0) or b"0")
            if pid > 0:  # who holds the lock lives, so that the number is still its own
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if waited > STOP_GRACE else signal.SIGTERM)

    def _start_first(self) -> None:
        try:
            self._start()
        except StartError:
            if self._port is None:
                raise
            self._port = None  # another program may have taken it meanwhile
            self._start()

    def _keep_running(self) -> None:
        failures = 0
        while True:
            since = time.monotonic()
            self._await_exit(self._server, None)
            self._publish(ready=False)
            if time.monotonic() - since >= STEADY_SECONDS:
                failures = 0
            failures = self._restart(failures + 1)

    def _restart(self, failures: int) -> int:
        """Start it again, and again; how many ends in a row it took. Raises StartError when they are too many."""
        while (delay := restart_delay(failures)) is not None:
            _note(f"nats-server ended, starting it again in {delay} s")
            self._await_exit(None, delay)
            try:
                self._start()
            except StartError as error:
                _note(str(error))
                failures += 1
            else:
                return failures
        raise StartError(f"nats-server ended {failures} times in a row")

    def _start(self) -> None:
        """Start the server on its port, or on one that it picks, and publish it once it is ready.

        Raises: StartError; the server has ended.
        """
        for stale in self._folder.glob("*.ports"):
            stale.unlink(missing_ok=True)
        self._write(CONFIG, self._configuration())
        os.ftruncate(self._server_lock, 0)
        command = [sys.executable, "-I", "-S", __file__, "exec", str(os.getpid()), str(self._server_lock)]
        log = os.open(self._folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            server = self._server = subprocess.Popen(  # noqa: S603 - what the starter found, by its full path
                [*command, self._binary, "-c", str(self._folder / CONFIG)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._server_lock,),
            )
        finally:
            os.close(log)
        threading.Thread(target=self._reap, args=(server,), daemon=True).start()
        deadline = time.monotonic() + self._start_timeout
        while not self._is_ready(server):
            if self._await_exit(server, _POLL_SECONDS):
                raise StartError(f"nats-server ended; the end of its log:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                self._stop()
                raise StartError(f"nats-server was not ready within {self._start_timeout} s:\n{self._log_tail()}")
        self._publish(ready=True)

    def _reap(self, server: subprocess.Popen[bytes]) -> None:
        server.wait()
        self._events.put(server)

    def _await_exit(self, server: subprocess.Popen[bytes] | None, timeout: float | None) -> bool:
        """True once this server has ended, False when the time is up. Raises Over."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                event = self._events.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return False
            if isinstance(event, type):
                raise event
            if event is server:
                return True

    def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.terminate()
            try:
                server.wait(STOP_GRACE)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def _publish(self, *, ready: bool) -> None:
        self._write(PUBLISHED, json.dumps({"port": self._port, "token": self._token, "ready": ready}))

    def _configuration(self) -> str:
        return "\n".join(
            [
                f'listen: "127.0.0.1:{self._port or -1}"',
                f"ports_file_dir: {_quoted(self._folder)}",
                f'authorization {{ token: "{self._token}" }}',
                f"jetstream {{ store_dir: {_quoted(self._folder / DATA)} }}",
                "",
            ]
        )

    def _is_ready(self, server: subprocess.Popen[bytes]) -> bool:
        """It has told its port, and greets whoever connects there."""
        # The file is called after the binary, which may have any name.
        for file in self._folder.glob(f"*_{server.pid}.ports"):
            with suppress(ValueError, OSError):  # not yet written to its end, or nobody listens yet
                port = int(json.loads(file.read_text())["nats"][0].rpartition(":")[2])
                with socket.create_connection(("127.0.0.1", port), 1.0) as peer:
                    if peer.recv(5) == b"INFO ":
                        self._port = port
                        return True
        return False

    def _write(self, name: str, text: str) -> None:
        """Replace the file at once, readable by this user alone."""
        new = self._folder / f"{name}.new"
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        new.replace(self._folder / name)

    def _log_tail(self) -> str:
        return (self._folder / LOG).read_text(errors="replace")[-_LOG_TAIL:]


class Report:
    """The pipe to whoever started the guardian; it also tells when there is none."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def send(self, message: dict[str, Any]) -> None:
        """Say it and close; only the first message is sent."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(fd, json.dumps(message).encode())
            os.close(fd)


def guard(folder: Path, binary: str, start_timeout: float, report: Report, *, temporary: bool) -> None:
    """Be the guardian of the folder, unless there is one."""
    lock = os.open(folder / GUARDIAN_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + 1.0
    while not _try_lock(lock):  # one that was killed may hold it for a moment more
        if time.monotonic() > deadline:
            report.send({"busy": True})
            return
        time.sleep(_POLL_SECONDS)
    _sign(lock)
    guardian = Guardian(folder, binary, start_timeout)
    alive = folder / ALIVE
    alive.unlink(missing_ok=True)
    os.mkfifo(alive, 0o600)
    writing_end = os.open(alive, os.O_RDWR)
    outcome = "it was told to end"
    try:
        guardian.run(report)
    except StartError as error:
        outcome = str(error)
        _note(outcome)
    finally:
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)
        guardian.release()
        os.close(lock)
        # Last: who is told the end finds the locks free.
        report.send({"error": outcome})
        os.close(writing_end)


def detach(folder: Path) -> None:
    """Leave the program that started this: its session, its folder, its terminal. The caller's process ends here."""
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)


def exec_server(parent: int, lock: int, command: list[str]) -> None:
    """Become the nats-server that dies with its guardian, and write its pid into the lock that it shares with it."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1  # linux/prctl.h; it survives the exec
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() == parent:  # else the guardian died before it could be asked for
        _sign(lock)
        os.execv(command[0], command)  # noqa: S606 - the point is that there is no shell


def main(arguments: list[str]) -> None:
    if arguments[0] == "exec":
        exec_server(int(arguments[1]), int(arguments[2]), arguments[3:])
        return
    folder, binary, start_timeout, report_fd, afterwards = arguments
    report = Report(int(report_fd))
    detach(Path(folder))
    try:
        guard(Path(folder), binary, float(start_timeout), report, temporary=afterwards == "REMOVE")
    except Exception as error:
        report.send({"error": f"{type(error).__name__}: {error}"})
        raise


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)


def _note(text: str) -> None:
    sys.stderr.write(f"[guardian {os.getpid()}] {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
