"""Many keys at once: batched direct gets, and writes under way in a bounded window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from slipstream.commits import Fence
from slipstream.errors import KvError, OperationTimeoutError
from slipstream.model import KvEntry, VersionToken
from slipstream.stores.nats.api import KeysPage
from slipstream.stores.nats.bucket import LANE_FAILURES, Bucket
from slipstream.stores.nats.error_map import ApiError
from slipstream.stores.nats.lane import Pending
from slipstream.stores.nats.pipeline import pipelined
from slipstream.stores.nats.publish import Publication

_SUBJECTS = 1024
"""The server answers 413 to a request for more (PROTOCOL.md, c)."""
_REQUESTS = 6
_WRITES = 1024
_WRITE_BYTES = 4 * 1024 * 1024
"""Under way at once: as many and as much as keeps the server busy, and no more memory than that."""


class _Write(NamedTuple):
    key: str
    payload: bytes
    attempt: Publication
    posted: Pending | None


async def read_many(bucket: Bucket, keys: Sequence[str], found: dict[str, KvEntry]) -> list[str]:
    """Put the records of the keys into `found`; the keys that have to be read singly, for whatever reason.

    Raises: what `Bucket.read` raises.
    """
    parts = [keys[start : start + _SUBJECTS] for start in range(0, len(keys), _SUBJECTS)]

    async def read(part: Sequence[str]) -> list[str]:
        left = list(part)
        while left:
            subjects = [bucket.subject(key) for key in left]
            try:
                page = await bucket.read(partial(_page, bucket, subjects))
            except _NotBatchedError:
                return left
            stale: list[str] = []
            seen: set[str] = set()
            for message in page.messages:
                key = bucket.key(message.subject)
                seen.add(key)
                if message.sequence < bucket.own_writes.get(key, 0):
                    stale.append(key)
                elif not await bucket.has_expired(message.expires) and (entry := bucket.entry(message)) is not None:
                    found[key] = entry
            left = [key for key in left if key not in seen]
            if page.whole or not seen:
                return stale + [key for key in left if key in bucket.own_writes]
            if stale:
                return stale + left
        return []

    return [key for left in await pipelined(parts, read, window=_REQUESTS) for key in left]


class _NotBatchedError(Exception):
    """The server does not answer such a request: another one than at the start, after a reconnect."""


async def _page(bucket: Bucket, subjects: Sequence[str]) -> KeysPage:
    try:
        return await bucket.api.last_of_many(bucket.stream, subjects)
    except ApiError as error:
        if error.code in (408, 413):
            raise _NotBatchedError from None
        raise


class BulkWrite:
    """Writes under way in a bounded window, in the order of the items and without a task for each.

    All of them have `op_timeout` together; after that nothing more is sent. A key that comes twice is written in order:
    the second one is sent when the first is done.
    """

    def __init__(self, bucket: Bucket, *, fence: Fence | None = None) -> None:
        self._bucket = bucket
        self._fence = fence
        self._ends_at = asyncio.get_running_loop().time() + bucket.op_timeout
        self._under_way: deque[_Write] = deque()
        self._bytes = 0
        self._keys: set[str] = set()
        self.versions: dict[str, VersionToken] = {}
        self.errors: dict[str, KvError] = {}
        self.in_order: list[VersionToken] = []

    async def run(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Write them; `versions` and `errors` tell what became of each key."""
        left = iter(items)
        too_late = False
        try:
            for key, payload in left:
                while self._under_way and not self._has_room(key, len(payload)) and not too_late:
                    too_late = await self._finish_first()
                # What does not wait would be sent also when the time is up.
                if too_late or asyncio.get_running_loop().time() >= self._ends_at:
                    self._not_sent(key)
                    break
                self._send(key, payload)
            while self._under_way:
                await self._finish_first()
            for key, _ in left:
                self._not_sent(key)
        finally:
            for write in self._under_way:
                if write.posted is not None:
                    write.posted.close()

    def _has_room(self, key: str, size: int) -> bool:
        return len(self._under_way) < _WRITES and self._bytes + size <= _WRITE_BYTES and key not in self._keys

    def _send(self, key: str, payload: bytes) -> None:
        attempt = Publication(self._bucket, key)
        try:
            posted = attempt.post(payload, fence=self._fence)
        except LANE_FAILURES:
            posted = None  # tried again, or told, when it is this one's turn
        self._under_way.append(_Write(key, payload, attempt, posted))
        self._bytes += len(payload)
        self._keys.add(key)

    async def _finish_first(self) -> bool:
        """Wait for the oldest; True if it took too long."""
        write = self._under_way[0]
        key = write.key
        try:
            revision = write.attempt.acknowledged(write.posted) if write.posted is not None else None
            if revision is None:
                if write.posted is None and asyncio.get_running_loop().time() >= self._ends_at:
                    raise TimeoutError
                async with asyncio.timeout_at(self._ends_at):
                    revision = await write.attempt.send(write.payload, {}, fence=self._fence, posted=write.posted)
        except KvError as error:
            error.outcome_unknown = error.outcome_unknown or write.attempt.outcome_unknown
            self.errors[key] = error
        except TimeoutError:
            self.errors[key] = write.attempt.too_late()
        else:
            version = self.versions[key] = VersionToken.from_u64(revision)
            self.in_order.append(version)
        self._under_way.popleft()
        self._bytes -= len(write.payload)
        self._keys.discard(key)
        if write.posted is not None:
            write.posted.close()
        return isinstance(self.errors.get(key), OperationTimeoutError)

    def _not_sent(self, key: str) -> None:
        self.errors[key] = OperationTimeoutError(
            store=self._bucket.name, key=key, message="not sent: an earlier write had no answer in time"
        )
