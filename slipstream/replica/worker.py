"""A thread for what blocks, so that the event loop does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Worker:
    """One thread: its steps happen one after the other, in the order in which they were asked for."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, step: Callable[[], T], *, then: Callable[[T], None] | None = None) -> T:
        """The result of `step`, and after it `then(result)` on the event loop, with nothing in between.

        A step cannot be taken back. So a cancellation waits for its end, and comes out after `then`.
        """
        future = asyncio.get_running_loop().run_in_executor(self._pool, step)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError as error:
                cancelled = error
        failure = future.exception()
        if failure is None and then is not None:
            then(future.result())
        if cancelled is not None:
            raise cancelled from failure
        return future.result()

    def close(self) -> None:
        """Let the thread end; `run` is not called again."""
        self._pool.shutdown(wait=False)
