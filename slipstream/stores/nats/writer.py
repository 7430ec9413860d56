"""Writes on NATS. Each ends done, refused or unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import NoReturn, TypeVar

from slipstream.checks import refuse_ttl, to_age, to_revision, to_value
from slipstream.errors import (
    AlreadyExistsError,
    BulkWriteError,
    OperationTimeoutError,
    RevisionMismatchError,
    UnsupportedError,
    ValueTooLargeError,
)
from slipstream.interfaces import KvWriter, Transaction, Ttl
from slipstream.keys import check_key
from slipstream.model import KvUpdate, Operation, VersionToken
from slipstream.stores.nats.bucket import Bucket, deadline
from slipstream.stores.nats.bulk import BulkWrite
from slipstream.stores.nats.decode import OPERATION, ROLLUP, operation_of
from slipstream.stores.nats.pipeline import pipelined
from slipstream.stores.nats.publish import Publication, publication
from slipstream.stores.nats.scan import last_updates

T = TypeVar("T")
_PURGES = 64


class NatsWriter(KvWriter):
    """The writing role on one bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        payload = self._checked(key, value, ttl)
        return VersionToken.from_u64(await self._write(key, payload, {}))

    async def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        payload = self._checked(key, value, ttl)
        bucket = self._bucket
        expected = 0
        async with publication(bucket, key) as attempt:
            while True:
                try:
                    return VersionToken.from_u64(await attempt.send(payload, {}, expected=expected))
                except RevisionMismatchError as error:
                    if error.outcome_unknown:
                        raise
                    # A tombstone or an expired value leaves a revision behind: replace exactly that one.
                    last = await bucket.read(
                        lambda: bucket.api.last_at_leader(bucket.stream, bucket.subject(key)), key=key
                    )
                    if last is None:
                        expected = 0
                        continue
                    operation, _ = operation_of(last.headers, len(last.data))
                    if operation is Operation.PUT:
                        raise AlreadyExistsError(store=bucket.name, key=key) from None
                    expected = last.sequence

    async def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> VersionToken:
        payload = self._checked(key, value, ttl)
        return VersionToken.from_u64(await self._write(key, payload, {}, expected=self._expected(key, expected)))

    async def touch(self, key: str, expected: VersionToken, *, ttl: Ttl) -> VersionToken:
        refuse_ttl(ttl, store=self._bucket.name, key=check_key(key, store=self._bucket.name))
        raise UnsupportedError(store=self._bucket.name, key=key, message="touch gives a new ttl: None is not one")

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
        checked = [(key, self._checked(key, value, None)) for key, value in pairs]
        writes = BulkWrite(self._bucket)
        await writes.run(checked)
        if writes.errors:
            raise BulkWriteError(
                store=self._bucket.name,
                versions=writes.versions,
                errors=writes.errors,
                outcome_unknown=any(error.outcome_unknown for error in writes.errors.values()),
            )
        return writes.in_order

    def transaction(self) -> Transaction:
        self._unsupported("transactions")

    async def atomically(self, fn: Callable[[Transaction], Awaitable[T]]) -> T:
        self._unsupported("transactions")

    def fenced(self, key: str, version: VersionToken) -> KvWriter:
        self._unsupported("fenced writers")

    def _unsupported(self, what: str) -> NoReturn:
        raise UnsupportedError(store=self._bucket.name, message=f"{what} are not available on this connection")

    # Checks, before anything is sent.

    def _checked(self, key: str, value: bytes, ttl: Ttl | None) -> bytes:
        bucket = self._bucket
        check_key(key, store=bucket.name)
        payload = to_value(value)
        limit = bucket.value_limit()
        if len(payload) > limit:
            raise ValueTooLargeError(
                store=bucket.name, key=key, message=f"the value has {len(payload)} bytes, {limit} is the limit here"
            )
        if ttl is not None:
            refuse_ttl(ttl, store=bucket.name, key=key)
        return payload

    def _expected(self, key: str, expected: VersionToken) -> int:
        return to_revision(expected, store=self._bucket.name, key=key)

    async def _write(self, key: str, payload: bytes, headers: dict[str, str], *, expected: int | None = None) -> int:
        attempt = Publication(self._bucket, key)
        try:
            async with asyncio.timeout(self._bucket.op_timeout):
                return await attempt.send(payload, headers, expected=expected)
        except TimeoutError as error:
            if isinstance(error, OperationTimeoutError):
                raise
            raise attempt.too_late() from None
