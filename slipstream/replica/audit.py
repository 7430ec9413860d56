"""Compares a fold that is being followed with the live bucket: finds what was removed without a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slipstream.interfaces import KvStore
from slipstream.model import KvEntry, KvUpdate, Operation
from slipstream.replica.apply import Applier
from slipstream.replica.difference import corrections, findings
from slipstream.replica.listing import held_versions, live_versions
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What an audit repaired.

    Attributes:
        removed: keys that had gone without anybody being told: purged by an administrator, expired without a mark, or
            deleted while the replica was away and the tombstone removed since.
        restored: keys whose write the fold should have had and had not.
        compared: it was carried out; False where the fold is not of the bucket that is there now: following repairs it.
    """

    removed: int = 0
    restored: int = 0
    compared: bool = True


async def audit(
    store: KvStore,
    scope: WatchScope,
    snapshot: SnapshotStore,
    applier: Applier[Any],
    *,
    tell: Callable[[AuditReport], None],
) -> None:
    """Compare, and repair what still holds; following goes on meanwhile.

    The fold is listed first, the bucket after that: a key whose put came in between is not in question, and one that
    was written since is left alone. Cancelled, it has repaired all or nothing.

    Args:
        tell: called once with the outcome, in the moment in which it holds; not called where nothing was done.
    """
    async with applier.lock:
        cursor = applier.cursor
        held = await held_versions(snapshot, scope)
    applied = cursor.revision
    if applied is None:
        return tell(AuditReport(compared=False))
    live = await live_versions(store, scope)
    found = findings(held, live, applied=applied)
    fetched = await store.get_many(found.missed)
    # Lives do not come back: if it is of this one now, it was while it was listed.
    if (await store.status()).incarnation != cursor.incarnation:
        return tell(AuditReport(compared=False))

    def decide() -> list[KvUpdate]:
        if applier.cursor.incarnation != cursor.incarnation:
            return []  # begun anew meanwhile: equal revisions mean nothing
        return corrections(found, _ordered(fetched), before=held, now=snapshot.get, applied=applied)

    await applier.correct(decide, then=lambda repaired: tell(_report(repaired)))
    return None


def _report(repaired: Sequence[KvUpdate]) -> AuditReport:
    restored = sum(update.operation is Operation.PUT for update in repaired)
    return AuditReport(removed=len(repaired) - restored, restored=restored)


def _ordered(entries: dict[str, KvEntry]) -> list[KvEntry]:
    return sorted(entries.values(), key=lambda entry: entry.revision or 0)
