"""A fold beside a listing of the live bucket: what repair and audit make of the two. Pure.

Versions in, decisions out. A listing is of no single moment: every key that lives throughout is in it. So what counts
is when it was begun: after what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from slipstream.errors import ExpiryReason
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken, WatchCursor
from slipstream.resume import cursor_expiry

Versions = Mapping[str, VersionToken]


class Recovery(Enum):
    """What is done about a cursor that has expired."""

    COMPARE = "compare"
    REBUILD = "rebuild"


def recovery(
    cursor: WatchCursor,
    reason: ExpiryReason,
    *,
    first_revision: int,
    last_revision: int,
    incarnation: datetime | None,
) -> Recovery:
    """Compare where a revision still means the same write, else begin anew: an equal number proves nothing then.

    Args:
        reason: why the watch refused the cursor; the rest is the bucket now, which may have changed since.
    """
    if cursor.incarnation is None or incarnation is None:
        return Recovery.REBUILD
    now = cursor_expiry(cursor, first_revision=first_revision, last_revision=last_revision, incarnation=incarnation)
    return Recovery.COMPARE if {reason, now} <= {"compacted", None} else Recovery.REBUILD


def begins_after(cursor: WatchCursor, *, first_revision: int) -> bool:
    """Whatever the bucket still holds is newer than the cursor, so that reading all of it reads nothing twice."""
    return cursor.revision is None or cursor.revision < first_revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A fold whose cursor has expired, beside the bucket.

    Attributes:
        vanished: keys of the fold that are no more.
        changed: keys that the fold lacks or has at an older version.
        kept: how many keys it has as they are.
    """

    vanished: list[str]
    changed: list[str]
    kept: int


def compare(held: Versions, live: Versions) -> Difference:
    """What has to be done to a fold so that it is no older than the listing.

    Args:
        live: listed after the fold was last written to.
    """
    changed = [key for key, version in live.items() if _older(held.get(key), version)]
    return Difference(vanished=[key for key in held if key not in live], changed=changed, kept=len(live) - len(changed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What an audit suspects; the fold may have moved on since it was listed.

    Attributes:
        gone: keys of the fold that are no more.
        missed: keys whose write lies before the cursor and is not in the fold.
    """

    gone: list[str]
    missed: list[str]


def findings(held: Versions, live: Versions, *, applied: int) -> Findings:
    """Compare a fold that is being followed with the bucket.

    What is newer than the cursor is on its way and none of the audit's business.

    Args:
        held: the fold as of the cursor.
        live: listed after that.
        applied: the revision of that cursor.
    """
    missed = [
        key
        for key, version in live.items()
        if (revision := version.as_u64()) is not None and revision <= applied and _older(held.get(key), version)
    ]
    return Findings(gone=[key for key in held if key not in live], missed=missed)


def corrections(
    found: Findings,
    fetched: Iterable[KvEntry],
    *,
    before: Versions,
    now: Callable[[str], KvEntry | None],
    applied: int,
) -> list[KvUpdate]:
    """What of an audit's findings still holds, as updates.

    A key that has been written since it was listed is left alone, and so is a value newer than the cursor of then:
    the watch brings both in their order.

    Args:
        fetched: the values of what was missed.
        before: the fold as it was listed; `now`: as it is; `applied`: as in `findings`.
    """
    gone = [key for key in found.gone if (entry := now(key)) is not None and entry.version == before[key]]
    missed = [
        entry
        for entry in fetched
        if entry.revision is not None and entry.revision <= applied and _older(_version(now(entry.key)), entry.version)
    ]
    return [*map(removal, gone), *map(put_of, missed)]


def removal(key: str) -> KvUpdate:
    """A DELETE that no server sent: its version is unknown, so that it never moves a cursor."""
    return KvUpdate(operation=Operation.DELETE, key=key)


def put_of(entry: KvEntry) -> KvUpdate:
    """The update that left this entry behind."""
    return KvUpdate(
        operation=Operation.PUT, key=entry.key, value=entry.value, version=entry.version, created=entry.created
    )


def _version(entry: KvEntry | None) -> VersionToken | None:
    return None if entry is None else entry.version


def _older(held: VersionToken | None, live: VersionToken) -> bool:
    """An unknown version may be of any age: it has to be looked at again."""
    ours = None if held is None else held.as_u64()
    theirs = live.as_u64()
    return ours is None or theirs is None or ours < theirs
