"""What becomes of a fold whose cursor has expired.

    the cursor has expired
      ├── another life of the bucket, or revisions that mean something else: every key is removed, the fold emptied
      │      ──> watch from the beginning
      └── the same life: enter a watch, then list the keys with their versions, remove what has vanished
             ├── the bucket begins after the cursor, so that nothing in it is in the fold
             │      ──> the watch is from the beginning
             └── else fetch what has changed
                    ──> the watch is from where the bucket stood before

The watch comes first: what is deleted before it is not in the listing, what is deleted after it the watch brings.
Removals come before anything that the watch hands out, so that a key that is made again ends with its new value. The
saved cursor stays the expired one until the fold is as new as the next: whoever is killed half way repairs again and
ends the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from slipstream.errors import CursorExpiredError, ExpiryReason
from slipstream.interfaces import KvReader, KvStore
from slipstream.model import KvEntry, VersionToken, WatchCursor
from slipstream.replica.apply import Applier
from slipstream.replica.difference import Recovery, begins_after, compare, put_of, recovery, removal
from slipstream.replica.listing import held_versions, live_versions
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a fold gets back to where a watch can follow it.

    Attributes:
        cursor: where the watch begins.
        how: COMPARE has to be followed by `Repair.mend` once the watch has been entered; REBUILD is done.
    """

    cursor: WatchCursor
    how: Recovery


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair(Generic[T]):
    """The repairs of one fold. Each step may fail or be cancelled and be done again with the same result.

    Attributes:
        chunk: how many keys are removed or fetched at a time.
    """

    store: KvStore
    scope: WatchScope
    snapshot: SnapshotStore
    applier: Applier[T]
    chunk: int

    async def plan(self, reason: ExpiryReason, *, overtaken: bool) -> Plan:
        """Decide, and empty a fold that nothing can be compared with.

        Args:
            overtaken: repairs have come to nothing before, because the bucket went on more quickly than the watch
                could be entered: begin it at the beginning, which never expires.
        """
        cursor = self.applier.cursor
        status = await self.store.status()
        how = recovery(
            cursor,
            reason,
            first_revision=status.first_revision,
            last_revision=status.last_revision,
            incarnation=status.incarnation,
        )
        if how is Recovery.REBUILD:
            await self.rebuild()
            return Plan(cursor=WatchCursor.none(), how=how)
        if overtaken or begins_after(cursor, first_revision=status.first_revision):
            return Plan(cursor=WatchCursor.none(), how=how)
        return Plan(cursor=WatchCursor(revision=status.last_revision, incarnation=status.incarnation), how=how)

    async def rebuild(self) -> None:
        """Remove everything: nothing that the fold holds can be told from what it should hold."""
        held = list(await held_versions(self.snapshot, self.scope))
        _log.info("store %s: the replica begins anew, %d keys are removed first", self.store.name, len(held))
        await self._remove(held)
        await self.applier.clear()

    async def mend(self, plan: Plan) -> int:
        """Bring the fold to where the watch, which has been entered, begins.

        Returns: the revision up to which the watch may bring what the fold has already.
        Raises: CursorExpiredError where the bucket has been made again.
        """
        held = await held_versions(self.snapshot, self.scope)
        live = await live_versions(self.store, self.scope)
        status = await self.store.status()
        if status.incarnation != self.applier.cursor.incarnation:
            # Lives do not come back: were it this one, both the watch and the listing would be of it.
            raise CursorExpiredError(
                store=self.store.name,
                cursor=self.applier.cursor,
                first_revision=status.first_revision,
                reason="recreated",
            )
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
        if plan.cursor.is_none:
            return highest
        for keys in _chunks(difference.changed, self.chunk):
            entries, absent = await _fetch(self.store, {key: live[key] for key in keys})
            highest = max([highest, *(entry.revision or 0 for entry in entries)])
            await self._remove([key for key in absent if key in held])
            await self.applier.flush([put_of(entry) for entry in entries], self.applier.cursor)
        # Should the bucket have been made again since, the watch finds that this is another life's cursor.
        await self.applier.flush([], plan.cursor)
        return highest

    async def _remove(self, keys: Sequence[str]) -> None:
        for some in _chunks(keys, self.chunk):
            await self.applier.flush([removal(key) for key in some], self.applier.cursor)


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
