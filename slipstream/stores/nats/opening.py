"""Opening the consumer of a feed so that nothing between its position and the first delivery goes unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from slipstream.errors import CursorExpiredError, ExpiryReason
from slipstream.model import WatchCursor
from slipstream.resume import BucketView, cursor_expiry, resume_expiry
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


class Seen(NamedTuple):
    """The bucket when it was last looked at, and when that was (loop time)."""

    view: BucketView
    at: float

    @classmethod
    def now(cls, view: BucketView) -> Seen:
        return cls(view, asyncio.get_running_loop().time())


def accepting(prefixes: tuple[str, ...]) -> Callable[[str], bool] | None:
    """What of the keys under the filters of these prefixes is wanted; None for all: they end with whole tokens."""
    if all(not prefix or prefix.endswith(".") for prefix in prefixes):
        return None
    return lambda key: key.startswith(prefixes)


async def open_consumer(
    bucket: Bucket, options: FeedOptions, on_frames: OnFrames, *, revision: int | None, seen: Seen | None
) -> tuple[PushConsumer, Seen, int]:
    """A consumer after `revision`, with both ends and the incarnation compared before and after it is made.

    Returns: with it the bucket as it was afterwards, and the last revision from before.
    Args:
        seen: the bucket when a running feed last looked at it; None for a feed that begins, which is judged strictly.
    Raises: CursorExpiredError, and what `PushConsumer.open` raises.
    """

    async def look() -> BucketView:
        # Of a leader that was deposed and does not know it yet, it would seem to have lost its tail.
        return (await bucket.at_leader(lambda: bucket.api.stream_info(bucket.stream))).view

    before = await look()
    _compare(bucket, options, before, revision, seen)
    try:
        consumer = await PushConsumer.open(
            bucket,
            on_frames,
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
        if revision is not None and consumer.start != revision:
            # The one word of the server's own: where it really starts, as of the moment of creation (PROTOCOL.md, e).
            if consumer.start < revision:
                raise expired(bucket, options, "rolled_back", before, revision, seen)
            moved = BucketView(
                first_revision=consumer.start + 1,
                last_revision=max(before.last_revision, consumer.start),
                keys=before.keys,
                incarnation=before.incarnation,
            )
            _compare(bucket, options, moved, revision, seen)
        after = await look()
        if after.incarnation != before.incarnation:
            raise expired(bucket, options, "recreated", after, revision, seen)
        if revision is not None and revision > after.last_revision:
            raise expired(bucket, options, "rolled_back", after, revision, seen)
    except BaseException:
        consumer.abandon()
        raise
    return consumer, Seen.now(after), before.last_revision


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
    incarnation = options.cursor.incarnation if seen is None else seen.view.incarnation
    return WatchCursor.none() if revision is None else WatchCursor(revision=revision, incarnation=incarnation)


def _compare(bucket: Bucket, options: FeedOptions, now: BucketView, revision: int | None, seen: Seen | None) -> None:
    """Raise if what comes after the revision may no longer be there."""
    cursor = _cursor(options, revision, seen)
    reason: ExpiryReason | None
    if seen is None:
        reason = cursor_expiry(
            cursor,
            first_revision=now.first_revision,
            last_revision=now.last_revision,
            incarnation=now.incarnation,
        )
    elif seen.view.incarnation != now.incarnation:
        # Also where nothing has been received yet: the old life's keys may have been reported as there.
        reason = "recreated"
    else:
        reason = resume_expiry(
            cursor,
            seen=seen.view,
            now=now,
            retention=bucket.retention,
            away=asyncio.get_running_loop().time() - seen.at,
        )
    if reason is not None:
        raise expired(bucket, options, reason, now, revision, seen)
