"""A command as a child process that can be stopped whole."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

from slipstream.cli.exits import UsageError
from slipstream.cli.running import forwarding


async def run_child(command: Sequence[str], *, grace: float, environment: Mapping[str, str]) -> int:
    """Run the command to its end; its exit code, 128 and the number for a signal that ended it.

    Signals to this process go on to it. Cancelled, it is sent SIGTERM and after `grace` seconds SIGKILL, and so is what
    it has started itself, unless that left its process group; the call ends when it has ended.

    Raises: UsageError if it cannot be started.
    """
    try:
        # A group of its own: a signal of the terminal would reach it twice, and a shell's children not at all.
        child = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment}, process_group=0)
    except OSError as error:
        raise UsageError(f"{command[0]}: {error.strerror}") from None
    try:
        with forwarding(lambda number: _signal(child, number)):
            code = await child.wait()
    except BaseException:
        await _end(child, grace)
        raise
    return code if code >= 0 else 128 - code


async def _end(child: asyncio.subprocess.Process, grace: float) -> None:
    """SIGTERM, SIGKILL; not to be interrupted by another cancel."""
    ending = asyncio.ensure_future(_stop(child, grace))
    while not ending.done():
        with suppress(asyncio.CancelledError):  # it is being ended already
            await asyncio.wait({ending})
    ending.result()


async def _stop(child: asyncio.subprocess.Process, grace: float) -> None:
    _signal(child, signal.SIGTERM)
    with suppress(TimeoutError):  # the grace is over
        async with asyncio.timeout(grace):
            await child.wait()
    # Also what it has left behind in its group.
    _signal(child, signal.SIGKILL)
    await child.wait()


def _signal(child: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError):  # nobody is left
        os.killpg(child.pid, number)
