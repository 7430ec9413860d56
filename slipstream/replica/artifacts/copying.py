"""A fold and its cursor, of one moment, copied in steps while it goes on being followed.

Pages are read between two batches and not in one go, so that neither the event loop nor following waits long. What
is read so is of no one moment; that is mended as it is when a log is compacted. Whatever is applied since the
beginning is noted, and follows the page that was read last; a key that was noted is not taken from a later page. When
no page is left, everything noted is in, and the cursor of that moment belongs to the copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import islice

from slipstream.errors import ArtifactError
from slipstream.model import KvEntry, KvUpdate, WatchCursor
from slipstream.replica.difference import put_of
from slipstream.replica.replica import Replica
from slipstream.replica.snapshot import SnapshotStore

PAGE = 500
"""Entries that are read at once: some milliseconds of the event loop at most."""
_BATCH = 10_000
_BATCH_BYTES = 8 << 20


async def copy_fold(source: Replica | SnapshotStore, target: SnapshotStore) -> None:
    """Fill an empty snapshot with what the source holds, and its cursor.

    Raises: ArtifactError where somebody else writes to a bare snapshot meanwhile; SnapshotError.
    """
    steps = _followed(source) if isinstance(source, Replica) else _still(source)
    batch: list[KvUpdate] = []
    size, cursor = 0, WatchCursor.none()
    try:
        async for updates, at in steps:
            batch += updates
            size += sum(len(update.key) + len(update.value) for update in updates)
            cursor = at
            if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                await target.apply(batch, WatchCursor.none())
                batch, size = [], 0
            await asyncio.sleep(0)
    finally:
        await steps.aclose()
    await target.apply(batch, cursor)


Steps = AsyncGenerator[tuple[Sequence[KvUpdate], WatchCursor], None]
"""Updates whose last of each key counts, and how far the source then is: with the last step the copy is level."""


async def _followed(replica: Replica) -> Steps:
    noted: list[KvUpdate] = []
    touched: set[str] = set()
    end = replica.on_change(noted.extend)
    try:
        entries = replica.range()
        while True:
            async with replica.paused() as cursor:
                page = _page(entries)
                touched.update(update.key for update in noted)
                updates = [*(put_of(entry) for entry in page if entry.key not in touched), *noted]
                noted.clear()
            yield updates, cursor
            if not page:
                return
    finally:
        end()


async def _still(snapshot: SnapshotStore) -> Steps:
    cursor = snapshot.cursor
    entries = snapshot.range()
    while page := _page(entries):
        yield [put_of(entry) for entry in page], cursor
        if snapshot.cursor != cursor:
            raise ArtifactError(
                message="the snapshot was written to while it was exported: export the Replica that follows into it, "
                "or from within `on_applied`"
            )
    yield [], cursor


def _page(entries: Iterator[KvEntry]) -> list[KvEntry]:
    return list(islice(entries, PAGE))
