"""Bounded waits for tests: each ends with what was waited for, or fails within `LIMIT` seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from slipstream.interfaces import Watch
from slipstream.model import KvUpdate

T = TypeVar("T")

LIMIT = 10.0
"""Seconds; generous, because a bound says "it hung", not "it was slow"."""

_POLL_SECONDS = 0.02


def bounded() -> asyncio.Timeout:
    """`async with bounded():` fails with TimeoutError after `LIMIT` seconds."""
    return asyncio.timeout(LIMIT)


async def collect(watch: Watch, count: int) -> list[KvUpdate]:
    """The next so many updates."""
    async with bounded():
        return [await anext(watch) for _ in range(count)]


async def collect_until(watch: Watch, last: Callable[[KvUpdate], bool]) -> list[KvUpdate]:
    """The next updates up to the first one that `last` is true of, that one included."""
    updates: list[KvUpdate] = []
    async with bounded():
        while not updates or not last(updates[-1]):
            updates.append(await anext(watch))
    return updates


async def drain(watch: Watch) -> list[KvUpdate]:
    """Every update until the watch ends; raises what it ends with."""
    async with bounded():
        return [update async for update in watch]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once the condition holds. It asks again and again: only for what nobody announces."""
    async with bounded():
        while not await condition():  # noqa: ASYNC110 - the state of another machine sets no event here
            await asyncio.sleep(_POLL_SECONDS)


async def ticks(count: int) -> None:
    """Let the event loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled_after(count: int, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """The task of `work`, ended: by itself, or by being cancelled after so many turns of the event loop."""
    task = asyncio.create_task(work)
    await ticks(count)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=LIMIT)
    assert done, f"still running {LIMIT} s after it was cancelled: {task}"
    return task


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` beside the block until the block ends; a failure of its own comes out there."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=LIMIT)
    if not task.cancelled():
        task.result()
