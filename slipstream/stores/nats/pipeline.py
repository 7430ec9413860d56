"""Many requests under way at once, in a bounded number."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def pipelined(items: Sequence[T], work: Callable[[T], Awaitable[R]], *, window: int) -> list[R]:
    """The results in the order of the items, which are begun in that order, at most `window` of them at a time.

    The first error ends the rest and is raised as it is.
    """
    if len(items) == 1:
        return [await work(items[0])]
    results: dict[int, R] = {}
    numbered = iter(enumerate(items))

    async def worker() -> None:
        for index, item in numbered:
            results[index] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(window, len(items))):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        error = errors.exceptions[0]
        raise error from error.__cause__
    return [results[index] for index in range(len(items))]
