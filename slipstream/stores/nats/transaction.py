"""Transactions on NATS: atomic batches."""

from __future__ import annotations

from slipstream.commits import Fence, Last, Queue
from slipstream.errors import UnsupportedError
from slipstream.model import KvEntry, VersionToken
from slipstream.stores.nats.bucket import Bucket
from slipstream.stores.nats.commit import Commit
from slipstream.transactions import QueuedTransaction


class NatsTransaction(QueuedTransaction):
    """A transaction on one bucket."""

    def __init__(self, bucket: Bucket, *, fence: Fence | None = None) -> None:
        """Raises: UnsupportedError where the server or the bucket takes no atomic batches."""
        if bucket.abilities.transactions is not None:
            raise UnsupportedError(store=bucket.name, message=bucket.abilities.transactions)
        super().__init__(bucket.name, fence=fence)
        self._bucket = bucket

    def _payload(self, key: str, value: bytes) -> bytes:
        return self._bucket.payload(key, value)

    def _ttl_refusal(self) -> str | None:
        return self._bucket.abilities.ttl

    async def _read(self, key: str) -> tuple[Last, KvEntry | None]:
        bucket = self._bucket
        message = await bucket.last(key)
        if message is None:
            return Last(0, absent=True), None
        absent = await bucket.is_absent(message)
        return Last(message.sequence, absent), None if absent else bucket.entry(message)

    async def _commit(self, queue: Queue) -> dict[str, VersionToken]:
        return await Commit(self._bucket, queue, on_doubt=self._on_doubt).run()

    def _on_doubt(self, doubt: bool) -> None:
        self.outcome_unknown = doubt
