"""L1: one producer of connection events, any number of readers, none of which can hold it up.

The bound is a number of events for each reader, the overflow policy is DROP_OLD: what a slow reader still gets is how
things are now, and how much it missed. Closing is a latch beside the queues: what was emitted before is handed out.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace

from slipstream.model import ConnectionEvent, ConnectionState

LIMIT = 256
"""Events that wait for one reader. An outage brings one for every attempt: this is some minutes of it."""


class ConnectionEvents:
    """What becomes of one connection, told to everyone who asked."""

    def __init__(self) -> None:
        # Weakly: a reader that is dropped without a word is forgotten.
        self._readers: weakref.WeakSet[_Reader] = weakref.WeakSet()
        self._last: ConnectionEvent | None = None
        self._closed = False

    def emit(self, event: ConnectionEvent) -> None:
        """Tell everyone; does nothing once closed."""
        if not self._closed:
            self._last = event
            for reader in self._readers:
                reader.add(event)

    def close(self) -> None:
        """Emit CLOSED and let the readers end after it; safe to repeat."""
        self.emit(ConnectionEvent(state=ConnectionState.CLOSED))
        self._closed = True
        for reader in self._readers:
            reader.end()

    def subscribe(self) -> AsyncIterator[ConnectionEvent]:
        """The last event, then those to come."""
        reader = _Reader()
        if self._last is not None:
            reader.add(self._last)
        if self._closed:
            reader.end()
        else:
            self._readers.add(reader)
        return reader


class _Reader(AsyncIterator[ConnectionEvent]):
    def __init__(self) -> None:
        self._waiting: deque[ConnectionEvent] = deque()
        self._missed = 0
        self._ended = False
        self._moved = asyncio.Event()

    def add(self, event: ConnectionEvent) -> None:
        if len(self._waiting) == LIMIT:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append(event)
        self._moved.set()

    def end(self) -> None:
        self._ended = True
        self._moved.set()

    async def __anext__(self) -> ConnectionEvent:
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._moved.clear()
            await self._moved.wait()
        event, missed = self._waiting.popleft(), self._missed
        self._missed = 0
        return replace(event, missed=missed) if missed else event
