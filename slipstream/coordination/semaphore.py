"""Up to n holders at a time, in turn."""

from __future__ import annotations

import asyncio
from types import TracebackType

from slipstream.coordination.lease import DEFAULT_TTL, to_seconds
from slipstream.coordination.patience import PatientStore
from slipstream.coordination.presence import Lost, PresenceKey
from slipstream.coordination.queue import Queue, Turn
from slipstream.coordination.scope import Holding
from slipstream.coordination.turns import take_turn, try_turn
from slipstream.interfaces import KvStore, Ttl
from slipstream.keys import check_key


class Permit(Holding):
    """One of the permits of a semaphore, held until it is released or lost; as a block, which a loss cancels."""

    def __init__(self, ticket: PresenceKey, queue: Queue, idle: list[Queue]) -> None:
        super().__init__(ticket, ttl=queue.ttl)
        self._queue: Queue | None = queue
        self._idle = idle

    @property
    def is_held(self) -> bool:
        """Held for certain, by the local clock; no I/O."""
        return self.ticket.is_valid()

    @property
    def lost(self) -> Lost:
        """An event: the permit was lost, and `lost.reason` says why. A release does not set it."""
        return self.ticket.lost

    async def release(self) -> None:
        """Let the next one have it; safe to repeat, and after a loss.

        Raises: KvError if the server could not be told: then it runs out, or another `release` tells it.
        """
        await super().release()
        queue, self._queue = self._queue, None
        if queue is not None:
            self._idle.append(queue)


class Semaphore:
    """At most so many holders of a name at a time: `async with Semaphore(store, "downloads", 3) as permit:`.

    First come, first served, over all processes and tasks; tasks may share one object. A holder that dies is replaced
    when its `ttl` is over. The block is cancelled, and raises FencedError, when its permit may be lost. A permit has
    no fencing token: a process that stood still may for a moment be one too many.

    Args:
        store, name, ttl: see `Lease`. The keys `<name>.permits.*` belong to the semaphore.
        permits: how many, at least 1; the same for all who use the name.
    Raises: InvalidKeyError, ValueError.
    """

    def __init__(self, store: KvStore, name: str, permits: int, *, ttl: Ttl = DEFAULT_TTL) -> None:
        if permits < 1:
            raise ValueError(f"a semaphore has at least one permit, not {permits}")
        self.name = check_key(name, store=store.name)
        self.permits = permits
        self._ttl = to_seconds(ttl)
        self._store = PatientStore(store, ttl=self._ttl)
        self._idle: list[Queue] = []  # a place in the queue can be used again: fewer keys
        self._blocks: dict[asyncio.Task[object], list[Permit]] = {}

    async def acquire(self, *, timeout: float | None = None) -> Permit:
        """Wait for a permit, in turn. Cancelled or failed, none is held or waited for.

        Args:
            timeout: seconds; None waits for as long as it takes.
        Raises: OperationTimeoutError when the timeout is over; as `Lease.acquire`.
        """
        queue = self._queue()
        ticket, _ = await take_turn(queue, _nothing, store=self._store.name, name=self.name, timeout=timeout)
        return Permit(ticket, queue, self._idle)

    async def try_acquire(self) -> Permit | None:
        """A permit if one is free and nobody waits, else None. Never waits."""
        queue = self._queue()
        taken = await try_turn(queue, _nothing)
        if taken is None:
            self._idle.append(queue)
            return None
        return Permit(taken[0], queue, self._idle)

    async def __aenter__(self) -> Permit:
        permit = await self.acquire()
        self._blocks.setdefault(_this_task(), []).append(permit)
        return await permit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        permits = self._blocks[_this_task()]
        permit = permits.pop()
        if not permits:
            del self._blocks[_this_task()]
        await permit.__aexit__(kind, error, trace)

    def _queue(self) -> Queue:
        if self._idle:
            return self._idle.pop()
        return Queue(self._store, f"{self.name}.permits", ttl=self._ttl, capacity=self.permits)


async def _nothing(ticket: PresenceKey, turn: Turn) -> None:
    """To be among the first is all that it takes."""


def _this_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None  # coroutines run in tasks
    return task
