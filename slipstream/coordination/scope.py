"""Blocks that end when what they rest on is lost, and clean-up that a cancel does not interrupt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from slipstream.coordination.presence import PresenceKey
from slipstream.errors import FencedError, KvError

_log = logging.getLogger(__name__)


class Scope:
    """`async with Scope(presence, error):` the block is cancelled when the presence is lost, and raises `error()`.

    As with `asyncio.timeout`, a block that has come to its end all the same raises nothing, and a cancel that came
    from elsewhere stays one.
    """

    def __init__(self, presence: PresenceKey, error: Callable[[], FencedError]) -> None:
        self._presence = presence
        self._error = error
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._cancelled = False
        self._forget: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        assert self._task is not None  # coroutines run in tasks
        self._cancelling = self._task.cancelling()
        self._forget = self._presence.when_lost(self.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None  # entered
        task, self._task = self._task, None
        if self._forget is not None:
            self._forget()
        if not self._cancelled:
            return
        outside = False
        if kind is not asyncio.CancelledError:
            # The cancel may not have been delivered: it must not hit what comes after the block.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                outside = task.cancelling() > self._cancelling + 1
        others = task.uncancel() > self._cancelling
        if outside:
            raise asyncio.CancelledError
        if kind is asyncio.CancelledError and not others:
            raise self._error() from error

    def is_mine(self) -> bool:
        """The task that asks is in the block."""
        return self._task is asyncio.current_task()

    def cancel(self) -> None:
        """Cancel the block, once."""
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()


class Holding:
    """Something that is held through a ticket; as a block, which its loss cancels, and which gives it back."""

    def __init__(self, ticket: PresenceKey, *, ttl: float) -> None:
        self.ticket = ticket
        self.released = False
        self._ttl = ttl
        self._scope: Scope | None = None

    async def release(self) -> None:
        """Let the next one have it; safe to repeat, and after a loss. Raises: KvError."""
        self.released = True
        await self.ticket.remove()

    def error(self) -> FencedError:
        """Says that it is over."""
        reason = self.ticket.lost.reason or "it was released"
        return FencedError(key=self.ticket.key, message=f"it is not held any more: {reason}")

    async def __aenter__(self) -> Self:
        self._scope = Scope(self.ticket, self.error)
        await self._scope.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        scope, self._scope = self._scope, None
        assert scope is not None  # entered
        try:
            await scope.__aexit__(kind, error, trace)
        finally:
            await clean_up(self.release(), what=self.ticket.key, timeout=self._ttl)


async def clean_up(work: Awaitable[object], *, what: str, timeout: float) -> None:
    """Run it to its end, for at most so many seconds, though the caller is cancelled meanwhile.

    A failure is logged: what stays behind expires.
    """

    async def bounded() -> None:
        try:
            async with asyncio.timeout(timeout):
                await work
        except (KvError, TimeoutError) as error:
            _log.warning(
                "%s was not cleared away and expires within %g s: %s", what, timeout, str(error) or "no answer"
            )

    task = asyncio.ensure_future(bounded())
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
