"""Many keys at once: batched direct gets, and writes under way in a bounded window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from slipstream.commits import Fence
from slipstream.errors import KvError, OperationTimeoutError
from slipstream.model import KvEntry, VersionToken, new_entry
from slipstream.stores.nats.api import KeysPage
from slipstream.stores.nats.bucket import LANE_FAILURES, Bucket
from slipstream.stores.nats.decode import MESSAGE_ID
from slipstream.stores.nats.error_map import ApiError
from slipstream.stores.nats.lane import Pending
from slipstream.stores.nats.pipeline import pipelined
from slipstream.stores.nats.publish import Publication, acknowledged, guard_headers

_SUBJECTS = 1024
"""The server answers 413 to a request for more (PROTOCOL.md, c)."""
_REQUESTS = 6
_WRITES = 1024
_WRITE_BYTES = 4 * 1024 * 1024
"""Under way at once: as many and as much as keeps the server busy, and no more memory than that."""


class _Write(NamedTuple):
    """A write that was sent, or could not be: then `posted` is None."""

    key: str
    payload: bytes
    posted: Pending | None
    message_id: str | None
    sent_at: float


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
                if bucket.own_writes and message.sequence < bucket.own_writes.get(key, 0):
                    stale.append(key)
                elif message.is_plain:
                    found[key] = new_entry(key, message.data, message.sequence, message.stamp)
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
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + bucket.op_timeout
        self._under_way: deque[_Write] = deque()
        self._bytes = 0
        self._done: list[tuple[str, VersionToken]] = []
        self.errors: dict[str, KvError] = {}

    @property
    def versions(self) -> dict[str, VersionToken]:
        return dict(self._done)

    @property
    def in_order(self) -> list[VersionToken]:
        return [version for _, version in self._done]

    async def run(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Write them; `versions` and `errors` tell what became of each key."""
        once = len(dict(items)) == len(items)
        left = iter(items)
        now = self._loop.time()
        try:
            for key, payload in left:
                while self._under_way and not (self._has_room(len(payload)) and (once or self._is_free(key))):
                    await self._finish_first()
                    now = self._loop.time()
                if now >= self._ends_at:  # what does not wait would be sent all the same
                    self._not_sent(key)
                    break
                self._send(key, payload, now)
            while self._under_way:
                await self._finish_first()
            for key, _ in left:
                self._not_sent(key)
        finally:
            for write in self._under_way:
                if write.posted is not None:
                    write.posted.close()

    def _has_room(self, size: int) -> bool:
        return len(self._under_way) < _WRITES and self._bytes + size <= _WRITE_BYTES

    def _is_free(self, key: str) -> bool:
        return all(write.key != key for write in self._under_way)

    def _send(self, key: str, payload: bytes, now: float) -> None:
        bucket = self._bucket
        subject, message_id = bucket.subject(key), bucket.message_id()
        headers = {} if message_id is None else {MESSAGE_ID: message_id}
        if self._fence is not None:
            headers |= guard_headers(bucket, subject, fence=self._fence)
        try:
            posted = bucket.lane.post(subject, payload, headers)
        except LANE_FAILURES:
            posted = None  # tried again, or told, when it is this one's turn
        self._under_way.append(_Write(key, payload, posted, message_id, now))
        self._bytes += len(payload)

    async def _finish_first(self) -> None:
        """Wait for the oldest. It stays under way until it is settled, so that a cancelled wait closes it."""
        write = self._under_way[0]
        revision = acknowledged(write.posted) if write.posted is not None else None
        if revision is None:
            revision = await self._settle(write)
        elif self._bucket.reads == "session":
            self._bucket.own_writes[write.key] = revision
        if revision is not None:
            self._done.append((write.key, VersionToken.from_u64(revision)))
        self._under_way.popleft()
        self._bytes -= len(write.payload)

    async def _settle(self, write: _Write) -> int | None:
        """Wait for the answer, and send it again where that can be; None with an entry in `errors`."""
        attempt = Publication(self._bucket, write.key, message_id=write.message_id, sent_at=write.sent_at)
        attempt.outcome_unknown = write.posted is not None
        try:
            if write.posted is None and self._loop.time() >= self._ends_at:
                raise TimeoutError
            async with asyncio.timeout_at(self._ends_at):
                return await attempt.send(write.payload, {}, fence=self._fence, posted=write.posted)
        except KvError as error:
            error.outcome_unknown = error.outcome_unknown or attempt.outcome_unknown
            self.errors[write.key] = error
        except TimeoutError:
            self.errors[write.key] = attempt.too_late()
        if write.posted is not None:
            write.posted.close()
        return None

    def _not_sent(self, key: str) -> None:
        self.errors[key] = OperationTimeoutError(
            store=self._bucket.name, key=key, message="not sent: an earlier write had no answer in time"
        )
