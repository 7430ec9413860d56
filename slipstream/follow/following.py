"""The task that keeps a state current through whatever ends a watch, and that saves it."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from slipstream.errors import (
    CursorExpiredError,
    KvError,
    OperationTimeoutError,
    SnapshotCorruptedError,
    SnapshotError,
    StoreNotFoundError,
    WatchError,
)
from slipstream.follow.snapshot import Snapshot, SnapshotFile
from slipstream.follow.state import Change, State, commits
from slipstream.interfaces import KvWatcher, Watch
from slipstream.model import KvUpdate, VersionToken, WatchCursor

_log = logging.getLogger(__name__)

OpenStore = Callable[[], Awaitable[KvWatcher]]
"""Opens the store; called for every attempt, so that it may connect first: `await conn.connect()` can be repeated."""

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_PROGRESS_SECONDS = 0.1
"""How often a wait for a revision looks at the cursor: nothing tells of its progress while the prefix is quiet.

`Watch.cursor` moves with the server's signs of life then, and hands out no update that one could wait for.
"""
_SAVE_SECONDS = 60.0


class Following:
    """Keeps a `State` at what the store holds; `on_changes` is called in the turn of the loop that changed it.

    It is called once for each update or commit, when that and nothing later is in the state; once for all that a new
    whole state changes.

    A cursor that has expired, and a bucket made again, lead to the whole state anew. What may pass (a lost connection,
    a bucket that is missing) is tried again for ever, with pauses of up to five seconds. Anything else, an error of the
    state included, ends it: `failure`.
    """

    def __init__(
        self,
        open_store: OpenStore,
        prefixes: tuple[str, ...],
        state: State,
        *,
        on_changes: Callable[[list[Change]], None],
        snapshot: SnapshotFile | None = None,
    ) -> None:
        self._open_store = open_store
        self._prefixes = prefixes
        self._state = state
        self._on_changes = on_changes
        self._snapshot = snapshot
        self._saved = WatchCursor.none()
        self._saving: asyncio.Future[bool] | None = None
        self._loaded = False
        self._cursor = WatchCursor.none()
        self._watch: Watch | None = None
        self._applied = 0
        self._current = False
        self._current_at = -math.inf  # monotonic
        self._outage: KvError | None = None
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self.failure: BaseException | None = None

    # What is known.

    @property
    def current(self) -> bool:
        """The initial state is in, and the watch after it has not ended."""
        return self._current

    @property
    def cursor(self) -> WatchCursor:
        """Up to where the state has everything."""
        watch = self._watch
        # While a batch that was handed out is not yet applied, the watch is ahead of the state.
        if watch is None or self._state.staging or watch.statistics().delivered != self._applied:
            return self._cursor
        return watch.cursor

    @property
    def staleness(self) -> float:
        """Seconds since the state was known to be current: since the server was last heard from. Infinite if never."""
        if self._current and self._watch is not None:
            return self._watch.statistics().last_heard
        return time.monotonic() - self._current_at

    # Its life.

    async def start(self, *, timeout: float, offline_after: float) -> None:
        """Begin; return once current. With a snapshot also when that cannot be had, or not within `offline_after`.

        Raises: what kept it from becoming current where there is no snapshot; then, and when cancelled, it has ended.
        """
        if self._task is not None:
            raise RuntimeError("this is entered once: make another one")
        try:
            self._loaded = await self._load()
            self._task = asyncio.create_task(self._run(), name="slipstream-follow")
            try:
                limit = offline_after if self._loaded else timeout
                await self._until(self._started, what="the initial state", timeout=limit)
            except KvError as error:
                if not self._loaded or not _may_pass(error):
                    raise
                _log.warning("starting from a snapshot, %.0f s old: %s", self.staleness, error)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """End it, after saving what is new; safe to repeat."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait({task})
        await self._save()

    async def wait_for(self, version: VersionToken, *, timeout: float) -> None:
        """Return once the state is at least as new as that write.

        Raises: OperationTimeoutError; what ended the following; ValueError for a version without a revision.
        """
        revision = version.as_u64()
        if revision is None:
            raise ValueError(f"version {version} is no revision to wait for: take the one that a write returned")
        await self._until(
            lambda: (self.cursor.revision or 0) >= revision,
            what=f"revision {revision}",
            timeout=timeout,
            look_every=_PROGRESS_SECONDS,
        )

    async def wait_current(self, *, timeout: float) -> None:
        """Return once `current`. Raises: OperationTimeoutError; what ended the following."""
        await self._until(lambda: self._current, what="the current state", timeout=timeout)

    async def _until(
        self, reached: Callable[[], bool], *, what: str, timeout: float, look_every: float | None = None
    ) -> None:
        """Return once it is reached: looked at whenever something was told, and every so many seconds besides."""
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                while not reached():
                    await self._move(look_every)
        except TimeoutError:
            if not limit.expired():
                raise
            raise OperationTimeoutError(
                message=f"{what} has not arrived within {timeout:g} s: this is at cursor {self.cursor}"
            ) from self._outage

    def _started(self) -> bool:
        """Raises what keeps the first attempt from becoming current, instead of letting the caller wait."""
        if self._outage is not None and not isinstance(self._outage, CursorExpiredError):
            raise self._outage
        return self._current

    async def _move(self, look_every: float | None) -> None:
        """Return when something was told, or the time is up. Raises what ended the following."""
        if self._task is None or self._task.done():
            if self.failure is not None:
                raise self.failure
            raise RuntimeError("it is not running: enter it first, and use it inside the block")
        moved = self._moved
        with suppress(TimeoutError):
            async with asyncio.timeout(look_every):
                await moved.wait()

    def _tell(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # The task.

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_following(), name="slipstream-follow-watch")
                if self._snapshot is not None:
                    tasks.create_task(self._keep_saving(), name="slipstream-follow-save")
        except* Exception as group:  # noqa: BLE001 - whatever it is, those who wait and read have to learn of it
            self.failure = _first(group)
            _log.error("following %s has ended", self._prefixes, exc_info=self.failure)
        finally:
            self._tell()

    async def _keep_following(self) -> None:
        failures = 0
        while True:
            try:
                await self._follow()
                raise WatchError(message="the watch ended without an error")
            except CursorExpiredError as error:
                # No pause the first time. A state that expires while it is read is read again, but not in a busy loop.
                if not self._cursor.is_none:
                    _log.warning("reading the whole state anew: %s", error)
                    self._cursor, failures = WatchCursor.none(), 0
                    continue
                failures = self._failed(error, failures)
            except KvError as error:
                if not _may_pass(error):
                    raise
                failures = self._failed(error, failures)
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads clients, guards nothing

    def _failed(self, error: KvError, failures: int) -> int:
        if self._outage is None:
            _log.warning("not current for now, trying again: %s", error)
            failures = 0
        self._outage = error
        self._tell()
        return failures + 1

    async def _follow(self) -> None:
        """One watch to its end. Raises what it ended with."""
        store = await self._open_store()
        if self._cursor.is_none:
            self._state.begin()
        async with store.watch(self._prefixes, cursor=self._cursor) as watch:
            self._watch, self._applied = watch, 0
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._notice_hydration(watch), name="slipstream-follow-hydration")
                    async for updates in watch.batches(max_wait=0):
                        self._apply(updates)
                        self._settle(watch)
            except BaseExceptionGroup as group:
                raise _first(group) from None
            finally:
                if self._current:
                    self._current_at = time.monotonic() - watch.statistics().last_heard
                self._cursor = self.cursor
                self._watch, self._current = None, False

    def _apply(self, updates: list[KvUpdate]) -> None:
        # Commit by commit, so that whoever is told sees the state between any two.
        for group in [updates] if self._state.staging else commits(updates):
            changes = self._state.apply(group)
            if changes:
                self._on_changes(changes)
        self._applied += len(updates)
        self._tell()

    async def _notice_hydration(self, watch: Watch) -> None:
        """The proof may come after the last update, and where there is nothing to hand out, no update tells."""
        with suppress(KvError):  # the iteration ends with the same error, after handing out what was received
            await watch.wait_hydrated()
            self._settle(watch)

    def _settle(self, watch: Watch) -> None:
        if self._current or not watch.hydrated or watch.statistics().delivered != self._applied:
            return
        self._current, self._outage = True, None
        changes = self._state.settle()
        if changes:
            self._on_changes(changes)
        self._tell()

    # The snapshot.

    async def _load(self) -> bool:
        if self._snapshot is None:
            return False
        try:
            loaded = await asyncio.to_thread(self._snapshot.load)
        except SnapshotCorruptedError as error:
            _log.warning("starting without a snapshot: %s", error)
            return False
        if loaded is None:
            return False
        if loaded.prefixes != self._prefixes:
            raise SnapshotError(
                message=f"the snapshot is of {loaded.prefixes}, not of {self._prefixes}: give each its own file"
            )
        self._cursor = self._saved = loaded.cursor
        age = (datetime.now(UTC) - loaded.saved).total_seconds()
        self._current_at = time.monotonic() - max(age, 0)
        self._on_changes(self._state.load(loaded.entries))
        return True

    async def _keep_saving(self) -> None:
        while True:
            while not self._current:
                await self._moved.wait()
            await self._save()
            await asyncio.sleep(_SAVE_SECONDS)

    async def _save(self) -> None:
        if self._saving is not None:  # by a task that was cancelled meanwhile: the older must not replace the newer
            await asyncio.wait({self._saving})
        cursor = self.cursor
        if self._snapshot is None or cursor.is_none or cursor == self._saved:
            return
        # Taken in one turn of the loop, so that entries and cursor belong together; written in a thread.
        snapshot = Snapshot(
            prefixes=self._prefixes,
            cursor=cursor,
            saved=datetime.now(UTC) - timedelta(seconds=self.staleness),
            entries=tuple(self._state.entries.values()),
        )
        self._saving = asyncio.get_running_loop().run_in_executor(None, _write, self._snapshot, snapshot)
        if await asyncio.shield(self._saving):
            self._saved = cursor


def _write(file: SnapshotFile, snapshot: Snapshot) -> bool:
    try:
        file.save(snapshot)
    except SnapshotError as error:
        _log.warning("the snapshot was not saved: %s", error)
        return False
    return True


def _may_pass(error: KvError) -> bool:
    return error.retryable or isinstance(error, StoreNotFoundError)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
