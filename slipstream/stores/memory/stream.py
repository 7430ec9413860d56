"""One bucket as JetStream keeps it. Pure and synchronous: time comes in by `advance`.

    key      1 .. max_history records, oldest first; the last one is its current state
    record   goes when it is displaced (overwritten, purged), evicted (max_bytes), or its time is up

Facts about nats-server: PROTOCOL.md, sections b and f. That marks obey `max_age` too, that a DELETE which expires
leaves a mark and a PURGE does not, was seen on 2.15.1 with both storages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import Protocol
from weakref import WeakSet

from slipstream.errors import AlreadyExistsError, RevisionMismatchError, StoreFullError, ValueTooLargeError
from slipstream.model import Operation, StoreConfig, VersionToken
from slipstream.stores.memory.log import RecordLog
from slipstream.stores.memory.record import Record, Write, record_size

_SLACK = 64


class Observer(Protocol):
    """Someone who wants to know what is removed."""

    def removed(self, record: Record) -> None:
        """The record has left the log; if `superseded_by` is None, nothing of the key was left in its place."""


class Stream:
    """An append-only log of records with limits; the single writer of a bucket.

    Attributes:
        incarnation: when this life of the bucket began (UTC).
        last_seq: the newest revision given out; 0 before the first write.
        lost_seq: the highest revision removed without a newer record of its key: whoever had not read that far, and
            knew the key, would keep it for ever.
        bytes: size of the records held.
    """

    def __init__(self, config: StoreConfig, *, now: datetime) -> None:
        self.config = config
        self.incarnation = now
        self.last_seq = 0
        self.lost_seq = 0
        self.bytes = 0
        self._now = now
        self._log = RecordLog()
        self._keys: dict[str, list[Record]] = {}
        self._due: list[tuple[datetime, int]] = []
        self._observers: WeakSet[Observer] = WeakSet()

    # ---- reading

    @property
    def first_seq(self) -> int:
        """The oldest revision held; `last_seq + 1` where there is none."""
        first = self._log.first()
        return self.last_seq + 1 if first is None else first.seq

    @property
    def key_count(self) -> int:
        """Keys with a record, tombstones included."""
        return len(self._keys)

    def last(self, key: str) -> Record | None:
        """The current record of the key, tombstones included."""
        history = self._keys.get(key)
        return history[-1] if history else None

    def history(self, key: str) -> list[Record]:
        """What is held of the key, oldest first."""
        return list(self._keys.get(key, ()))

    def record(self, seq: int) -> Record | None:
        return self._log.get(seq)

    def live(self, prefix: str) -> Iterator[Record]:
        """The current records of the keys that begin with `prefix` and are not absent, in no order."""
        for key, history in self._keys.items():
            if key.startswith(prefix) and not history[-1].absent:
                yield history[-1]

    def after(self, seq: int) -> Iterator[Record]:
        """The records held with a higher revision, oldest first; use it up before the stream changes."""
        return self._log.after(seq)

    def observe(self, observer: Observer) -> None:
        """Tell it of every removal for as long as it exists."""
        self._observers.add(observer)

    # ---- writing

    def write(self, write: Write) -> int:
        """Store the change; its revision.

        Raises: ValueTooLargeError, AlreadyExistsError, RevisionMismatchError, StoreFullError; nothing was changed.
        """
        self.check_size(write)
        self._check_condition(write)
        self._check_room([write])
        return self._append(write, created=self._now).seq

    def write_all(self, writes: Sequence[Write], *, transaction: str) -> list[int]:
        """Store the changes, of one key each, as one atomic commit; their revisions.

        Raises: as `write`; nothing was changed.
        """
        for write in writes:
            self.check_size(write)
            self._check_condition(write)
        self._check_room(writes)
        return [
            self._append(replace(write, transaction=transaction, commit=number == len(writes)), created=self._now).seq
            for number, write in enumerate(writes, 1)
        ]

    def check_size(self, write: Write) -> None:
        """Raises: ValueTooLargeError if the value alone exceeds `max_value_size`."""
        limit = self.config.max_value_size
        if limit is not None and len(write.value) > limit:
            raise ValueTooLargeError(
                store=self.config.name,
                key=write.key,
                message=f"the value has {len(write.value)} bytes, the bucket takes {limit}",
            )

    def purge_deletes(self, older_than: timedelta) -> int:
        """Remove the keys that are absent and whose last record has at least that age; how many keys."""
        lasts = [history[-1] for history in self._keys.values()]
        gone = [last for last in lasts if last.absent and self._now - last.created >= older_than]
        for last in gone:
            self._remove_all(self._keys[last.key])
        return len(gone)

    def _check_condition(self, write: Write) -> None:
        last = self.last(write.key)
        if write.only_absent and last is not None and not last.absent:
            raise AlreadyExistsError(store=self.config.name, key=write.key)
        actual = 0 if last is None else last.seq
        if write.expected is not None and write.expected != actual:
            raise RevisionMismatchError(
                store=self.config.name,
                key=write.key,
                expected=VersionToken.from_u64(write.expected),
                actual=VersionToken.from_u64(actual),
            )

    def _check_room(self, writes: Sequence[Write]) -> None:
        limit = self.config.max_bytes
        if limit is None:
            return
        size = sum(record_size(write.key, write.value) for write in writes)
        # With discard=old everything else may be evicted.
        others = 0 if self.config.discard == "old" else self.bytes - sum(map(self._displaced_bytes, writes))
        if others + size > limit:
            raise StoreFullError(
                store=self.config.name,
                key=writes[0].key if len(writes) == 1 else None,
                message=f"{size} bytes more do not fit beside {others} bytes: the bucket holds {limit}",
            )

    def _displaced_bytes(self, write: Write) -> int:
        history = self._keys.get(write.key, [])
        displaced = max(0, len(history) + 1 - self._kept(write.operation))
        return sum(record.size for record in history[:displaced])

    def _kept(self, operation: Operation) -> int:
        return 1 if operation is Operation.PURGE else self.config.max_history

    def _append(self, write: Write, *, created: datetime, expired: bool = False) -> Record:
        self.last_seq += 1
        record = Record(
            seq=self.last_seq,
            key=write.key,
            operation=write.operation,
            value=write.value,
            created=created,
            ttl=write.ttl,
            expires=self._end_of_life(created, ttl=self.config.marker_ttl if expired else write.ttl),
            expired=expired,
            transaction=write.transaction,
            commit=write.commit,
        )
        history = self._keys.setdefault(record.key, [])
        if history:
            history[-1].superseded_by = record.seq
        history.append(record)
        self._log.append(record)
        self.bytes += record.size
        if record.expires is not None:
            heappush(self._due, (record.expires, record.seq))
        self._remove_all(history[: -self._kept(record.operation)])
        self._evict()
        return record

    def _evict(self) -> None:
        limit = self.config.max_bytes
        while limit is not None and self.bytes > limit and (oldest := self._log.first()) is not None:
            self._remove(oldest)

    def _remove_all(self, records: Iterable[Record]) -> None:
        for record in list(records):
            self._remove(record)

    def _remove(self, record: Record) -> None:
        self._log.remove(record.seq)
        history = self._keys[record.key]
        history.remove(record)
        if not history:
            del self._keys[record.key]
        self.bytes -= record.size
        if record.superseded_by is None:
            self.lost_seq = max(self.lost_seq, record.seq)
        for observer in self._observers:
            observer.removed(record)

    # ---- time

    @property
    def next_expiry(self) -> datetime | None:
        """When something goes by itself next, None for never."""
        while self._due and self._due[0][1] not in self._log:
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def advance(self, now: datetime) -> bool:
        """Let time pass; True if something expired. Time that runs backwards stands still.

        What expired meanwhile is done as of its own moment and in that order, however late it is noticed: a mark whose
        own time is up too has come and gone.
        """
        self._now = max(self._now, now)
        expired = False
        while (due := self.next_expiry) is not None and due <= self._now:
            record = self._log.get(heappop(self._due)[1])
            assert record is not None  # next_expiry has dropped the dead ones
            self._expire(record, due)
            expired = True
        if len(self._due) > 2 * len(self._log) + _SLACK:
            self._due = [entry for entry in self._due if entry[1] in self._log]
            heapify(self._due)
        return expired

    def _expire(self, record: Record, due: datetime) -> None:
        is_current = record.superseded_by is None
        if is_current and record.operation is not Operation.PURGE and self.config.marker_ttl is not None:
            self._append(Write(key=record.key, operation=Operation.PURGE), created=due, expired=True)
        else:
            self._remove(record)

    def _end_of_life(self, created: datetime, *, ttl: timedelta | None) -> datetime | None:
        return min((created + life for life in (self.config.max_age, ttl) if life is not None), default=None)
