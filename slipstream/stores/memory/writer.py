"""Writing to a bucket in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

from slipstream.checks import to_age, to_revision, to_ttl, to_value, ttl_refusal
from slipstream.commits import FENCED_TWICE, UNFENCED_PURGE, Fence, bulk_error
from slipstream.errors import KvError, RevisionMismatchError, UnsupportedError
from slipstream.interfaces import KvWriter, T, Transaction, Ttl
from slipstream.keys import check_key
from slipstream.model import Operation, VersionToken
from slipstream.stores.memory.bucket import Bucket
from slipstream.stores.memory.record import Write
from slipstream.stores.memory.server import BucketRef
from slipstream.stores.memory.transaction import MemoryTransaction, last_of
from slipstream.transactions import retried


class MemoryWriter(KvWriter):
    """No outcome is ever unknown here: a write that was cancelled has not been done."""

    _fence: Fence | None = None

    def __init__(self, ref: BucketRef) -> None:
        self._ref = ref

    async def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        return await self._write(Write(key=self._key(key), value=to_value(value)), ttl)

    async def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        return await self._write(Write(key=self._key(key), value=to_value(value), only_absent=True), ttl)

    async def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> VersionToken:
        return await self._write(
            Write(key=self._key(key), value=to_value(value), expected=self._revision(expected, key)), ttl
        )

    async def touch(self, key: str, expected: VersionToken, *, ttl: Ttl) -> VersionToken:
        if ttl is None:
            raise ValueError("touch gives a new ttl: None is none")
        write = Write(key=self._key(key), expected=self._revision(expected, key))
        bucket = await self._ref.open()
        life = self._life(bucket, ttl, key)
        # Nothing can come between reading the value and writing it again: there is no await.
        last = bucket.stream.last(key)
        if last is None or last.absent:
            raise RevisionMismatchError(
                store=self._ref.name, key=key, expected=expected, actual=VersionToken.from_u64(last.seq if last else 0)
            )
        return self._store(bucket, replace(write, value=last.value, ttl=life))

    async def delete(self, key: str) -> bool:
        await self._write(Write(key=self._key(key), operation=Operation.DELETE))
        return True

    async def delete_with_version(self, key: str, expected: VersionToken) -> bool:
        await self._write(Write(key=self._key(key), expected=self._revision(expected, key)))
        return True

    async def purge(self, key: str, *, expected: VersionToken | None = None) -> None:
        revision = None if expected is None else self._revision(expected, key)
        await self._write(Write(key=self._key(key), operation=Operation.PURGE, expected=revision))

    async def purge_deletes(self, older_than: Ttl = 0) -> int:
        age = to_age(older_than)
        if self._fence is not None:
            raise UnsupportedError(store=self._ref.name, message=UNFENCED_PURGE)
        bucket = await self._ref.open()
        removed = bucket.stream.purge_deletes(age)
        bucket.wake()
        return removed

    async def put_many(self, items: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> list[VersionToken]:
        pairs = items.items() if isinstance(items, Mapping) else items
        writes = [Write(key=self._key(key), value=to_value(value)) for key, value in pairs]
        bucket = await self._ref.open()
        for write in writes:
            bucket.stream.check_size(write)
        versions: list[VersionToken] = []
        done: dict[str, VersionToken] = {}
        errors: dict[str, KvError] = {}
        for write in writes:
            try:
                self._check_fence(bucket)
                done[write.key] = VersionToken.from_u64(bucket.stream.write(write))
            except KvError as error:
                errors[write.key] = error
            else:
                versions.append(done[write.key])
        bucket.wake()
        if errors:
            raise bulk_error(store=self._ref.name, versions=done, errors=errors)
        return versions

    def transaction(self) -> Transaction:
        return self._begin()

    async def atomically(self, fn: Callable[[Transaction], Awaitable[T]]) -> T:
        return await retried(self._begin, fn, store=self._ref.name, timeout=self._ref.session.op_timeout)

    def fenced(self, key: str, version: VersionToken) -> KvWriter:
        if self._fence is not None:
            raise UnsupportedError(store=self._ref.name, key=key, message=FENCED_TWICE)
        return FencedMemoryWriter(self._ref, Fence(key=self._key(key), revision=self._revision(version, key)))

    def _begin(self) -> MemoryTransaction:
        return MemoryTransaction(self._ref, fence=self._fence)

    async def _write(self, write: Write, ttl: Ttl | None = None) -> VersionToken:
        bucket = await self._ref.open()
        return self._store(bucket, replace(write, ttl=self._life(bucket, ttl, write.key)))

    def _store(self, bucket: Bucket, write: Write) -> VersionToken:
        self._check_fence(bucket)
        seq = bucket.stream.write(write)
        bucket.wake()
        return VersionToken.from_u64(seq)

    def _life(self, bucket: Bucket, ttl: Ttl | None, key: str) -> timedelta | None:
        seconds = to_ttl(ttl, refusal=ttl_refusal(bucket.stream.config), store=self._ref.name, key=key)
        return None if seconds is None else timedelta(seconds=seconds)

    def _key(self, key: str) -> str:
        return check_key(key, store=self._ref.name)

    def _revision(self, version: VersionToken, key: str) -> int:
        return to_revision(version, store=self._ref.name, key=key)

    def _check_fence(self, bucket: Bucket) -> None:
        if self._fence is not None:
            last = last_of(bucket.stream.last(self._fence.key))
            self._fence.condition.check(self._fence.key, last, store=self._ref.name)


class FencedMemoryWriter(MemoryWriter):
    """Every write is refused once the key of the fence has moved on."""

    def __init__(self, ref: BucketRef, fence: Fence) -> None:
        super().__init__(ref)
        self._fence = fence
