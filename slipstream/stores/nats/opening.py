"""Opening the consumer of a feed so that nothing between its position and the first delivery goes unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from slipstream.errors import CursorExpiredError, ExpiryReason
from slipstream.model import WatchCursor
from slipstream.resume import BucketView, Seen, cursor_expiry, resume_expiry
from slipstream.stores.nats.api import StreamInfo
from slipstream.stores.nats.bucket import Bucket
from slipstream.stores.nats.consumer import PushConsumer
from slipstream.stores.nats.error_map import ApiError, reports_expiry
from slipstream.stores.nats.lane import OnFrames


@dataclass(slots=True, kw_only=True)
class FeedOptions:
    """What to deliver.

    Attributes:
        accepts: the client's part of the filtering, None where the server, which matches whole tokens, does all of it.
        every_message: from the beginning, deliver what is held of each key, not just the last.
        ends: the feed ends with its initial state.
        max_tail_reads: end it unproven after so many proofs that failed because of ever new writes; None: never.
    """

    purpose: str
    filters: list[str]
    accepts: Callable[[str], bool] | None
    cursor: WatchCursor
    headers_only: bool = False
    every_message: bool = False
    ends: bool = False
    max_tail_reads: int | None = None


def accepting(prefixes: tuple[str, ...]) -> Callable[[str], bool] | None:
    """What of the keys under the filters of these prefixes is wanted; None for all: they end with whole tokens."""
    if all(not prefix or prefix.endswith(".") for prefix in prefixes):
        return None
    return lambda key: key.startswith(prefixes)


async def open_consumer(
    bucket: Bucket,
    options: FeedOptions,
    on_frames: OnFrames,
    *,
    leaving: set[asyncio.Task[None]],
    revision: int | None,
    seen: Seen | None,
) -> tuple[PushConsumer, Seen, int]:
    """A consumer after `revision`, with both ends and the incarnation compared before and after it is made.

    Returns: with it what the feed knows of the bucket then, and the last revision from before.
    Args:
        leaving: the removals of the feed's earlier consumers, as far as they are under way.
        seen: what a running feed knows of the bucket; None for a feed that begins, which is judged strictly.
    Raises: CursorExpiredError, and what `PushConsumer.open` raises.
    """

    async def look() -> StreamInfo:
        # Of a leader that was deposed and does not know it yet, it would seem to have lost its tail.
        return await bucket.at_leader(lambda: bucket.api.stream_info(bucket.stream))

    looked = await look()
    before = looked.view
    _compare(bucket, options, before, looked.at, revision, seen)
    try:
        consumer = await PushConsumer.open(
            bucket,
            on_frames,
            leaving=leaving,
            purpose=options.purpose,
            filters=options.filters,
            start_after=revision,
            last_per_key=not options.every_message,
            headers_only=options.headers_only,
        )
    except ApiError as error:
        if reports_expiry(error.description):
            raise expired(bucket, options, "compacted", before, revision, seen) from None
        raise
    try:
        if revision is not None and consumer.start > revision:
            # The one word of the server's own: where it really starts, as of the moment of creation (PROTOCOL.md, e).
            # One that starts before the revision is on a replica of 2.10 that lags: it sends again what was received.
            moved = BucketView(
                first_revision=consumer.start + 1,
                last_revision=max(before.last_revision, consumer.start),
                keys=before.keys,
                incarnation=before.incarnation,
            )
            _compare(bucket, options, moved, looked.at, revision, seen)
        looked_again = await look()
        after = looked_again.view
        if after.incarnation != before.incarnation:
            raise expired(bucket, options, "recreated", after, revision, seen)
        if revision is not None and revision > after.last_revision:
            raise expired(bucket, options, "rolled_back", after, revision, seen)
    except BaseException:
        consumer.abandon()
        raise
    if seen is None or revision is None:
        # Without a position it begins with what is there: it holds nothing yet that can be stale.
        seen = Seen.first(after, looked_again.at, level_at=looked.at if revision is None else None)
    else:
        seen = seen.looked(after, looked_again.at)
    return consumer, seen.received(revision), before.last_revision


def expired(
    bucket: Bucket,
    options: FeedOptions,
    reason: ExpiryReason,
    view: BucketView,
    revision: int | None,
    seen: Seen | None,
) -> CursorExpiredError:
    """The error that says why what comes after `revision` cannot be delivered whole."""
    return CursorExpiredError(
        store=bucket.name,
        cursor=_cursor(options, revision, seen),
        first_revision=view.first_revision,
        reason=reason,
    )


def _cursor(options: FeedOptions, revision: int | None, seen: Seen | None) -> WatchCursor:
    incarnation = options.cursor.incarnation if seen is None else seen.last.incarnation
    return WatchCursor.none() if revision is None else WatchCursor(revision=revision, incarnation=incarnation)


def _compare(
    bucket: Bucket,
    options: FeedOptions,
    now: BucketView,
    at: datetime | None,
    revision: int | None,
    seen: Seen | None,
) -> None:
    """Raise if what comes after the revision may no longer be there, as of a look at the server's time `at`."""
    cursor = _cursor(options, revision, seen)
    reason: ExpiryReason | None
    if seen is None:
        reason = cursor_expiry(
            cursor,
            first_revision=now.first_revision,
            last_revision=now.last_revision,
            incarnation=now.incarnation,
        )
    elif seen.last.incarnation != now.incarnation:
        # Also where nothing has been received yet: the old life's keys may have been reported as there.
        reason = "recreated"
    else:
        reason = resume_expiry(
            cursor,
            seen=seen.view,
            now=now,
            retention=bucket.retention,
            away=seen.away(at),
        )
    if reason is not None:
        raise expired(bucket, options, reason, now, revision, seen)
