"""A writer whose every write the server refuses once a key has moved on."""

from __future__ import annotations

from slipstream.commits import FENCED_TWICE, UNFENCED_PURGE, Condition, Fence, Queue, QueuedWrite
from slipstream.errors import KvError, UnsupportedError
from slipstream.interfaces import KvWriter, Ttl
from slipstream.keys import check_key
from slipstream.model import Operation, VersionToken
from slipstream.stores.nats.bucket import Bucket
from slipstream.stores.nats.commit import Commit
from slipstream.stores.nats.publish import publication
from slipstream.stores.nats.writer import NatsWriter


class FencedWriter(NatsWriter):
    """A message carries one guard. A write without a condition of its own carries the fence and is as quick as ever.

    One with a condition needs two guards: it is a small atomic batch, and watches show it as a commit of its own. If
    the condition is the fence itself, one guard is enough.
    """

    def __init__(self, bucket: Bucket, fence: Fence) -> None:
        """Raises: UnsupportedError where the server ignores guards on other keys."""
        if bucket.abilities.fencing is not None:
            raise UnsupportedError(store=bucket.name, key=fence.key, message=bucket.abilities.fencing)
        super().__init__(bucket)
        self._fence: Fence = fence

    async def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        payload, _ = self._checked(key, value, ttl)
        write = QueuedWrite(key=key, value=payload, ttl=self._seconds(key, ttl))
        return await self._commit(write, Condition(revision=None, wanted_by="create"))

    async def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> VersionToken:
        payload, headers = self._checked(key, value, ttl)
        revision = self._expected(key, expected)
        if self._is_fence(key, revision):
            return VersionToken.from_u64(await self._write(key, payload, headers))
        write = QueuedWrite(key=key, value=payload, ttl=self._seconds(key, ttl))
        return await self._commit(write, Condition(revision=revision))

    async def delete_with_version(self, key: str, expected: VersionToken) -> bool:
        await self.update(key, b"", expected)
        return True

    async def touch(self, key: str, expected: VersionToken, *, ttl: Ttl) -> VersionToken:
        check_key(key, store=self._bucket.name)
        if ttl is None:
            raise ValueError("touch gives a new ttl: None is none")
        self._ttl(key, ttl)
        async with publication(self._bucket, key) as attempt:
            value = await self._value_at(key, self._expected(key, expected))
            attempt.outcome_unknown = True  # if the time is up from here on
            try:
                return await self.update(key, value, expected, ttl=ttl)
            except KvError:
                attempt.outcome_unknown = False  # the error has its own word on it
                raise

    async def purge(self, key: str, *, expected: VersionToken | None = None) -> None:
        check_key(key, store=self._bucket.name)
        revision = None if expected is None else self._expected(key, expected)
        if revision is None or self._is_fence(key, revision):
            await super().purge(key)
        else:
            await self._commit(QueuedWrite(key=key, operation=Operation.PURGE), Condition(revision=revision))

    async def purge_deletes(self, older_than: Ttl = 0) -> int:
        raise UnsupportedError(store=self._bucket.name, message=UNFENCED_PURGE)

    def fenced(self, key: str, version: VersionToken) -> KvWriter:
        raise UnsupportedError(store=self._bucket.name, key=key, message=FENCED_TWICE)

    def _is_fence(self, key: str, revision: int) -> bool:
        return key == self._fence.key and revision == self._fence.revision

    async def _commit(self, write: QueuedWrite, condition: Condition) -> VersionToken:
        bucket = self._bucket
        if bucket.abilities.transactions is not None:
            raise UnsupportedError(
                store=bucket.name,
                key=write.key,
                message=f"a fenced write with a condition of its own is a transaction: {bucket.abilities.transactions}",
            )
        queue = Queue(bucket.name, fence=self._fence)
        queue.write(write, condition)
        return (await Commit(bucket, queue).run())[write.key]
