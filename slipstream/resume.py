"""L1: may this cursor resume, is this gap benign, is the initial state complete. Pure: no I/O, no clock, no asyncio.

The server does not say that a position can no longer be resumed: a consumer that starts below the first message is
silently moved up to it, one beyond the last waits silently (PROTOCOL.md, e). So both ends and the incarnation are
compared here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from slipstream.errors import ExpiryReason
from slipstream.model import WatchCursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What, besides a newer record of the same key, removes records from a bucket.

    Attributes:
        evicts: limits drop records and leave nothing behind (max_age without markers, discard=old with a limit).
        marker_seconds: how long the mark of an expired key stays; None where keys do not expire one by one.
    """

    evicts: bool = False
    marker_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketView:
    """Both ends of a bucket, how many keys have a record, and which life of it this is."""

    first_revision: int
    last_revision: int
    keys: int
    incarnation: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a running watch knows of its bucket. Times are the server's, so that nothing here has to keep time with it.

    A watch is level with a look when it has received all that the bucket held then. What it missed since counts from
    the last such look: a mere look proves nothing of what was not received yet, a mark of expiry may still go unseen.

    Attributes:
        last: the bucket when it was last looked at.
        looked_at: when that was; None where the server did not say.
        level_at: when the last look was that the watch is level with; None for none.
        keys: the most keys that a look has counted since then.
        is_level: with the last look.
    """

    last: BucketView
    looked_at: datetime | None
    level_at: datetime | None
    keys: int
    is_level: bool = False

    @classmethod
    def first(cls, view: BucketView, at: datetime | None, *, level_at: datetime | None) -> Seen:
        """The first look. Whoever holds nothing yet is level with anything: it cannot have missed that a key went."""
        return cls(last=view, looked_at=at, level_at=level_at, keys=view.keys)

    @property
    def view(self) -> BucketView:
        """The bucket as a resume is to be compared with."""
        return replace(self.last, keys=self.keys)

    def looked(self, view: BucketView, at: datetime | None) -> Seen:
        """After another look."""
        return replace(self, last=view, looked_at=at, keys=max(self.keys, view.keys), is_level=False)

    def received(self, revision: int | None) -> Seen:
        """After everything up to the revision has been received."""
        if revision is None or revision < self.last.last_revision or self.is_level:
            return self
        return replace(self, level_at=self.looked_at, keys=self.last.keys, is_level=True)

    def away(self, now: datetime | None) -> float:
        """Seconds since it was level; infinite where that is not known."""
        if self.level_at is None or now is None:
            return math.inf
        # Of a clock that went back all that can be told is by how much.
        return abs((now - self.level_at).total_seconds())


def cursor_expiry(
    cursor: WatchCursor, *, first_revision: int, last_revision: int, incarnation: datetime | None
) -> ExpiryReason | None:
    """Why a cursor from outside cannot be resumed, or None if everything after it is still there.

    Strict: nothing is known of what was removed before the first revision, so a cursor older than it by more than one
    is expired, even if only overwritten values are gone.
    """
    if cursor.revision is None:
        return None
    if cursor.incarnation is not None and incarnation is not None and cursor.incarnation != incarnation:
        return "recreated"
    if cursor.revision > last_revision:
        return "rolled_back"
    if cursor.revision + 1 < first_revision:
        return "compacted"
    return None


def resume_expiry(
    cursor: WatchCursor, *, seen: BucketView, now: BucketView, retention: Retention, away: float
) -> ExpiryReason | None:
    """Why a running watch cannot be set up again at its own position, or None if it can.

    Unlike a cursor from outside, a running watch knows what the bucket was like (`Seen.view`) and for how long it may
    have missed something (`Seen.away`). Where only newer records of the same keys can have moved the first revision,
    nothing is lost.
    """
    reason = cursor_expiry(
        cursor, first_revision=now.first_revision, last_revision=now.last_revision, incarnation=now.incarnation
    )
    if reason == "compacted" and only_overwritten(seen=seen, now=now, retention=retention, away=away):
        return None
    return reason


def only_overwritten(*, seen: BucketView, now: BucketView, retention: Retention, away: float) -> bool:
    """Everything removed since `seen` was replaced by a newer record of its key, as far as the server can tell.

    A key that vanished whole (purged through the API, or its marker timed out) shows in the count of keys.
    """
    if retention.evicts or now.keys < seen.keys:
        return False
    return retention.marker_seconds is None or away < retention.marker_seconds


def gap_is_benign(*, position: int, first_revision: int, retention: Retention) -> bool:
    """The next record of a running watch is not the one after `position`: was what lies between only overwritten
    or of other keys (True), or may limits have taken it away undelivered (False)?

    Limits remove from the front only. So while the first revision has not passed the position, nothing is lost.
    """
    return not retention.evicts or first_revision <= position + 1


def initial_state_complete(tail_revisions: Iterable[int | None]) -> bool:
    """Everything that the server held at some moment has been received.

    Args:
        tail_revisions: for each filter, the first record after the position received so far, as read at the leader;
            None for none. Where there is one, receiving it proves nothing of what was overwritten meanwhile: the
            question has to be asked again from there.
    """
    return all(tail is None for tail in tail_revisions)
