"""Reading from a bucket in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from slipstream.checks import to_revision
from slipstream.errors import OperationTimeoutError, StoreNotFoundError
from slipstream.interfaces import KvReader
from slipstream.keys import check_key, check_prefix
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken
from slipstream.stores.memory.bucket import Bucket
from slipstream.stores.memory.follower import Follower
from slipstream.stores.memory.server import BucketRef

_STEPS_PER_TURN = 64


class MemoryReader(KvReader):
    """Every read is of this moment: `reads=` makes no difference here."""

    def __init__(self, ref: BucketRef) -> None:
        self._ref = ref

    async def get(self, key: str, *, min_version: VersionToken | None = None) -> KvEntry | None:
        check_key(key, store=self._ref.name)
        bucket = await self._ref.open() if min_version is None else await self._reached(key, min_version)
        record = bucket.stream.last(key)
        return None if record is None or record.absent else record.to_entry()

    async def entry(self, key: str) -> KvEntry | None:
        check_key(key, store=self._ref.name)
        record = (await self._ref.open()).stream.last(key)
        return None if record is None or record.operation is not Operation.PUT else record.to_entry()

    async def get_many(self, keys: Iterable[str]) -> dict[str, KvEntry]:
        wanted = [check_key(key, store=self._ref.name) for key in keys]
        stream = (await self._ref.open()).stream
        records = [stream.last(key) for key in wanted]
        return {record.key: record.to_entry() for record in records if record is not None and not record.absent}

    async def keys(self, prefix: str = "") -> list[str]:
        check_prefix(prefix, store=self._ref.name)
        return sorted(record.key for record in (await self._ref.open()).stream.live(prefix))

    async def scan(self, prefix: str = "") -> list[KvEntry]:
        check_prefix(prefix, store=self._ref.name)
        records = (await self._ref.open()).stream.live(prefix)
        return sorted((record.to_entry() for record in records), key=lambda entry: entry.key)

    def iter_scan(self, prefix: str = "") -> AsyncIterator[KvEntry]:
        return self._iter_scan(check_prefix(prefix, store=self._ref.name))

    async def _iter_scan(self, prefix: str) -> AsyncIterator[KvEntry]:
        bucket = await self._ref.open()
        follower = Follower(bucket.stream, (prefix,), gaps=False)
        steps = 0
        while not follower.hydrated:
            record = follower.take()
            assert record is not None  # not hydrated: something is left
            if not record.absent:
                yield record.to_entry()
            steps += 1
            current = await self._ref.open() if steps % _STEPS_PER_TURN == 0 else self._ref.find()
            if current is not bucket:
                raise StoreNotFoundError(store=self._ref.name, message="the bucket was deleted and made again")

    async def history(self, key: str) -> list[KvUpdate]:
        check_key(key, store=self._ref.name)
        return [record.to_update() for record in (await self._ref.open()).stream.history(key)]

    async def revision(self, key: str, version: VersionToken) -> KvUpdate | None:
        check_key(key, store=self._ref.name)
        revision = to_revision(version, store=self._ref.name, key=key)
        record = (await self._ref.open()).stream.record(revision)
        return None if record is None or record.key != key else record.to_update()

    async def _reached(self, key: str, version: VersionToken) -> Bucket:
        revision = to_revision(version, store=self._ref.name, key=key)
        try:
            async with asyncio.timeout(self._ref.session.op_timeout):
                bucket = await self._ref.open()
                while bucket.stream.last_seq < revision:
                    await bucket.changed()
                    bucket = self._ref.find()
                return bucket
        except TimeoutError:
            raise OperationTimeoutError(
                store=self._ref.name, key=key, message=f"revision {revision} did not arrive in time"
            ) from None
