"""Work that is done in a child process."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from slipstream.errors import SnapshotError
from slipstream.replica.snapshot import SnapshotStore
from slipstream.testing.snapshots.base import (
    State,
    apply_numbers,
    batch_number,
    cursor_number,
    number_of,
    put,
    state_of,
)

_LIMIT = 50.0
"""Seconds; a bound says "it hung"."""


class Child:
    """A child process, killed when the block ends."""

    def __init__(self, task: str, kind: type[SnapshotStore], folder: Path) -> None:
        program = f"from {__name__} import main; main()"
        command = [sys.executable, "-c", program, task, f"{kind.__module__}:{kind.__qualname__}", str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill(signal.SIGKILL)

    def line(self) -> str:
        """The next thing that it says; fails with what went wrong if it ends instead."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(self._process.stderr.read())
        return line.strip()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def kill(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.communicate(timeout=_LIMIT)

    def finish(self) -> None:
        """Wait for its end; fails with what went wrong in it."""
        _, errors = self._process.communicate(timeout=_LIMIT)
        assert self._process.returncode == 0, errors


def run_child(task: str, kind: type[SnapshotStore], folder: Path) -> None:
    """Do that task in a child; fails if it fails."""
    with Child(task, kind, folder) as child:
        child.finish()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def is_refused(kind: type[SnapshotStore], folder: Path) -> None:
    try:
        await kind.open(folder)
    except SnapshotError as error:
        assert "open already" in str(error)
    else:
        raise AssertionError("opened twice")


async def open_and_wait(kind: type[SnapshotStore], folder: Path) -> None:
    store, _ = await kind.open(folder)
    await apply_numbers(store, 1, 1)
    _say("open")
    await asyncio.to_thread(sys.stdin.read)


def _forbid_growth(folder: Path, *, beyond: int) -> int:
    """Let no file of this process be longer than the longest now and so many bytes more; the limit before that."""
    largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + beyond, hard))
    return hard


async def run_out_of_room(kind: type[SnapshotStore], folder: Path) -> None:
    """A file may not grow: a batch fails, changes nothing, and works once there is room again."""
    states = [State()]
    store, _ = await kind.open(folder)
    await apply_numbers(store, 1, 3, states=states)
    hard = _forbid_growth(folder, beyond=150_000)
    for number in range(4, 100):
        batch = [put(f"big.{n}", os.urandom(500), number) for n in range(200)]
        try:
            await store.apply(batch, cursor_number(number))
        except SnapshotError as error:
            assert "room" in str(error), error
            break
        states.append(states[-1].after(batch, cursor_number(number)))
    else:
        raise AssertionError("the limit was never met")
    assert state_of(store) == states[-1]
    try:
        await store.apply(batch, cursor_number(number))
    except SnapshotError:
        assert state_of(store) == states[-1]  # the limit is one of each file: a store may have begun another
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.apply(batch, cursor_number(number))
    states.append(states[-1].after(batch, cursor_number(number)))
    await apply_numbers(store, number + 1, number + 3, states=states)
    assert state_of(store) == states[-1]
    await store.close()
    store, _ = await kind.open(folder)
    assert state_of(store) == states[-1]
    await store.close()


async def run_out_of_room_and_end(kind: type[SnapshotStore], folder: Path) -> None:
    """The same, but the process ends without another word right after the failure."""
    store, _ = await kind.open(folder)
    await apply_numbers(store, 1, 3)
    _forbid_growth(folder, beyond=20_000)
    try:
        await store.apply([put(f"big.{n}", os.urandom(500), 4) for n in range(2000)], cursor_number(4))
    except SnapshotError:
        os._exit(0)
    raise AssertionError("the limit was never met")


async def is_not_permitted(kind: type[SnapshotStore], folder: Path) -> None:
    """Run without the rights of root, to which no folder is read-only."""
    await asyncio.to_thread(lambda: None)  # what is imported late is imported before the rights are gone
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    for path in (folder, folder / "new"):
        try:
            await kind.open(path)
        except SnapshotError as error:
            assert "write" in str(error), error
            assert type(error) is SnapshotError
        else:
            raise AssertionError(f"{path} could be written")


async def _apply_until_killed(kind: type[SnapshotStore], folder: Path, rewriting: str | None, seed: int) -> None:
    """Batch after batch from where the store stands, each one said aloud once it is durable."""
    dice = random.Random(seed)
    while True:
        store, cursor = await kind.open(folder)
        number = number_of(cursor)
        async with store, asyncio.TaskGroup() as beside:
            for _ in range(dice.randint(1, 20)):
                if rewriting is not None and dice.random() < 0.15:
                    beside.create_task(getattr(store, rewriting)())
                number += 1
                await store.apply(batch_number(number), cursor_number(number))
                _say(f"{number}")


def fork_crashing_writers(kind: type[SnapshotStore], folder: Path) -> None:
    """For every line `<seed> [method]` fork a writer, say its process id, and say 0 once it has been killed.

    Forked from here, where everything is imported and no thread runs: a new interpreter for each would take longest.
    """
    for line in sys.stdin:
        seed, _, rewriting = line.strip().partition(" ")
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(_apply_until_killed(kind, folder, rewriting or None, int(seed)))
            finally:
                os._exit(1)
        _say(f"pid {pid}")
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "the writer failed by itself"
        _say("0")


TASKS: dict[str, Callable[[type[SnapshotStore], Path], Awaitable[None] | None]] = {
    task.__name__: task
    for task in (
        fork_crashing_writers,
        is_not_permitted,
        is_refused,
        open_and_wait,
        run_out_of_room,
        run_out_of_room_and_end,
    )
}


def main() -> None:
    """Do the task that the command line names, with the class and the folder that it names."""
    task, kind, folder = sys.argv[1:]
    module, _, name = kind.partition(":")
    work = TASKS[task](getattr(importlib.import_module(module), name), Path(folder))
    if work is not None:
        asyncio.run(_finish(work))


async def _finish(work: Awaitable[None]) -> None:
    await work
