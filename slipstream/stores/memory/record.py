"""What a bucket stores, and what is asked of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken

RECORD_OVERHEAD = 30
"""Bytes beside key and value: what the file store of nats-server adds to a message without headers."""


def record_size(key: str, value: bytes) -> int:
    return len(key) + len(value) + RECORD_OVERHEAD


@dataclass(slots=True, eq=False, kw_only=True)
class Record:
    """One write of one key.

    Attributes:
        created: UTC.
        ttl: how long it was written to live, None for as long as the bucket keeps it.
        expires: when it goes by itself, None for never.
        expired: it is the mark of a key whose time was up.
        transaction, commit: the atomic commit that it belongs to, and whether it ends it.
        superseded_by: the next write of the same key; the only field that changes.
    """

    seq: int
    key: str
    operation: Operation
    value: bytes
    created: datetime
    ttl: timedelta | None = None
    expires: datetime | None = None
    expired: bool = False
    transaction: str | None = None
    commit: bool = False
    superseded_by: int | None = None

    @property
    def size(self) -> int:
        return record_size(self.key, self.value)

    @property
    def absent(self) -> bool:
        """The key reads as absent after it: a tombstone, a mark or an empty value."""
        return self.operation is not Operation.PUT or not self.value

    @property
    def version(self) -> VersionToken:
        return VersionToken.from_u64(self.seq)

    def to_entry(self) -> KvEntry:
        return KvEntry(key=self.key, value=self.value, version=self.version, created=self.created)

    def to_update(self) -> KvUpdate:
        """As watches and histories show it: an empty value is a DELETE."""
        operation = Operation.DELETE if self.operation is Operation.PUT and not self.value else self.operation
        return KvUpdate(
            operation=operation,
            key=self.key,
            value=self.value,
            version=self.version,
            expired=self.expired,
            transaction=self.transaction,
            commit=self.commit,
            created=self.created,
            expires=None if self.ttl is None or operation is not Operation.PUT else self.created + self.ttl,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A change that is asked for.

    Attributes:
        expected: the last revision that the key must have, 0 for none at all; None for whatever it has.
        only_absent: refuse if the key is live.
        ttl: how long it lives, None for as long as the bucket keeps it.
        transaction, commit: as in the record.
    """

    key: str
    operation: Operation = Operation.PUT
    value: bytes = b""
    expected: int | None = None
    only_absent: bool = False
    ttl: timedelta | None = None
    transaction: str | None = None
    commit: bool = False
