"""Scans: the last update of every key under a prefix, complete under concurrent writes."""

from __future__ import annotations

import asyncio

from slipstream.channel import ChannelClosed
from slipstream.errors import CursorExpiredError
from slipstream.keys import check_prefix
from slipstream.model import KvUpdate, WatchCursor
from slipstream.stores.nats.api import StoredMessage, StreamInfo
from slipstream.stores.nats.bucket import Bucket, deadline
from slipstream.stores.nats.feed import Feed
from slipstream.stores.nats.opening import FeedOptions, accepting
from slipstream.stores.nats.pipeline import pipelined

TAIL_READS = 8
"""After so many failed proofs a scan asks for the list of keys instead: writers are quicker than the questions."""
_WINDOW = 64


def scan_options(bucket: Bucket, prefix: str, *, headers_only: bool = False) -> FeedOptions:
    """A feed of the last update of every key with the prefix, which ends when it is complete."""
    return FeedOptions(
        purpose="scan",
        filters=[bucket.filter(prefix)],
        accepts=accepting((prefix,)),
        cursor=WatchCursor.none(),
        headers_only=headers_only,
        ends=True,
    )


async def last_updates(bucket: Bucket, prefix: str, *, headers_only: bool = False) -> dict[str, KvUpdate]:
    """The last update of every key with a record, tombstones included, by key; within `op_timeout`.

    With headers only, values are empty.
    """
    check_prefix(prefix, store=bucket.name)
    options = scan_options(bucket, prefix, headers_only=headers_only)
    options.max_tail_reads = TAIL_READS
    async with deadline(bucket.op_timeout, store=bucket.name):
        updates, complete = await drain(bucket, options)
        folded = {update.key: update for update in updates}
        if not complete:
            await add_missing(bucket, prefix, folded)
    return folded


async def drain(bucket: Bucket, options: FeedOptions) -> tuple[list[KvUpdate], bool]:
    """Everything that a feed delivers until it ends, and whether that is proven to be all; the caller bounds it.

    Begins again where the connection went and meanwhile retention went on or the bucket was made again.
    """
    while True:
        feed = Feed(bucket, options)
        updates: list[KvUpdate] = []
        try:
            await feed.open()
            while True:
                await feed.wait_ready()
                updates += feed.take_many(feed.ready)
        except CursorExpiredError:
            continue
        except ChannelClosed:
            return updates, feed.complete
        finally:
            await feed.aclose()


async def add_missing(bucket: Bucket, prefix: str, found: dict[str, KvUpdate]) -> None:
    """Complete a scan by the server's list of keys, where ever new writes keep the tail from being empty.

    A key that lives throughout is in the list, which is of one moment; what the scan has not seen is read singly.
    """
    missing = [key for key in await list_keys(bucket, prefix) if key not in found]

    async def last(key: str) -> StoredMessage | None:
        return await bucket.read(lambda: bucket.api.last_at_leader(bucket.stream, bucket.subject(key)), key=key)

    for message in await pipelined(missing, last, window=_WINDOW):
        if message is not None:
            update = bucket.update(message)
            found[update.key] = update


async def list_keys(bucket: Bucket, prefix: str) -> list[str]:
    """The keys with a record, tombstones included, as the leader lists them."""
    while True:
        keys: list[str] = []
        total: int | None = None
        while True:
            page = await _page(bucket, prefix, len(keys))
            keys.extend(bucket.key(subject) for subject in page.subjects)
            if total is not None and page.subjects_total < total:
                break  # keys were removed between two pages: what came after them has moved
            total = page.subjects_total
            if not page.subjects or len(keys) >= total:
                return [key for key in keys if key.startswith(prefix)]
        await asyncio.sleep(0)


async def _page(bucket: Bucket, prefix: str, offset: int) -> StreamInfo:
    return await bucket.read(
        lambda: bucket.api.stream_info(bucket.stream, subjects_filter=bucket.filter(prefix), offset=offset)
    )
