"""One event loop for a command, signals, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from slipstream.cli.exits import Exit

F = TypeVar("F", bound=Callable[..., Awaitable[int]])
_ENDING = (signal.SIGINT, signal.SIGTERM)
_FORWARDED = (*_ENDING, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_STOPPABLE = "_ends_by_being_stopped"
_stop: ContextVar[Callable[[int], None] | None] = ContextVar("_stop", default=None)
"""What SIGINT and SIGTERM do to the command that runs."""


def until_stopped(command: F) -> F:
    """A command that runs until it is told to end: SIGINT and SIGTERM are its normal end, with code 0."""
    setattr(command, _STOPPABLE, True)
    return command


def run_command(command: Callable[..., object], work: Coroutine[Any, Any, int]) -> int:
    """Run it to its end; its exit code. SIGINT and SIGTERM cancel it, so that it leaves nothing behind.

    Raises: what it raises.
    """
    try:
        with asyncio.Runner() as runner:
            return runner.run(_signalled(work, normal=hasattr(command, _STOPPABLE)))
    except BrokenPipeError:
        # Whoever read has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


@contextmanager
def forwarding(take: Callable[[int], None]) -> Iterator[None]:
    """In the block signals do not end the command: `take` is called with their numbers, from the event loop."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _FORWARDED}
    ending = _stop.get()
    for number in _FORWARDED:
        loop.add_signal_handler(number, take, number)
    try:
        yield
    finally:
        for number in _FORWARDED:
            loop.remove_signal_handler(number)
            if number in _ENDING and ending is not None:
                loop.add_signal_handler(number, ending, number)
            else:
                signal.signal(number, before[number])


async def _signalled(work: Coroutine[Any, Any, int], *, normal: bool) -> int:
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    _stop.set(stop)
    task = asyncio.ensure_future(work)
    for number in _ENDING:
        loop.add_signal_handler(number, stop, number)
    await asyncio.wait({task})
    if not task.cancelled():
        return int(task.result())
    if not received:
        raise asyncio.CancelledError
    return Exit.OK if normal else 128 + received[0]
