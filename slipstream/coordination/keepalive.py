"""One task for each event loop that keeps all its presences alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Protocol
from weakref import WeakKeyDictionary

from slipstream.coordination.clock import now

_log = logging.getLogger(__name__)


class Renewable(Protocol):
    """What the keepalive keeps alive."""

    due: float
    """When the next renewal begins, by `clock.now`."""

    def renew(self) -> Awaitable[None]:
        """Renew it, or find it lost; raises nothing."""

    def lose(self, reason: str) -> None:
        """It will not be renewed any more."""


class Keepalive:
    """Renews each at its time; the task runs while there is something to renew, the requests side by side in it."""

    def __init__(self) -> None:
        self._kept: dict[Renewable, asyncio.Task[None] | None] = {}
        self._under_way = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, renewable: Renewable) -> None:
        self._kept[renewable] = None
        self._changed.set()
        if self._task is None:
            self._start()

    def remove(self, renewable: Renewable) -> None:
        """Begin no more renewals of it; one that is under way goes on."""
        self._kept.pop(renewable, None)
        self._changed.set()

    def look_again(self) -> None:
        """Something is due earlier than it was."""
        self._changed.set()

    def _start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="slipstream-keepalive")
        self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as renewals:
            while self._kept or self._under_way:
                self._changed.clear()
                for renewable, renewal in self._kept.items():
                    if renewal is None and renewable.due <= now():
                        self._under_way += 1
                        self._kept[renewable] = renewals.create_task(self._renew(renewable))
                idle = [renewable.due for renewable, renewal in self._kept.items() if renewal is None]
                try:
                    async with asyncio.timeout(max(min(idle) - now(), 0) if idle else None):
                        await self._changed.wait()
                except TimeoutError:
                    continue  # something is due

    async def _renew(self, renewable: Renewable) -> None:
        try:
            await renewable.renew()
        finally:
            self._under_way -= 1
            if renewable in self._kept:
                self._kept[renewable] = None
            self._changed.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._changed = asyncio.Event()  # one that was waited for holds its loop, and would keep it for ever
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("the keepalive failed: every lease of this event loop is lost", exc_info=error)
        elif not task.cancelled():
            if self._kept:  # something came while it was ending
                self._start()
            return
        kept, self._kept, self._under_way = self._kept, {}, 0
        for renewable in kept:  # nobody renews them from now on
            renewable.lose("its keepalive has ended")


_keepalives: WeakKeyDictionary[asyncio.AbstractEventLoop, Keepalive] = WeakKeyDictionary()


def keepalive() -> Keepalive:
    """That of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _keepalives.get(loop)
    if found is None:
        found = _keepalives[loop] = Keepalive()
    return found
