"""Follows a bucket: watches, applies, repairs what has expired, and flushes when it is stopped."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from slipstream.errors import (
    CursorExpiredError,
    ExpiryReason,
    KvError,
    OperationTimeoutError,
    StoreNotFoundError,
    WatchError,
)
from slipstream.interfaces import KvStore, Watch
from slipstream.model import KvUpdate
from slipstream.replica.apply import Applier
from slipstream.replica.batch import BatchConfig
from slipstream.replica.difference import Recovery
from slipstream.replica.flush import advance, already_held, pause_after
from slipstream.replica.progress import Meter
from slipstream.replica.repair import Plan, Repair
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore

_log = logging.getLogger(__name__)
T = TypeVar("T")

_OVERTAKEN_AFTER = 3
"""After so many repairs in a row that the bucket was quicker than, the watch begins anew: that cannot expire."""
_ATTEMPTS = 16
_ATTEMPTS_WITHOUT_BUCKET = 5
"""A bucket that is deleted and made again is not there for a moment; 0.6 s in all."""
_LAST_SECONDS = 0.25
"""How long a stop waits for what the watch has at hand."""


class Follower(Generic[T]):
    """One run of following; `run` ends when `stop` is set.

    Attributes:
        hydrated: set once everything that was there at the start has been applied.
        resumed: it began at a saved cursor, not with the whole state.
        repairs, rebuilds: how often the fold was compared with the bucket after an expired cursor, or begun anew.
    """

    def __init__(
        self,
        store: KvStore,
        scope: WatchScope,
        applier: Applier[T],
        *,
        snapshot: SnapshotStore | None,
        batch: BatchConfig,
        stop: asyncio.Event,
    ) -> None:
        self._store = store
        self._scope = scope
        self._applier = applier
        self._snapshot = snapshot
        self._batch = batch
        self._stop = stop
        self._repair: Repair[T] | None = None
        if snapshot is not None:
            self._repair = Repair(store=store, scope=scope, snapshot=snapshot, applier=applier, chunk=batch.max_items)
        self._expired: ExpiryReason | None = None
        self._plan: Plan | None = None
        self._held_until = 0
        self._repairs_in_a_row = 0
        self._failures = 0
        self._watch: Watch | None = None
        self._in_hand = 0  # updates that the watch has handed out and that are not applied yet
        self._followed = False
        self._current_at = -math.inf
        self.hydrated = asyncio.Event()
        self.meter = Meter()
        self.resumed = not applier.cursor.is_none
        self.repairs = 0
        self.rebuilds = 0

    async def run(self) -> None:
        """Follow until stopped, or until a watch of no prefixes ends.

        Raises: CursorExpiredError without a snapshot to repair; StoreNotFoundError; NotConnectedError;
            OperationTimeoutError and WatchError, at once before the first watch, later after many attempts;
            SnapshotError; what `apply` raises.
        """
        await self._empty_unless_known()
        while not self._stop.is_set():
            try:
                if await self._unless_stopped(self._recover()):
                    await self._follow()
            except CursorExpiredError as error:
                if self._repair is None:
                    raise
                self._expired = error.reason
            except (OperationTimeoutError, WatchError, StoreNotFoundError) as error:
                await self._wait_after(error)
            else:
                return

    @property
    def staleness(self) -> float:
        """Seconds since the fold was last known to be level with the bucket; infinite before that."""
        now = asyncio.get_running_loop().time()
        if self._watch is not None and self._watch.hydrated and not self._applier.busy:
            statistics = self._watch.statistics()
            if statistics.pending == 0:
                self._current_at = max(self._current_at, now - statistics.last_heard)
        return now - self._current_at

    @property
    def pending(self) -> int:
        """Updates that are known of and not applied."""
        return self._in_hand + (0 if self._watch is None else self._watch.statistics().pending)

    # One watch.

    async def _follow(self) -> None:
        cursor = self._applier.cursor if self._plan is None else self._plan.cursor
        watch = self._store.watch(self._scope.prefixes, cursor=cursor)
        try:
            if await self._unless_stopped(self._enter(watch)):
                self._followed = True
                self._watch = watch
                await self._take_all(watch)
        finally:
            self._watch = None
            await watch.aclose()

    async def _enter(self, watch: Watch) -> None:
        await watch.__aenter__()
        if self._repair is not None and self._plan is not None:
            if self._plan.how is Recovery.COMPARE:
                self._held_until = await self._repair.mend(self._plan)
            self.repairs += self._plan.how is Recovery.COMPARE
            self.rebuilds += self._plan.how is Recovery.REBUILD
        self._plan = None

    async def _take_all(self, watch: Watch) -> None:
        """Apply what the watch hands out, until stopped or it ends."""
        batches = watch.batches(self._batch.max_items, self._batch.window_seconds)
        stopping = asyncio.create_task(self._stop.wait())
        hydration = asyncio.create_task(watch.wait_hydrated())
        hydration.add_done_callback(_look_at)  # what ended the watch, the batches raise too
        following: asyncio.Task[list[KvUpdate] | None] = asyncio.create_task(_next(batches))
        try:
            while not self._stop.is_set():
                events = {following, stopping} if hydration.done() else {following, stopping, hydration}
                await asyncio.wait(events, timeout=self._batch.progress_seconds, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    batch = following.result()
                    if batch is None:
                        self._note_hydrated()
                        return
                    await self._take(batch, watch)
                    following = asyncio.create_task(_next(batches))
                # Before the next batch is taken the cursor of the watch is that of what was applied.
                elif watch.hydrated:
                    self._note_hydrated()
                    await self._save_progress(watch)
            await self._take_last(watch, following)
        finally:
            for task in (stopping, hydration, following):
                task.cancel()
            await asyncio.wait({stopping, hydration, following})
            _look_at(following)
            await _close(batches)

    async def _take(self, batch: Sequence[KvUpdate], watch: Watch) -> None:
        until = self._held_until
        if until and self._snapshot is not None:
            snapshot = self._snapshot
            batch = [
                update
                for update in batch
                if (update.revision or 0) > until or not already_held(update, snapshot.get(update.key))
            ]
        self._in_hand = len(batch)
        try:
            await self._applier.flush(batch, advance(self._applier.cursor, watch.cursor))
            self.meter.count(batch)
        finally:
            self._in_hand = 0
        self._repairs_in_a_row = self._failures = 0
        if watch.hydrated:
            self._note_hydrated()

    async def _take_last(self, watch: Watch, following: asyncio.Task[list[KvUpdate] | None]) -> None:
        """Stopped: apply what has arrived. What has not stays with the bucket, after the cursor."""
        following.cancel()
        await asyncio.wait({following})  # a cancelled wait has taken nothing, one that was over has
        batch = None if following.cancelled() or following.exception() else following.result()
        if batch is not None:
            await self._take(batch, watch)
        if pending := watch.statistics().pending:
            batches, batch = watch.batches(max(self._batch.max_items, pending), 0), None
            # Else it is not here yet, or the end of its commit is not, or the watch has failed as it was stopped.
            with suppress(TimeoutError, KvError):
                async with asyncio.timeout(_LAST_SECONDS):
                    batch = await _next(batches)
            await _close(batches)
            if batch is not None:
                await self._take(batch, watch)
        if watch.hydrated:
            await self._save_progress(watch)

    async def _save_progress(self, watch: Watch) -> None:
        cursor = advance(self._applier.cursor, watch.cursor)
        if cursor != self._applier.cursor:
            await self._applier.flush([], cursor)

    def _note_hydrated(self) -> None:
        if not self.hydrated.is_set():
            self.meter.hydrated()
            self.hydrated.set()

    # Between two watches.

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do what changes nothing that it would not do again; True if it came to its end before a stop."""
        doing, stopping = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            ended = doing.done()
            doing.cancel()
            await asyncio.wait({doing, stopping})
            if not ended:
                _look_at(doing)
        if ended:
            doing.result()
        return ended

    async def _empty_unless_known(self) -> None:
        """Entries without a cursor prove nothing: keys of theirs may have gone long ago."""
        known = self._snapshot is None or not len(self._snapshot) or not self._applier.cursor.is_none
        if self._repair is not None and not known:
            await self._repair.rebuild()

    async def _recover(self) -> None:
        """Decide how the fold is repaired if its cursor has expired."""
        if self._expired is None or self._repair is None:
            return
        self._repairs_in_a_row += 1
        overtaken = self._repairs_in_a_row > _OVERTAKEN_AFTER
        self._plan = await self._repair.plan(self._expired, overtaken=overtaken)
        self._expired = None

    async def _wait_after(self, error: KvError) -> None:
        """Pause before the next attempt. Raises the error when it was the last one."""
        self._failures += 1
        attempts = _ATTEMPTS_WITHOUT_BUCKET if isinstance(error, StoreNotFoundError) else _ATTEMPTS
        if not self._followed or self._failures > attempts:
            raise error
        _log.info("store %s: the replica tries again: %s", self._store.name, error)
        self._plan = None
        with suppress(TimeoutError):  # the pause is over
            async with asyncio.timeout(pause_after(self._failures)):
                await self._stop.wait()


async def _next(batches: AsyncIterator[list[KvUpdate]]) -> list[KvUpdate] | None:
    """The next batch, None after the last one."""
    return await anext(batches, None)


async def _close(batches: AsyncIterator[list[KvUpdate]]) -> None:
    """An iterator may be a generator, which is not to be left half way."""
    if isinstance(batches, AsyncGenerator):
        await batches.aclose()


def _look_at(task: asyncio.Task[object]) -> None:
    """An exception that nobody waits for any more is not one that was forgotten."""
    if task.done() and not task.cancelled():
        task.exception()
