"""L1: a bounded hand-off from one producer to one consumer. Nothing in it is lost by a cancelled `get`.

The bound is in bytes, the overflow policy is ERROR: `offer` refuses, and the producer decides (a watch drops its
consumer and resumes after the last accepted item once there is room). Closing is a latch beside the queue, never an
item in it: what was accepted before is still handed out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class ChannelClosed(Exception):
    """The channel was closed without an error and everything in it has been handed out."""


class Channel(Generic[T]):
    """A FIFO of items with sizes, for one consumer at a time."""

    def __init__(self, *, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError("max_bytes is at least 1")
        self._max_bytes = max_bytes
        # In chunks, as they were offered: their bytes count until the last item of a chunk is taken.
        self._chunks: deque[tuple[list[T], int]] = deque()
        self._first = 0
        self._count = 0
        self._bytes = 0
        self._closed = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 0

    def __len__(self) -> int:
        return self._count

    @property
    def pending_bytes(self) -> int:
        return self._bytes

    @property
    def closed(self) -> bool:
        """No more is accepted; there may be items left to get."""
        return self._closed

    @property
    def error(self) -> BaseException | None:
        """What the channel was closed with."""
        return self._error

    def offer(self, item: T, size: int) -> bool:
        """Queue the item if there is room; True if it was. One item larger than the bound passes an empty channel."""
        return self.offer_many([item], size)

    def offer_many(self, items: list[T], size: int) -> bool:
        """As `offer`, for several with the sum of their sizes; all of them or none. The list is the channel's then."""
        if self._closed or (self._count and self._bytes + size > self._max_bytes):
            return False
        if items:
            self._chunks.append((items, size))
            self._count += len(items)
            self._bytes += size
        if self._waiter is not None:
            self._wake()
        return True

    def close(self, error: BaseException | None = None) -> None:
        """Accept no more. The consumer gets what is queued, then `error` (None: ChannelClosed). The first call wins."""
        if not self._closed:
            self._closed = True
            self._error = error
            self._wake()

    def get_nowait(self) -> T | None:
        """The next item, or None if there is none now. Raises as `get` once closed and empty."""
        if self._count:
            items, size = self._chunks[0]
            item = items[self._first]
            self._first += 1
            self._count -= 1
            if self._first == len(items):
                self._drop_first(size)
            return item
        if self._closed:
            raise self._error if self._error is not None else ChannelClosed
        return None

    def take_nowait(self, limit: int) -> list[T]:
        """Up to `limit` items at once, none if there is none now. Raises as `get` once closed and empty."""
        if not self._count and self._closed:
            raise self._error if self._error is not None else ChannelClosed
        taken: list[T] = []
        while self._count and len(taken) < limit:
            items, size = self._chunks[0]
            part = items[self._first : self._first + limit - len(taken)]
            self._first += len(part)
            self._count -= len(part)
            if self._first == len(items):
                self._drop_first(size)
            taken += part
        return taken

    def peek(self, index: int = 0) -> T:
        """An item without taking it, 0 being the next. Raises: IndexError."""
        index += self._first
        for items, _ in self._chunks:
            if index < len(items):
                return items[index]
            index -= len(items)
        raise IndexError("so many are not queued")

    async def get(self) -> T:
        """Wait for the next item and take it. Cancelled, it has taken nothing.

        Raises: ChannelClosed, or the error that the channel was closed with, after the last item;
            RuntimeError if another task is already waiting.
        """
        await self.wait()
        item = self.get_nowait()
        assert item is not None  # wait() returned, and taking is not interleaved with anything
        return item

    async def wait(self, *, more_than: int = 0) -> None:
        """Return once more than so many items are queued or the channel is closed; takes nothing."""
        while self._count <= more_than and not self._closed:
            if self._waiter is not None:
                raise RuntimeError("another task is already waiting on this channel")
            self._waiter = asyncio.get_running_loop().create_future()
            self._wanted = more_than
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _drop_first(self, size: int) -> None:
        self._chunks.popleft()
        self._first = 0
        self._bytes -= size

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and (self._closed or self._count > self._wanted) and not waiter.done():
            waiter.set_result(None)
