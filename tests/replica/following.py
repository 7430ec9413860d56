"""What the tests of following share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from slipstream.errors import SnapshotError
from slipstream.interfaces import KvStore
from slipstream.model import KvUpdate, Operation, WatchCursor
from slipstream.replica import BatchConfig, MemorySnapshot, SnapshotStore, WatchScope, watch_applied
from slipstream.testing._waiting import LIMIT, bounded

Change = tuple[str, str, bytes]


def change(update: KvUpdate) -> Change:
    return update.operation.name, update.key, update.value


class Table:
    """An application's own state, which the updates are applied to, and a diary of it."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.batches: list[list[KvUpdate]] = []
        self._changed = asyncio.Event()

    @property
    def changes(self) -> list[Change]:
        return [change(update) for batch in self.batches for update in batch]

    def apply(self, batch: list[KvUpdate]) -> None:
        self.batches.append(batch)
        for update in batch:
            if update.operation is Operation.PUT:
                self.values[update.key] = update.value
            else:
                self.values.pop(update.key, None)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def holds(self, values: dict[str, bytes]) -> None:
        """Return once these are its values."""
        async with bounded():
            while self.values != values:
                await self._changed.wait()


class BrittleSnapshot(MemorySnapshot):
    """One that fails while it is told to, and keeps a diary.

    Attributes:
        failing: how many of the next calls fail.
        fail_after: so many calls work before all fail.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failing = 0
        self.fail_after: int | None = None
        self.error: Exception = SnapshotError(message="the disk is full")
        self.attempts: list[tuple[list[Change], WatchCursor]] = []

    async def apply(self, batch: Sequence[KvUpdate], cursor: WatchCursor) -> None:
        self.attempts.append(([change(update) for update in batch], cursor))
        self._maybe_fail()
        await super().apply(batch, cursor)

    async def clear(self) -> None:
        self._maybe_fail()
        await super().clear()

    def _maybe_fail(self) -> None:
        if self.failing > 0:
            self.failing -= 1
            raise self.error
        if self.fail_after is not None:
            if self.fail_after == 0:
                raise self.error
            self.fail_after -= 1


def values_of(snapshot: SnapshotStore) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in snapshot.range()}


async def values_in(store: KvStore) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in await store.scan()}


class Run:
    """A `watch_applied` beside the test.

    Attributes:
        cursors: what `on_applied` was told.
    """

    def __init__(self) -> None:
        self.cursors: list[WatchCursor] = []
        self.stop = asyncio.Event()
        self.task: asyncio.Task[WatchCursor] | None = None

    async def end(self) -> WatchCursor:
        """Stop it; the cursor that it returns."""
        assert self.task is not None
        self.stop.set()
        async with bounded():
            return await self.task

    async def failed(self) -> BaseException:
        """What it ended with by itself."""
        assert self.task is not None
        async with bounded():
            await asyncio.wait({self.task})
        error = self.task.exception()
        assert error is not None
        return error


@asynccontextmanager
async def following(
    store: KvStore,
    table: Table,
    prefix: str | Iterable[str] | WatchScope = "",
    *,
    apply: Callable[[list[KvUpdate]], Awaitable[None] | None] | None = None,
    **options: Any,
) -> AsyncIterator[Run]:
    """Follow until the block ends."""
    run = Run()
    run.task = asyncio.create_task(
        watch_applied(
            store, prefix, apply=apply or table.apply, on_applied=run.cursors.append, stop=run.stop, **options
        )
    )
    try:
        yield run
    finally:
        run.stop.set()
        done, _ = await asyncio.wait({run.task}, timeout=LIMIT)
        run.task.cancel()
        await asyncio.wait({run.task})
    assert done, "it did not stop"


async def follow_until(
    store: KvStore, table: Table, values: dict[str, bytes], prefix: str = "", **options: Any
) -> WatchCursor:
    """One life of an application: follow until its table holds these values; the cursor."""
    async with following(store, table, prefix, **options) as run:
        assert run.task is not None
        reached = asyncio.create_task(table.holds(values))
        await asyncio.wait({reached, run.task}, return_when=asyncio.FIRST_COMPLETED)
        if not reached.done():
            reached.cancel()
            return await run.task
        await reached
        return await run.end()


async def overwrite_all(store: KvStore, values: dict[str, bytes]) -> None:
    """Write every value three times: whatever was written before has left the bucket, and so have its cursors."""
    for value in (b"-", b"+", None):
        for key, last in values.items():
            await store.put(key, last if value is None else value)


LARGE_WINDOW = BatchConfig(window=30.0)
