"""The one writer of a fold: takes batches through the steps of `flush`."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Generic, TypeVar

from slipstream.errors import SnapshotCorruptedError, SnapshotError
from slipstream.model import KvUpdate, WatchCursor
from slipstream.replica.change import change_of
from slipstream.replica.flush import RETRIES, Flush, Step, next_step, pause_after
from slipstream.replica.snapshot import SnapshotStore

_log = logging.getLogger(__name__)
T = TypeVar("T")
Parse = Callable[[KvUpdate], T | None]
Apply = Callable[[list[T]], Awaitable[None] | None]
OnApplied = Callable[[WatchCursor], Awaitable[None] | None]
OnStored = Callable[[Sequence[KvUpdate]], None]


class Applier(Generic[T]):
    """Applies one batch at a time.

    Attributes:
        cursor: everything up to it has been applied and stored.
        lock: held while a batch takes effect; whoever holds it sees a fold that stands still.
        failures: how often the snapshot has refused a batch so far.
    """

    def __init__(
        self,
        *,
        apply: Apply[T],
        parse: Parse[T],
        snapshot: SnapshotStore | None,
        cursor: WatchCursor,
        stop: asyncio.Event,
        on_applied: OnApplied | None = None,
        on_stored: OnStored | None = None,
    ) -> None:
        """An applier of nothing yet.

        Args:
            stop: while it is set, a failing snapshot is tried again without a pause.
            on_stored: called with every batch that has taken effect.
        """
        self._apply = apply
        self._parse = parse
        self._snapshot = snapshot
        self._stop = stop
        self._on_applied = on_applied
        self._on_stored = on_stored
        self.cursor = cursor
        self.lock = asyncio.Lock()
        self.failures = 0

    @property
    def busy(self) -> bool:
        """A batch is taking effect."""
        return self.lock.locked()

    async def flush(self, batch: Sequence[KvUpdate], cursor: WatchCursor) -> None:
        """Let the batch take effect, then move to the cursor. Raises: what `apply` raises; SnapshotError."""
        async with self.lock:
            await self._flush(batch, cursor)

    async def correct(self, decide: Callable[[], Sequence[KvUpdate]], *, then: OnStored) -> None:
        """Let what is decided about the fold as it stands take effect, at the same cursor.

        Args:
            then: called with what was decided, be it nothing, as soon as it has taken effect; also where the
                cancellation of this call came while that happened.
        """
        async with self.lock:
            batch = decide()
            if batch:
                await self._flush(batch, self.cursor, then)
            else:
                then(batch)

    async def clear(self) -> None:
        """Begin anew with an empty fold and no cursor; the caller has had every key of it removed."""
        async with self.lock:
            snapshot = self._snapshot
            await self._take_steps([], WatchCursor.none(), snapshot.clear if snapshot is not None else _nowhere)

    async def _flush(self, batch: Sequence[KvUpdate], cursor: WatchCursor, then: OnStored | None = None) -> None:
        snapshot = self._snapshot
        store = (lambda: snapshot.apply(batch, cursor)) if snapshot is not None else _nowhere
        await self._take_steps(batch, cursor, store, then)

    async def _take_steps(
        self,
        batch: Sequence[KvUpdate],
        cursor: WatchCursor,
        store: Callable[[], Awaitable[None]],
        then: OnStored | None = None,
    ) -> None:
        flush = Flush()
        error: Exception | None = None
        while True:
            match next_step(flush):
                case Step.APPLY:
                    await self._apply_parsed(batch)
                    flush = replace(flush, applied=True)
                case Step.STORE:
                    await self._pause(flush.failures)
                    try:
                        error = await _failure(store)
                    except asyncio.CancelledError:
                        # A snapshot finishes what it has begun. The fold goes on without this call: an audit that is
                        # cancelled here would have removed keys of which `on_change` was never told.
                        if self._has_taken(batch, cursor):
                            self._note(batch, cursor, then)
                        raise
                    failures = 0 if error is None else flush.failures + 1
                    flush = replace(flush, stored=error is None, failures=failures)
                    if error is not None:
                        self.failures += 1
                        _log.warning("the snapshot failed, attempt %d of %d: %s", failures, RETRIES + 1, error)
                case Step.ANNOUNCE:
                    await self._announce(batch, cursor, then)
                    flush = replace(flush, announced=True)
                case Step.DONE:
                    return
                case Step.GIVE_UP:
                    if isinstance(error, SnapshotError):
                        raise error
                    raise SnapshotError(
                        message=f"the snapshot failed {flush.failures} times in a row: {error}"
                    ) from error

    async def _pause(self, failures: int) -> None:
        if failures:
            with suppress(TimeoutError):  # the pause is over
                async with asyncio.timeout(pause_after(failures)):
                    await self._stop.wait()

    async def _apply_parsed(self, batch: Sequence[KvUpdate]) -> None:
        items = [item for update in batch if (item := self._parse(update)) is not None]
        if items:
            await _finished(self._apply(items))

    def _has_taken(self, batch: Sequence[KvUpdate], cursor: WatchCursor) -> bool:
        """The fold is what this batch makes of it, as far as the batch goes."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.cursor != cursor:
            return False
        change = change_of(batch)
        return all(snapshot.get(key) == entry for key, entry in change.puts.items()) and all(
            snapshot.get(key) is None for key in change.removed
        )

    def _note(self, batch: Sequence[KvUpdate], cursor: WatchCursor, then: OnStored | None) -> None:
        self.cursor = cursor
        if self._on_stored is not None and batch:
            self._on_stored(batch)
        if then is not None:
            then(batch)

    async def _announce(self, batch: Sequence[KvUpdate], cursor: WatchCursor, then: OnStored | None) -> None:
        moved = cursor != self.cursor
        self._note(batch, cursor, then)
        if self._on_applied is not None and moved and not cursor.is_none:
            await _finished(self._on_applied(cursor))


async def _failure(store: Callable[[], Awaitable[None]]) -> Exception | None:
    try:
        await store()
    except SnapshotCorruptedError:
        raise  # trying again mends nothing
    except Exception as error:  # noqa: BLE001 - whatever a snapshot of someone else's raises, the batch is kept
        return error
    return None


async def _nowhere() -> None:
    """Stored by the caller, in `on_applied`."""


async def _finished(outcome: Awaitable[None] | None) -> None:
    if inspect.isawaitable(outcome):
        await outcome
