"""Watches on NATS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Self

from slipstream.channel import ChannelClosed
from slipstream.interfaces import KvWatcher, Watch
from slipstream.keys import check_prefix
from slipstream.model import KvUpdate, WatchCursor, WatchStatistics
from slipstream.stores.nats.bucket import Bucket
from slipstream.stores.nats.feed import Feed
from slipstream.stores.nats.opening import FeedOptions, accepting


class NatsWatcher(KvWatcher):
    """The watching role on one bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def watch(self, prefix: str | Iterable[str] = "", *, cursor: WatchCursor | None = None) -> Watch:
        prefixes = [prefix] if isinstance(prefix, str) else list(prefix)
        for one in prefixes:
            check_prefix(one, store=self._bucket.name)
        return NatsWatch(self._bucket, tuple(prefixes), cursor if cursor is not None else WatchCursor.none())


class NatsWatch(Watch):
    """A watch whose updates a `Feed` delivers; one without prefixes has none and ends at once."""

    def __init__(self, bucket: Bucket, prefixes: tuple[str, ...], cursor: WatchCursor) -> None:
        self._cursor = cursor
        self._entered = False
        self._closed = False
        self._feed: Feed | None = None
        if prefixes:
            options = FeedOptions(
                purpose="watch",
                filters=bucket.filters(list(prefixes)),
                accepts=accepting(prefixes),
                cursor=cursor,
            )
            self._feed = Feed(bucket, options)
        self._heartbeat = bucket.heartbeat

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a watch is entered once: make another one")
        self._entered = True
        if self._feed is not None:
            await self._feed.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self._closed = True
        if self._feed is not None and self._entered:
            await self._feed.aclose()

    def __aiter__(self) -> AsyncIterator[KvUpdate]:
        return self

    async def __anext__(self) -> KvUpdate:
        feed = self._reading()
        if feed is None:
            raise StopAsyncIteration
        try:
            update = feed.take()
            return update if update is not None else await feed.next()
        except ChannelClosed:
            raise StopAsyncIteration from None

    async def batches(self, max_items: int = 1000, max_wait: float = 0.01) -> AsyncIterator[list[KvUpdate]]:
        if max_items < 1 or max_wait < 0:
            raise ValueError("max_items is at least 1 and max_wait at least 0")
        feed = self._reading()
        while feed is not None:
            # Nothing is taken before the batch is whole: a cancelled wait then loses nothing.
            size = await self._batch_size(feed, max_items, max_wait)
            try:
                batch = feed.take_many(size)
            except ChannelClosed:
                return
            yield batch
            feed = self._reading()

    async def _batch_size(self, feed: Feed, max_items: int, max_wait: float) -> int:
        """Wait for a batch; how many updates it has, 0 where the feed has ended."""
        await feed.wait_ready()
        loop = asyncio.get_running_loop()
        closes_at = loop.time() + max_wait
        while True:
            ready = feed.ready
            size = min(ready, max_items)
            while _inside_commit(feed, size) and size < ready:
                size += 1
            inside = _inside_commit(feed, size)
            # The mark of a commit may never come: it is waited for no longer than one heartbeat.
            left = closes_at + (self._heartbeat if inside else 0) - loop.time()
            if feed.ended or (size >= max_items and not inside) or left <= 0:
                return size
            try:
                async with asyncio.timeout(left):
                    await feed.wait_ready(more_than=ready)
            except TimeoutError:
                return size

    @property
    def cursor(self) -> WatchCursor:
        return self._feed.cursor if self._feed is not None else self._cursor

    @property
    def hydrated(self) -> bool:
        return self._entered and (self._feed is None or self._feed.complete)

    async def wait_hydrated(self) -> None:
        feed = self._reading()
        if feed is not None:
            await feed.wait_complete()

    def statistics(self) -> WatchStatistics:
        feed = self._feed
        if feed is None or not self._entered:
            return WatchStatistics(pending=0, delivered=0, resumes=0, last_heard=0.0)
        return WatchStatistics(
            pending=feed.pending, delivered=feed.delivered, resumes=feed.resumes, last_heard=feed.last_heard
        )

    def _reading(self) -> Feed | None:
        if not self._entered:
            raise RuntimeError("enter the watch first: async with store.watch(...) as watch")
        return None if self._closed else self._feed


def _inside_commit(feed: Feed, size: int) -> bool:
    """The batch of this size would end in the middle of an atomic commit."""
    if size == 0:
        return False
    last = feed.peek(size - 1)
    return last.transaction is not None and not last.commit
