"""`Replica`: a local copy of some keys that follows the bucket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from slipstream.errors import KvError, NotConnectedError, OperationTimeoutError
from slipstream.interfaces import KvStore
from slipstream.model import KvEntry, KvUpdate, VersionToken, WatchCursor
from slipstream.replica.apply import Applier
from slipstream.replica.audit import AuditReport, audit
from slipstream.replica.batch import BatchConfig
from slipstream.replica.follow import Follower
from slipstream.replica.memory import MemorySnapshot
from slipstream.replica.progress import ReplicaProgress
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore

_log = logging.getLogger(__name__)
_DEFAULT_BATCH = BatchConfig()
OnChange = Callable[[Sequence[KvUpdate]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatistics:
    """What a replica has had to do beside following, since it was entered.

    Attributes:
        repairs: how often its cursor had expired and the fold was compared with the bucket.
        rebuilds: how often it had to begin anew: the bucket was made again.
        audits: comparisons carried out; `removed` and `restored`: keys that they repaired, as in `AuditReport`.
        failed_audits: comparisons that failed; the next one is due a period later.
        snapshot_failures: how often the snapshot has failed and was tried again.
    """

    repairs: int
    rebuilds: int
    audits: int
    removed: int
    restored: int
    failed_audits: int
    snapshot_failures: int


class Replica:
    """A local copy: `async with Replica(store, "node.", snapshot=snapshot) as replica: await replica.ready()`.

    Reads are of the copy and cost no round trip. It holds what the bucket held at `cursor`: a little behind, never
    mixed up. With a snapshot that is kept on disk, a restart reads only what has changed since.

    Following fails for good where it cannot know what it missed or can no longer save: `ready` and `wait_for` raise
    what it failed with, and so does leaving the block if neither was told; reads go on with what there is, and
    `staleness` grows.
    """

    def __init__(
        self,
        store: KvStore,
        prefix: str | Iterable[str] | WatchScope = "",
        *,
        snapshot: SnapshotStore | None = None,
        batch: BatchConfig = _DEFAULT_BATCH,
        audit_interval: float | timedelta | None = 3600.0,
        on_change: OnChange | None = None,
    ) -> None:
        """A replica that follows nothing before it is entered.

        Args:
            prefix: as `watch` takes it, or a `WatchScope`.
            snapshot: an open one, of this bucket and these prefixes alone; it stays open when the replica ends.
                None: `MemorySnapshot`.
            audit_interval: seconds or `timedelta` between two audits; None: none but those that `audit()` asks for.
                The first follows `ready` where it began with a saved cursor. An audit lists the keys without values.
            on_change: as the method, from the first update on.
        Raises: InvalidKeyError for a prefix; ValueError for an interval that is not above 0.
        """
        seconds = audit_interval.total_seconds() if isinstance(audit_interval, timedelta) else audit_interval
        if seconds is not None and not seconds > 0:
            raise ValueError(f"audit_interval is above 0 seconds, or None for no audits, not {audit_interval}")
        self._store = store
        self._scope = WatchScope.of(prefix)
        self._snapshot = MemorySnapshot() if snapshot is None else snapshot
        self._audit_seconds = seconds
        self._stop = asyncio.Event()
        self._moved = asyncio.Event()
        self._listeners: list[OnChange] = [] if on_change is None else [on_change]
        self._applier: Applier[KvUpdate] = Applier(
            apply=lambda _: None,  # the fold is the snapshot: what is stored is applied
            parse=lambda update: update,
            snapshot=self._snapshot,
            cursor=self._snapshot.cursor,
            stop=self._stop,
            on_applied=self._note_moved,
            on_stored=self._tell,
        )
        self._follower = Follower(
            store, self._scope, self._applier, snapshot=self._snapshot, batch=batch, stop=self._stop
        )
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._failure_told = False
        self._ended = asyncio.Event()
        self._audits = self._failed_audits = self._removed = self._restored = 0

    # ---- its life

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a replica is entered once: make another one")
        self._task = asyncio.create_task(self._run(), name=f"slipstream-replica-{self._store.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
        if error is None and self._failure is not None and not self._failure_told:
            raise self._failure

    async def aclose(self) -> None:
        """Apply what has arrived, save the cursor, stop following; safe to repeat.

        The copy stays readable for as long as the snapshot is open.

        Cancelled, it stops at once: what was not saved is read again after the next start.
        """
        self._stop.set()
        if self._task is None:
            return
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def ready(self, *, timeout: float | None = None) -> None:
        """Return once all that was in the bucket when following began has been applied.

        Args:
            timeout: seconds; None waits for as long as following goes on: `progress` tells how far it is.
        Raises: OperationTimeoutError; what following failed with; RuntimeError if it is not entered.
        """
        await self._reached(self._follower.hydrated, timeout=timeout, what="the replica is not ready")

    async def wait_for(self, version: VersionToken, *, timeout: float | None = 30.0) -> None:
        """Return once the copy is no older than this write of the bucket, also one of a key that is not followed.

        Args:
            version: of the life of the bucket that is followed.
            timeout: seconds; None for no limit.
        Raises: ValueError for a version that is no revision; OperationTimeoutError; else as `ready`.
        """
        revision = version.as_u64()
        if revision is None:
            raise ValueError(f"version {version} is no revision to wait for")
        try:
            async with asyncio.timeout(timeout):
                while (self.cursor.revision or 0) < revision:
                    moved = self._moved
                    await self._reached(moved, timeout=None, what="")
        except TimeoutError as error:
            if isinstance(error, OperationTimeoutError):
                raise
            raise OperationTimeoutError(
                store=self._store.name, message=f"the replica has not reached revision {revision} in {timeout:g} s"
            ) from None

    # ---- the copy

    def get(self, key: str) -> KvEntry | None:
        """The entry, None if the key is absent or not followed."""
        return self._snapshot.get(key)

    def range(self, prefix: str = "") -> Iterator[KvEntry]:
        """The entries whose key begins with `prefix`, in key order.

        A batch may come in between two of them, and what `SnapshotStore.range` says holds; within `paused` they are of
        one moment. Raises: InvalidKeyError at once.
        """
        return self._snapshot.range(prefix)

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, sorted."""
        return [entry.key for entry in self._snapshot.range(prefix)]

    def __len__(self) -> int:
        return len(self._snapshot)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._snapshot.get(key) is not None

    @property
    def cursor(self) -> WatchCursor:
        """The copy has everything up to here, and so has the snapshot."""
        return self._applier.cursor

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[WatchCursor]:
        """Apply nothing for as long as the block, so that reads of several steps are of one moment: that of the cursor.

        What arrives meanwhile waits; keep it short. It begins when the batch under way has been applied.
        """
        async with self._applier.lock:
            yield self.cursor

    # ---- what it is of

    @property
    def bucket(self) -> str:
        """The name of the bucket that is followed."""
        return self._store.name

    @property
    def scope(self) -> WatchScope:
        """The keys that are followed."""
        return self._scope

    @property
    def snapshot_kind(self) -> type[SnapshotStore]:
        """Of the snapshot that keeps the copy."""
        return type(self._snapshot)

    # ---- how it is doing

    @property
    def staleness(self) -> float:
        """Seconds since the copy was last known to be level with the bucket; infinite before that."""
        return self._follower.staleness

    def progress(self) -> ReplicaProgress:
        """How far it is on the way to `ready`; no I/O."""
        return self._follower.meter.progress(self._follower.pending)

    def statistics(self) -> ReplicaStatistics:
        """What it has had to repair; no I/O."""
        return ReplicaStatistics(
            repairs=self._follower.repairs,
            rebuilds=self._follower.rebuilds,
            audits=self._audits,
            removed=self._removed,
            restored=self._restored,
            failed_audits=self._failed_audits,
            snapshot_failures=self._applier.failures,
        )

    def on_change(self, callback: OnChange) -> Callable[[], None]:
        """Have it called with each batch of updates once they are in the copy; the result ends that.

        A commit is within one batch. A DELETE of unknown version is a repair's. What the callback raises is logged;
        it runs in the event loop and must not block.
        """
        self._listeners.append(callback)

        def end() -> None:
            with suppress(ValueError):  # a second call
                self._listeners.remove(callback)

        return end

    async def audit(self) -> AuditReport:
        """Compare the copy with the bucket now, by versions, and repair what was removed without a trace.

        Also what following does at the start and on a period. A key whose put is on its way is left alone. Cancelled,
        it has repaired all or nothing; what it has repaired is counted and told to `on_change`.

        Raises: OperationTimeoutError, StoreNotFoundError, NotConnectedError, SnapshotError.
        """
        reports: list[AuditReport] = []

        def take(report: AuditReport) -> None:
            self._count(report)
            reports.append(report)

        await audit(self._store, self._scope, self._snapshot, self._applier, tell=take)
        return reports[0]

    # ---- inside

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                auditing = tasks.create_task(self._audit_on())
                await self._follower.run()
                auditing.cancel()
        except* Exception as group:  # noqa: BLE001 - whatever it is, those who wait are told
            self._failure = _first(group)
            _log.error("store %s: the replica has stopped following: %s", self._store.name, self._failure)
        finally:
            self._ended.set()

    async def _audit_on(self) -> None:
        if self._audit_seconds is None:
            return
        await self._follower.hydrated.wait()
        due = self._follower.resumed
        while True:
            if due:
                await self._try_audit()
            due = True
            await asyncio.sleep(self._audit_seconds)

    def _count(self, report: AuditReport) -> None:
        self._audits += report.compared
        self._removed += report.removed
        self._restored += report.restored
        if report.removed or report.restored:
            _log.warning(
                "store %s: an audit removed %d keys and restored %d of which no update had told",
                self._store.name,
                report.removed,
                report.restored,
            )

    async def _try_audit(self) -> None:
        try:
            await self.audit()
        except NotConnectedError:
            _log.debug("store %s: no audit without a connection", self._store.name)
            self._failed_audits += 1
        except KvError as error:
            _log.warning("store %s: an audit failed: %s", self._store.name, error)
            self._failed_audits += 1

    async def _reached(self, event: asyncio.Event, *, timeout: float | None, what: str) -> None:
        """Wait for the event. Raises: OperationTimeoutError; what following failed with."""
        if self._task is None:
            raise RuntimeError("enter the replica first: async with Replica(...) as replica")
        waits = {asyncio.create_task(event.wait()), asyncio.create_task(self._ended.wait())}
        try:
            done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if event.is_set():
            return
        if not done:
            raise OperationTimeoutError(store=self._store.name, message=f"{what} after {timeout:g} s")
        self._failure_told = True
        raise self._failure or NotConnectedError(store=self._store.name, message="the replica was closed")

    def _note_moved(self, _: WatchCursor) -> None:
        # One event for each move: whoever waits looks again.
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _tell(self, batch: Sequence[KvUpdate]) -> None:
        for listener in list(self._listeners):
            try:
                listener(batch)
            except Exception:  # noqa: BLE001 - what it does is not the replica's to fail with
                _log.exception("store %s: a callback on changes failed", self._store.name)


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
