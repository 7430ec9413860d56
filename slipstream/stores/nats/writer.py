"""Writes on NATS. Each ends done, refused or unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from slipstream.checks import to_age, to_revision, to_ttl
from slipstream.commits import Fence, bulk_error
from slipstream.errors import AlreadyExistsError, KvError, RevisionMismatchError
from slipstream.interfaces import KvWriter, Transaction, Ttl
from slipstream.keys import check_key
from slipstream.model import KvUpdate, Operation, VersionToken
from slipstream.stores.nats.bucket import Bucket, deadline
from slipstream.stores.nats.bulk import BulkWrite
from slipstream.stores.nats.decode import OPERATION, ROLLUP, TTL
from slipstream.stores.nats.pipeline import pipelined
from slipstream.stores.nats.publish import Publication, publication
from slipstream.stores.nats.scan import last_updates
from slipstream.stores.nats.transaction import NatsTransaction
from slipstream.transactions import retried

T = TypeVar("T")
_PURGES = 64


class NatsWriter(KvWriter):
    """The writing role on one bucket."""

    _fence: Fence | None = None

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        payload, headers = self._checked(key, value, ttl)
        return VersionToken.from_u64(await self._write(key, payload, headers))

    async def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        payload, headers = self._checked(key, value, ttl)
        bucket = self._bucket
        expected = 0
        async with publication(bucket, key) as attempt:
            while True:
                try:
                    return VersionToken.from_u64(await attempt.send(payload, headers, expected=expected))
                except RevisionMismatchError as error:
                    if error.outcome_unknown:
                        raise
                    # A tombstone or an expired value leaves a revision behind: replace exactly that one.
                    last = await bucket.last(key)
                    if last is None:
                        expected = 0
                        continue
                    if not await bucket.is_absent(last):
                        raise AlreadyExistsError(store=bucket.name, key=key) from None
                    expected = last.sequence

    async def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> VersionToken:
        payload, headers = self._checked(key, value, ttl)
        return VersionToken.from_u64(await self._write(key, payload, headers, expected=self._expected(key, expected)))

    async def touch(self, key: str, expected: VersionToken, *, ttl: Ttl) -> VersionToken:
        if ttl is None:
            raise ValueError("touch gives a new ttl: None is none")
        bucket = self._bucket
        check_key(key, store=bucket.name)
        headers = self._ttl(key, ttl)
        revision = self._expected(key, expected)
        async with publication(bucket, key) as attempt:
            value = await self._value_at(key, revision)
            return VersionToken.from_u64(await attempt.send(value, headers, expected=revision))

    async def delete(self, key: str) -> bool:
        check_key(key, store=self._bucket.name)
        await self._write(key, b"", {OPERATION: "DEL"})
        return True

    async def delete_with_version(self, key: str, expected: VersionToken) -> bool:
        check_key(key, store=self._bucket.name)
        await self._write(key, b"", {}, expected=self._expected(key, expected))
        return True

    async def purge(self, key: str, *, expected: VersionToken | None = None) -> None:
        check_key(key, store=self._bucket.name)
        revision = None if expected is None else self._expected(key, expected)
        await self._write(key, b"", {OPERATION: "PURGE", ROLLUP: "sub"}, expected=revision)

    async def purge_deletes(self, older_than: Ttl = 0) -> int:
        bucket = self._bucket
        age = to_age(older_than)
        async with deadline(bucket.op_timeout, store=bucket.name):
            records = await last_updates(bucket, "", headers_only=True)
            limit = datetime.now(UTC) - age
            old = [
                update
                for update in records.values()
                if update.operation is not Operation.PUT and (update.created is None or update.created <= limit)
            ]

            async def remove(tombstone: KvUpdate) -> bool:
                # Up to the tombstone's own revision: a key written again meanwhile is kept.
                revision = tombstone.revision
                if revision is None:
                    return False
                subject = bucket.subject(tombstone.key)
                removed = await bucket.read(
                    lambda: bucket.api.purge_key(bucket.stream, subject, up_to=revision), key=tombstone.key
                )
                return removed > 0

            return sum(await pipelined(old, remove, window=_PURGES))

    async def put_many(self, items: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> list[VersionToken]:
        pairs = list(items.items() if isinstance(items, Mapping) else items)
        store, limit = self._bucket.name, self._bucket.value_limit()
        checked = [
            # The value as it is, where there is nothing to say of it.
            (check_key(key, store=store), value)
            if type(value) is bytes and len(value) <= limit
            else (key, self._checked(key, value, None)[0])
            for key, value in pairs
        ]
        writes = BulkWrite(self._bucket, fence=self._fence)
        await writes.run(checked)
        if writes.errors:
            raise bulk_error(store=self._bucket.name, versions=writes.versions, errors=writes.errors)
        return writes.in_order

    def transaction(self) -> Transaction:
        return NatsTransaction(self._bucket, fence=self._fence)

    async def atomically(self, fn: Callable[[Transaction], Awaitable[T]]) -> T:
        bucket = self._bucket
        return await retried(
            lambda: NatsTransaction(bucket, fence=self._fence), fn, store=bucket.name, timeout=bucket.op_timeout
        )

    def fenced(self, key: str, version: VersionToken) -> KvWriter:
        from slipstream.stores.nats.fenced import FencedWriter  # which is a writer itself

        check_key(key, store=self._bucket.name)
        return FencedWriter(self._bucket, Fence(key=key, revision=self._expected(key, version)))

    # Checks, before anything is sent.

    def _checked(self, key: str, value: bytes, ttl: Ttl | None) -> tuple[bytes, dict[str, str]]:
        """Payload and headers."""
        check_key(key, store=self._bucket.name)
        return self._bucket.payload(key, value), self._ttl(key, ttl)

    def _seconds(self, key: str, ttl: Ttl | None) -> int | None:
        return to_ttl(ttl, refusal=self._bucket.abilities.ttl, store=self._bucket.name, key=key)

    def _ttl(self, key: str, ttl: Ttl | None) -> dict[str, str]:
        seconds = self._seconds(key, ttl)
        return {} if seconds is None else {TTL: f"{seconds}s"}

    def _expected(self, key: str, expected: VersionToken) -> int:
        return to_revision(expected, store=self._bucket.name, key=key)

    async def _value_at(self, key: str, revision: int) -> bytes:
        """The value that the key has at its last revision. Raises: RevisionMismatchError for another one, or none."""
        bucket = self._bucket
        last = await bucket.last(key)
        if last is None or last.sequence != revision or await bucket.is_absent(last):
            raise RevisionMismatchError(
                store=bucket.name,
                key=key,
                expected=VersionToken.from_u64(revision),
                actual=VersionToken.from_u64(last.sequence if last is not None else 0),
            )
        return last.data

    async def _write(self, key: str, payload: bytes, headers: dict[str, str], *, expected: int | None = None) -> int:
        # As `publication`, without the cost of its context manager: this is every single write.
        attempt = Publication(self._bucket, key)
        try:
            async with asyncio.timeout(self._bucket.op_timeout):
                return await attempt.send(payload, headers, expected=expected, fence=self._fence)
        except KvError as error:
            error.outcome_unknown = error.outcome_unknown or attempt.outcome_unknown
            raise
        except TimeoutError:
            raise attempt.too_late() from None
