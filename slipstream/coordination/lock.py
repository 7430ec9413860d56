"""Mutual exclusion, in turn."""

from __future__ import annotations

import asyncio
from types import TracebackType

from slipstream.coordination.lease import DEFAULT_TTL, Lease
from slipstream.coordination.records import FencingToken
from slipstream.errors import OperationTimeoutError
from slipstream.interfaces import KvStore, KvWriter, Ttl


class Lock:
    """A lock of all who use the name: `async with Lock(store, "migration") as lease:`.

    First come, first served, over all processes and tasks; tasks may share one object. It is held as a `Lease`, which
    is what the block gets: the block is cancelled and raises FencedError when the lock may be lost, and only what is
    written through `lease.fenced(store)` is certain to be written by the holder.

    Args: as `Lease`.
    """

    def __init__(self, store: KvStore, name: str, *, ttl: Ttl = DEFAULT_TTL, holder: str | None = None) -> None:
        self._store_name = store.name
        self._lease = Lease(store, name, ttl=ttl, holder=holder)
        self._turn = asyncio.Lock()
        self._owner: asyncio.Task[object] | None = None

    @property
    def name(self) -> str:
        return self._lease.name

    @property
    def is_held(self) -> bool:
        """A task has it through this object, for certain by the local clock; no I/O."""
        return self._lease.is_held

    @property
    def fencing_token(self) -> FencingToken:
        """As `Lease.fencing_token`."""
        return self._lease.fencing_token

    def fenced(self, store: KvStore) -> KvWriter:
        """As `Lease.fenced`."""
        return self._lease.fenced(store)

    async def acquire(self, *, timeout: float | None = None) -> FencingToken:
        """Wait for the lock; `async with` is the better way, because this one cancels nothing when the lock is lost.

        Args:
            timeout: seconds; None waits for as long as it takes.
        Raises: OperationTimeoutError when the timeout is over; as `Lease.acquire`.
        """
        loop = asyncio.get_running_loop()
        ends_at = None if timeout is None else loop.time() + timeout
        limit = asyncio.timeout_at(ends_at)
        try:
            async with limit:
                await self._turn.acquire()
        except TimeoutError:
            raise OperationTimeoutError(
                store=self._store_name, key=self.name, message=f"not acquired within {timeout:g} s"
            ) from None
        try:
            token = await self._lease.acquire(timeout=None if ends_at is None else max(0.0, ends_at - loop.time()))
        except BaseException:
            self._turn.release()
            raise
        self._owner = asyncio.current_task()
        return token

    async def try_acquire(self) -> bool:
        """Take the lock if nobody has it or waits for it; never waits."""
        if self._turn.locked():
            return False
        await self._turn.acquire()
        token = None
        try:
            token = await self._lease.try_acquire()
        finally:
            if token is None:
                self._turn.release()
            else:
                self._owner = asyncio.current_task()
        return token is not None

    async def release(self) -> None:
        """Let the next one have it, if this task has it; safe to repeat.

        Raises: KvError if the server could not be told: then the lock runs out by itself.
        """
        if self._owner is not asyncio.current_task():
            return
        try:
            await self._lease.release()
        finally:
            self._let_next()

    async def __aenter__(self) -> Lease:
        await self.acquire()
        return await self._lease.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._lease.__aexit__(kind, error, trace)
        finally:
            self._let_next()

    def _let_next(self) -> None:
        self._owner = None
        self._turn.release()
