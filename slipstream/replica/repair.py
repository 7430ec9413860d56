"""What becomes of a fold whose cursor has expired.

    the cursor has expired
      ├── another life of the bucket, or revisions that mean something else: every key is removed, the fold emptied
      │      ──> watch from the beginning
      └── the same life: list the keys with their versions, remove what has vanished
             ├── nothing of the fold is left as it is: the stream holds nothing but what it lacks
             │      ──> watch from the beginning
             └── else fetch what has changed
                    ──> watch from where the bucket stood before the listing

Removals come first, so that a key that is made again ends with its new value. The saved cursor stays the expired one
until all is in the fold: whoever is killed half way repairs again and ends the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from slipstream.errors import CursorExpiredError, ExpiryReason
from slipstream.interfaces import KvReader, KvStore
from slipstream.model import KvEntry, StoreStatus, VersionToken, WatchCursor
from slipstream.replica.apply import Applier
from slipstream.replica.difference import Recovery, compare, put_of, recovery, removal
from slipstream.replica.listing import held_versions, live_versions
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where the watch goes on.

    Attributes:
        incarnation: the life of the bucket that the fold is of; None where any will do, because the fold is empty.
        held_until: up to this revision the watch may bring what the fold has already.
    """

    cursor: WatchCursor
    incarnation: datetime | None = None
    held_until: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair(Generic[T]):
    """The repairs of one fold.

    Attributes:
        chunk: how many keys are removed or fetched at a time.
    """

    store: KvStore
    scope: WatchScope
    snapshot: SnapshotStore
    applier: Applier[T]
    chunk: int

    async def after(self, reason: ExpiryReason, *, overtaken: bool) -> tuple[Recovery, Resume]:
        """Bring the fold to where a watch can follow it again.

        Cancelled or failed, it can be called again with the same result.

        Args:
            overtaken: repairs have come to nothing before, because the bucket went on more quickly than the fold
                could follow: watch from the beginning, which never expires.
        Raises: what listing and reading raise, and what `Applier.flush` raises.
        """
        status = await self.store.status()
        how = recovery(
            self.applier.cursor,
            reason,
            first_revision=status.first_revision,
            last_revision=status.last_revision,
            incarnation=status.incarnation,
        )
        if how is Recovery.REBUILD:
            await self.rebuild()
            return how, Resume(cursor=WatchCursor.none())
        return how, await self._reconcile(status, overtaken=overtaken)

    async def rebuild(self) -> None:
        """Remove everything: nothing that the fold holds can be told from what it should hold."""
        held = list(await held_versions(self.snapshot, self.scope))
        _log.info("store %s: the replica begins anew, %d keys are removed first", self.store.name, len(held))
        await self._remove(held)
        await self.applier.clear()

    async def _reconcile(self, status: StoreStatus, *, overtaken: bool) -> Resume:
        held = await held_versions(self.snapshot, self.scope)
        live = await live_versions(self.store, self.scope)
        difference = compare(held, live)
        _log.info(
            "store %s: the replica is repaired; %d keys have vanished, %d have changed, %d are as they were",
            self.store.name,
            len(difference.vanished),
            len(difference.changed),
            difference.kept,
        )
        await self._remove(difference.vanished)
        highest = max((version.as_u64() or 0 for version in held.values()), default=0)
        if overtaken or not difference.kept:
            return Resume(cursor=WatchCursor.none(), incarnation=status.incarnation, held_until=highest)
        for keys in _chunks(difference.changed, self.chunk):
            entries, absent = await _fetch(self.store, {key: live[key] for key in keys})
            highest = max([highest, *(entry.revision or 0 for entry in entries)])
            await self._remove(absent)
            await self.applier.flush([put_of(entry) for entry in entries], self.applier.cursor)
        # Should the bucket have been made again while it was read, the watch finds that this is another life's cursor.
        cursor = WatchCursor(revision=status.last_revision, incarnation=status.incarnation)
        await self.applier.flush([], cursor)
        return Resume(cursor=cursor, incarnation=status.incarnation, held_until=highest)

    async def _remove(self, keys: Sequence[str]) -> None:
        for some in _chunks(keys, self.chunk):
            await self.applier.flush([removal(key) for key in some], self.applier.cursor)


async def refuse_other_life(store: KvStore, resume: Resume) -> None:
    """Once the watch has been entered: it is of the bucket that the fold is of.

    Lives do not come back, so if the bucket is of the right one now, it was when the watch was entered.

    Raises: CursorExpiredError.
    """
    if resume.incarnation is None or not resume.cursor.is_none:
        return  # a cursor with an incarnation is compared by the watch itself
    status = await store.status()
    if status.incarnation != resume.incarnation:
        raise CursorExpiredError(
            store=store.name, cursor=resume.cursor, first_revision=status.first_revision, reason="recreated"
        )


async def _fetch(reader: KvReader, wanted: dict[str, VersionToken]) -> tuple[list[KvEntry], list[str]]:
    """The entries in revision order, none older than wanted, and the keys that are absent by now."""
    found = await reader.get_many(wanted)
    for key, version in wanted.items():
        entry = found.get(key)
        if entry is None or (entry.revision or 0) < (version.as_u64() or 0):
            # A replica of the bucket that lags behind may have answered: from there no watch would bring it.
            newer = await reader.get(key, min_version=None if version.is_unknown else version)
            found.pop(key, None)
            if newer is not None:
                found[key] = newer
    return sorted(found.values(), key=lambda entry: entry.revision or 0), [key for key in wanted if key not in found]


def _chunks(keys: Sequence[str], size: int) -> list[Sequence[str]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]
