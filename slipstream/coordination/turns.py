"""Getting a turn in a queue, through trouble: what Lease and Semaphore have in common."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from slipstream.coordination.presence import PresenceKey
from slipstream.coordination.queue import Queue, Turn
from slipstream.coordination.scope import Scope, clean_up
from slipstream.errors import (
    CursorExpiredError,
    FencedError,
    KvError,
    NotConnectedError,
    OperationTimeoutError,
    WatchError,
)

T = TypeVar("T")
UseTurn = Callable[[PresenceKey, Turn], Awaitable[T]]
"""What is done with the turn, while the ticket is kept; it may be asked again after an error that passes."""
Prepare = Callable[[], Awaitable[None]]
"""What is done as soon as there is a ticket."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


async def take_turn(
    queue: Queue, use: UseTurn[T], *, prepare: Prepare | None = None, store: str, name: str, timeout: float | None
) -> tuple[PresenceKey, T]:
    """Queue up, wait for the turn and use it; the ticket, which is kept alive, and what `use` returned.

    Errors that pass are outlived. A ticket that is lost meanwhile is replaced by a new one, at the end of the queue.
    Cancelled or failed, no ticket is left behind.

    Raises: OperationTimeoutError when the timeout (seconds, None: none) is over; KvError that does not pass.
    """
    limit = asyncio.timeout(timeout)
    pauses = Pauses()
    try:
        async with limit:
            while True:
                try:
                    taken = await _queue_up(queue, use, prepare)
                    assert taken is not None  # it has waited
                    return taken
                except KvError as error:
                    if not (isinstance(error, FencedError) or passes(error)):
                        raise
                await pauses.pause()
    except TimeoutError:
        if not limit.expired():
            raise
        raise OperationTimeoutError(store=store, key=name, message=f"not acquired within {timeout:g} s") from None


async def try_turn(queue: Queue, use: UseTurn[T], *, prepare: Prepare | None = None) -> tuple[PresenceKey, T] | None:
    """As `take_turn`, but None where others come first, and every error is raised."""
    if await queue.is_full():
        return None
    return await _queue_up(queue, use, prepare, waits=False)


async def _queue_up(
    queue: Queue, use: UseTurn[T], prepare: Prepare | None, *, waits: bool = True
) -> tuple[PresenceKey, T] | None:
    ticket = queue.ticket()
    done = False
    try:
        await ticket.create()
        async with Scope(ticket, lambda: FencedError(key=ticket.key, message=f"lost its place: {ticket.lost.reason}")):
            if prepare is not None:
                await persistently(prepare)
            if waits:
                view = queue.view()
                turn = await persistently(lambda: queue.wait_turn(ticket, view))
            elif await queue.has_turn(ticket):
                turn = Turn()
            else:
                return None
            result = await persistently(lambda: use(ticket, turn))
        done = True
        return ticket, result
    finally:
        if not done:
            await clean_up(ticket.remove(), what=ticket.key, timeout=queue.ttl)


async def persistently(step: Callable[[], Awaitable[T]]) -> T:
    """Take the step again, with growing pauses, while its errors may pass."""
    pauses = Pauses()
    while True:
        try:
            return await step()
        except KvError as error:
            if not passes(error):
                raise
        await pauses.pause()


class Pauses:
    """Random, up to twice as long each time."""

    def __init__(self) -> None:
        self._longest = _FIRST_PAUSE

    async def pause(self) -> None:
        longest, self._longest = self._longest, min(self._longest * 2, _LONGEST_PAUSE)
        await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 - spreads requests, guards nothing


def passes(error: KvError) -> bool:
    """Waiting may help. It does not where the connection has been shut down, which is a NotConnectedError too."""
    if isinstance(error, NotConnectedError):
        return error.outcome_unknown
    return isinstance(error, OperationTimeoutError | WatchError | CursorExpiredError)
