"""Watching a bucket in memory: a watch pulls from the log, so that a slow reader holds nothing but its position."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from types import TracebackType
from typing import Self

from slipstream.errors import CursorExpiredError, StoreNotFoundError, WatchError
from slipstream.interfaces import KvWatcher, Watch
from slipstream.keys import check_prefix
from slipstream.model import KvUpdate, WatchCursor, WatchStatistics
from slipstream.resume import cursor_expiry
from slipstream.stores.memory.bucket import Bucket
from slipstream.stores.memory.follower import Follower
from slipstream.stores.memory.record import Record
from slipstream.stores.memory.server import BucketRef
from slipstream.stores.memory.stream import Stream

_UPDATES_PER_TURN = 64


class MemoryWatcher(KvWatcher):
    def __init__(self, ref: BucketRef) -> None:
        self._ref = ref

    def watch(self, prefix: str | Iterable[str] = "", *, cursor: WatchCursor | None = None) -> Watch:
        prefixes = [prefix] if isinstance(prefix, str) else prefix
        checked = tuple(check_prefix(each, store=self._ref.name) for each in prefixes)
        return MemoryWatch(self._ref, checked, WatchCursor.none() if cursor is None else cursor)


class MemoryWatch(Watch):
    """A deleted bucket is handed out to its end before StoreNotFoundError; a shutdown ends the watch at once."""

    def __init__(self, ref: BucketRef, prefixes: tuple[str, ...], cursor: WatchCursor) -> None:
        self._ref = ref
        self._prefixes = prefixes
        self._cursor = cursor
        self._following: tuple[Bucket, Follower] | None = None
        self._closed = False
        self._hydrated = False
        self._delivered = 0

    async def __aenter__(self) -> Self:
        if self._following is not None or self._closed:
            raise RuntimeError("a watch is entered once: make another one")
        bucket = await self._ref.open()
        self._refuse_expired(bucket.stream)
        self._following = bucket, Follower(bucket.stream, self._prefixes, after=self._cursor.revision)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[KvUpdate]:
        return self

    async def __anext__(self) -> KvUpdate:
        # A long backlog is handed out without waiting for anything: let others run now and then.
        if self._delivered % _UPDATES_PER_TURN == _UPDATES_PER_TURN - 1:
            await asyncio.sleep(0)
        await self._until_ready()
        return self._take()

    def batches(self, max_items: int = 1000, max_wait: float = 0.01) -> AsyncIterator[list[KvUpdate]]:
        if max_items < 1:
            raise ValueError(f"max_items is at least 1, not {max_items}")
        if not max_wait >= 0:  # NaN too
            raise ValueError(f"max_wait is not negative, but {max_wait}")
        return _Batches(self, max_items, max_wait)

    @property
    def cursor(self) -> WatchCursor:
        if self._following is None:
            return self._cursor
        bucket, follower = self._following
        outstanding = follower.peek() is not None
        if not self._delivered and (outstanding or bucket.stream.last_seq == follower.start):
            return self._cursor
        return WatchCursor(revision=follower.position, incarnation=bucket.stream.incarnation)

    @property
    def hydrated(self) -> bool:
        return self._hydrated or (self._following is not None and self._following[1].hydrated)

    async def wait_hydrated(self) -> None:
        while not self.hydrated:
            if self._closed:
                raise WatchError(store=self._ref.name, message="the watch was closed before its initial state was over")
            bucket, follower = self._entered()
            self._refuse_other_bucket()
            follower.check()
            await bucket.changed()

    def statistics(self) -> WatchStatistics:
        """`pending` is exact and counted when asked for; there is nothing between the log and here to hear from."""
        pending = 0 if self._following is None else sum(1 for _ in self._following[1].pending())
        return WatchStatistics(pending=pending, delivered=self._delivered, resumes=0, last_heard=0.0)

    async def aclose(self) -> None:
        if self._following is not None:
            self._cursor, self._hydrated = self.cursor, self.hydrated
            bucket, _ = self._following
            self._following = None
            bucket.wake()
        self._closed = True

    async def _next_batch(self, max_items: int, max_wait: float) -> list[KvUpdate]:
        # Nothing is taken before there is no more to wait for, so that being cancelled loses nothing.
        await asyncio.sleep(0)
        await self._until_ready()
        await self._gather(max_items, max_wait)
        await self._until_ready()  # what was there may have expired
        _, follower = self._entered()
        batch = [self._take()]
        while (record := follower.peek()) is not None:
            if len(batch) >= max_items and not _is_same_commit(batch[-1], record):
                break
            batch.append(self._take())
        return batch

    async def _gather(self, count: int, max_wait: float) -> None:
        """Return once so many updates can be taken, after `max_wait` seconds, or if no more can come."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max_wait
        seen: int | None = None
        while self._is_ready():
            bucket, follower = self._entered()
            for record in islice(follower.pending(seen), count):
                seen = record.seq
                count -= 1
            remaining = deadline - loop.time()
            if count == 0 or remaining <= 0 or not self._is_current(bucket):
                return
            await bucket.changed(remaining)

    async def _until_ready(self) -> None:
        """Return once there is something to take. Raises what ended the watch; StopAsyncIteration after `aclose`."""
        while not self._is_ready():
            bucket, _ = self._entered()
            await bucket.changed()

    def _is_ready(self) -> bool:
        if self._closed or (self._following is not None and not self._prefixes):
            raise StopAsyncIteration
        bucket, follower = self._entered()
        self._ref.session.check(self._ref.name)
        if self._is_current(bucket):
            bucket.refresh()
        follower.check()
        if follower.peek() is not None:
            return True
        self._refuse_other_bucket()
        return False

    def _take(self) -> KvUpdate:
        bucket, follower = self._entered()
        record = follower.take()
        assert record is not None  # only called when ready
        self._delivered += 1
        if not self._hydrated and follower.hydrated:
            self._hydrated = True
            bucket.wake()  # for wait_hydrated
        return record.to_update()

    def _entered(self) -> tuple[Bucket, Follower]:
        if self._following is None:
            raise RuntimeError("enter the watch first: async with store.watch(...) as watch")
        return self._following

    def _is_current(self, bucket: Bucket) -> bool:
        return self._ref.session.server.find(self._ref.name) is bucket

    def _refuse_expired(self, stream: Stream) -> None:
        revision = self._cursor.revision
        if revision is None:
            return
        reason = cursor_expiry(
            self._cursor,
            first_revision=stream.first_seq,
            last_revision=stream.last_seq,
            incarnation=stream.incarnation,
        )
        if reason is None and revision < stream.lost_seq:
            reason = "compacted"  # behind a hole that nothing newer has filled
        if reason is not None:
            raise CursorExpiredError(
                store=self._ref.name, cursor=self._cursor, first_revision=stream.first_seq, reason=reason
            )

    def _refuse_other_bucket(self) -> None:
        bucket, _ = self._entered()
        try:
            current = self._ref.find()
        except StoreNotFoundError:
            raise StoreNotFoundError(store=self._ref.name, message="the bucket was deleted") from None
        if current is not bucket:
            raise CursorExpiredError(
                store=self._ref.name,
                cursor=self.cursor,
                first_revision=current.stream.first_seq,
                reason="recreated",
            )


class _Batches(AsyncIterator[list[KvUpdate]]):
    """No generator: a cancelled one would be finished, and this can be asked again."""

    def __init__(self, watch: MemoryWatch, max_items: int, max_wait: float) -> None:
        self._watch = watch
        self._max_items = max_items
        self._max_wait = max_wait

    async def __anext__(self) -> list[KvUpdate]:
        return await self._watch._next_batch(self._max_items, self._max_wait)


def _is_same_commit(update: KvUpdate, record: Record) -> bool:
    return update.transaction is not None and update.transaction == record.transaction and not update.commit
