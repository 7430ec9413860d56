"""Transactions in memory: nothing else runs between the checks and the last write."""

from __future__ import annotations

import secrets
from datetime import timedelta

from slipstream.checks import to_value, ttl_refusal
from slipstream.commits import Fence, Last, Queue, changed, check_all
from slipstream.model import KvEntry, VersionToken
from slipstream.stores.memory.record import Record, Write
from slipstream.stores.memory.server import BucketRef
from slipstream.stores.memory.stream import Stream
from slipstream.transactions import QueuedTransaction


class MemoryTransaction(QueuedTransaction):
    """Its outcome is never unknown."""

    def __init__(self, ref: BucketRef, *, fence: Fence | None = None) -> None:
        super().__init__(ref.name, fence=fence)
        self._ref = ref

    def _payload(self, key: str, value: bytes) -> bytes:
        payload = to_value(value)
        self._ref.find().stream.check_size(Write(key=key, value=payload))
        return payload

    def _ttl_refusal(self) -> str | None:
        return ttl_refusal(self._ref.find().stream.config)

    async def _read(self, key: str) -> tuple[Last, KvEntry | None]:
        record = (await self._ref.open()).stream.last(key)
        return last_of(record), None if record is None or record.absent else record.to_entry()

    async def _commit(self, queue: Queue) -> dict[str, VersionToken]:
        bucket = await self._ref.open()
        stream = bucket.stream
        check_conditions(queue, stream)
        writes = [
            Write(
                key=write.key,
                operation=write.operation,
                value=write.value,
                ttl=None if write.ttl is None else timedelta(seconds=write.ttl),
            )
            for write in queue.writes.values()
        ]
        revisions = stream.write_all(writes, transaction=secrets.token_hex(12))
        bucket.wake()
        return {write.key: VersionToken.from_u64(seq) for write, seq in zip(writes, revisions, strict=True)}


def last_of(record: Record | None) -> Last:
    return Last(0, absent=True) if record is None else Last(record.seq, absent=record.absent)


def check_conditions(queue: Queue, stream: Stream) -> None:
    """Raises the error of the first condition that does not hold."""
    for key, conditions in queue.conditions.items():
        check_all(key, conditions, last_of(stream.last(key)), store=queue.store)
    for prefix, since in queue.unchanged.items():
        newest = max((record.seq for record in stream.after(since) if record.key.startswith(prefix)), default=None)
        if newest is not None:
            raise changed(prefix, since, newest, store=queue.store)
