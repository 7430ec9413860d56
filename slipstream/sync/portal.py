"""The background thread with its event loop, and the way into it."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Shutdown = Callable[[], Coroutine[Any, Any, object]]

_CLOSING_SECONDS = 3.0
"""How long the connections that are open at the end of the program may take to remove their consumers."""
_EXIT_SECONDS = 5.0
"""How long the end of the interpreter waits for all of that."""
_WAIT_SECONDS = 0.5
"""How long a Ctrl-C may go unseen."""


class Back(Protocol):
    """The way back into the thread that called."""

    async def __call__(self, fn: Callable[[], R]) -> R: ...


class Portal:
    """One event loop in one daemon thread of this process."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._ending = False
        self._stopped = asyncio.Event()
        self._open: set[Shutdown] = set()
        # A daemon: the interpreter must be able to end while it waits for a server. `close` ends it before that.
        self._thread = threading.Thread(target=self._run, name="slipstream-sync", daemon=True)
        self._thread.start()

    @property
    def usable(self) -> bool:
        return self._pid == os.getpid() and not self._ending and self._thread.is_alive()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it in the loop and wait for its end. Interrupted (as by Ctrl-C), it is cancelled there.

        Raises: RuntimeError after a fork, after the end, and in the loop's own thread, where waiting would never end.
        """
        future = self._submit(work)
        try:
            while not _ended(future):
                continue
            return future.result()
        except BaseException as error:
            future.cancel()
            self._vanish()
            if isinstance(error, CancelledError):
                raise RuntimeError("the operation was cancelled in the background loop") from None
            raise

    def call_at_end(self, work: Coroutine[Any, Any, object]) -> None:
        """As `call`, but nothing where there is nothing to end any more: after a fork it is the parent's to end."""
        if self.usable:
            self.call(work)
        else:
            work.close()

    def call_with(self, start: Callable[[Back], Coroutine[Any, Any, T]]) -> T:
        """Run `start(back)` in the loop; `await back(fn)` there runs `fn` here, in the calling thread."""
        jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

        async def back(fn: Callable[[], R]) -> R:
            outcome: asyncio.Future[R] = self._loop.create_future()
            jobs.put(lambda: self._answer(outcome, fn))
            return await outcome

        future = self._submit(start(back))
        future.add_done_callback(lambda _: jobs.put(None))
        try:
            while (job := _next_of(jobs)) is not None:
                job()
            return future.result()
        except BaseException as error:
            future.cancel()
            self._vanish()
            if isinstance(error, CancelledError):
                raise RuntimeError("the operation was cancelled in the background loop") from None
            raise

    def close(self) -> None:
        """Shut down what is open, cancel what is under way, and end the thread, within a few seconds."""
        if not self.usable:
            return
        self._ending = True
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(_EXIT_SECONDS)

    def opened(self, shutdown: Shutdown) -> None:
        """To be awaited at the end, unless it is `closed` before."""
        self._loop.call_soon_threadsafe(self._open.add, shutdown)

    def closed(self, shutdown: Shutdown) -> None:
        """It has been awaited."""
        if self.usable:
            self._loop.call_soon_threadsafe(self._open.discard, shutdown)

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        refusal = self._refusal()
        if refusal is not None:
            work.close()
            self._vanish()
            raise RuntimeError(refusal)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _refusal(self) -> str | None:
        if self._pid != os.getpid():
            return "this was opened before a fork, and its thread is not in the child: connect again in the child"
        if threading.current_thread() is self._thread:
            return "called from the background loop itself, which would wait for itself: use the asynchronous API there"
        return None if self.usable else "the background loop has ended: the program is ending"

    def _vanish(self) -> None:
        """A daemon thread goes with the interpreter: SystemExit is the one exception that prints nothing there."""
        if self._ending and threading.current_thread().daemon:
            raise SystemExit from None

    def _answer(self, outcome: asyncio.Future[R], fn: Callable[[], R]) -> None:
        try:
            result = fn()
        except Exception as error:  # noqa: BLE001 - it is raised where `back` was awaited
            self._loop.call_soon_threadsafe(_settle, outcome, None, error)
        else:
            self._loop.call_soon_threadsafe(_settle, outcome, result, None)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        await self._stopped.wait()
        # In order, so that consumers are removed from the server; what is left is cancelled by the Runner.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await asyncio.gather(*(shutdown() for shutdown in self._open), return_exceptions=True)


def _ended(future: Future[Any]) -> bool:
    """Wait a moment for its end.

    Only a moment: a Ctrl-C that arrives between Python's look for it and the wait of the operating system interrupts
    nothing, and is seen when the wait is over.
    """
    try:
        future.exception(_WAIT_SECONDS)
    except TimeoutError:
        return future.done()
    return True


def _next_of(jobs: SimpleQueue[Callable[[], None] | None]) -> Callable[[], None] | None:
    while True:
        with suppress(Empty):
            return jobs.get(timeout=_WAIT_SECONDS)  # as in `_ended`


async def read(what: Callable[[], T]) -> T:
    """To be called in the loop: what looks at its objects from another thread may see them half changed."""
    return what()


async def following(items: AsyncIterator[T]) -> T | None:
    """The next item, None at the end."""
    return await anext(items, None)


async def take(items: AsyncIterator[T], count: int) -> list[T]:
    """The next so many items, fewer at the end."""
    taken: list[T] = []
    while len(taken) < count and (item := await anext(items, None)) is not None:
        taken.append(item)
    return taken


async def close(items: AsyncIterator[object]) -> None:
    """End an iterator that may be left early."""
    if isinstance(items, AsyncGenerator):
        await items.aclose()


def _settle(outcome: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if outcome.done():  # the operation ran into its timeout meanwhile
        return
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)


_lock = threading.Lock()
_shared: Portal | None = None


def shared_portal() -> Portal:
    """The portal of this process, made when it is first asked for; another one after a fork."""
    global _shared  # noqa: PLW0603 - one loop a process
    with _lock:
        if _shared is None or not _shared.usable:
            _shared = Portal()
            atexit.register(_shared.close)
        return _shared


def _renew_lock() -> None:
    # Another thread may have held it at the moment of the fork, and does not exist in the child.
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
