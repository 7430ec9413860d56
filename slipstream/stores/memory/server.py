"""Buckets by name, and the way of one connection to one of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from slipstream.errors import NotConnectedError, StoreNotFoundError
from slipstream.model import StoreConfig
from slipstream.stores.memory.bucket import Bucket, Clock, utc_now

_MICROSECOND = timedelta(microseconds=1)


class MemoryServer:
    """What the connections of one `memory://name` share."""

    def __init__(self, *, clock: Clock = utc_now) -> None:
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}
        self._last_created = datetime.min.replace(tzinfo=UTC)

    def find(self, name: str) -> Bucket | None:
        return self._buckets.get(name)

    def find_or_create(self, config: StoreConfig) -> Bucket:
        """The bucket of that name; made as the configuration says if there is none."""
        bucket = self._buckets.get(config.name)
        if bucket is None:
            # Two lives of a bucket never share their time of birth, whatever the clock says.
            self._last_created = max(self._clock(), self._last_created + _MICROSECOND)
            bucket = Bucket(config, created=self._last_created, clock=self._clock)
            self._buckets[config.name] = bucket
        return bucket

    def delete(self, name: str) -> None:
        """Raises: StoreNotFoundError."""
        bucket = self._buckets.pop(name, None)
        if bucket is None:
            raise StoreNotFoundError(store=name)
        bucket.wake()

    def names(self) -> list[str]:
        return sorted(self._buckets)

    def wake_all(self) -> None:
        """Let everyone who waits for a bucket look again."""
        for bucket in self._buckets.values():
            bucket.wake()


_shared: dict[str, MemoryServer] = {}


def shared_server(name: str) -> MemoryServer:
    """The server that every connection of the process to `memory://name` shares, for as long as the process lives."""
    return _shared.setdefault(name, MemoryServer())


class Session:
    """The life of one connection, as every handle that it gave out sees it."""

    def __init__(self, server: MemoryServer, *, op_timeout: float) -> None:
        self.server = server
        self.op_timeout = op_timeout
        self._opened = False
        self._closed = False

    @property
    def opened(self) -> bool:
        """It has been connected once."""
        return self._opened

    @property
    def healthy(self) -> bool:
        return self._opened and not self._closed

    def check(self, store: str | None = None) -> None:
        """Raises: NotConnectedError before `open` and after `close`."""
        if self._closed:
            raise NotConnectedError(store=store, message="the connection has been shut down")
        if not self._opened:
            raise NotConnectedError(store=store, message="not connected: connect() comes first")

    def open(self) -> None:
        """Raises: NotConnectedError after `close`."""
        self._opened = True
        self.check()

    def close(self) -> None:
        self._closed = True
        self.server.wake_all()


class BucketRef:
    """The bucket of that name, whichever life of it there is, through one connection."""

    def __init__(self, session: Session, wanted: StoreConfig) -> None:
        self.session = session
        self.name = wanted.name
        self.wanted = wanted

    def find(self) -> Bucket:
        """The bucket as of now. Raises: NotConnectedError, StoreNotFoundError."""
        self.session.check(self.name)
        bucket = self.session.server.find(self.name)
        if bucket is None:
            raise StoreNotFoundError(store=self.name)
        bucket.refresh()
        return bucket

    async def open(self) -> Bucket:
        """As `find`, after letting other tasks run.

        Each operation begins with it: without a round trip to wait for, a loop of operations would otherwise starve
        every other task, timeouts and its own cancellation included. Cancelled here, nothing has been done.
        """
        await asyncio.sleep(0)
        return self.find()
