"""A stream, the clock that drives it, and those who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from slipstream.model import Drift, StoreConfig
from slipstream.stores.memory.stream import Stream

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


class Bucket:
    """One life of a bucket.

    Several event loops may use it one after the other, also while waiters of a closed loop are left.
    """

    def __init__(self, config: StoreConfig, *, created: datetime, clock: Clock) -> None:
        self.stream = Stream(config, now=created)
        self._clock = clock
        self._waiters: set[asyncio.Future[None]] = set()
        self._reported: set[str] = set()

    def refresh(self) -> Stream:
        """The stream as of now: what is due has expired."""
        if self.stream.advance(self._clock()):
            self.wake()
        return self.stream

    def wake(self) -> None:
        """Let everyone who waits look again."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.get_loop().is_closed():
                _release(waiter)

    async def changed(self, timeout: float | None = None) -> None:
        """Return when woken, when something expires, or after `timeout` seconds, whichever is first."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        due = self.stream.next_expiry
        delays = [timeout, None if due is None else (due - self._clock()).total_seconds()]
        delay = min((delay for delay in delays if delay is not None), default=None)
        timer = None if delay is None else loop.call_later(max(delay, 0), _release, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()

    def unreported(self, drift: list[Drift]) -> list[Drift]:
        """Those differences that have not been asked for before."""
        new = [difference for difference in drift if repr(difference) not in self._reported]
        self._reported.update(map(repr, new))
        return new


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
