"""The records of a bucket in revision order. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from slipstream.stores.memory.record import Record

_SLACK = 64


class RecordLog:
    """Records by revision, with holes where records were removed.

    A removed record is freed at once; only its number stays in the order until as many are dead as alive, so that
    removing is O(1) on average and a reader finds its position by bisection.
    """

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}
        self._order: list[int] = []
        self._head = 0

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, seq: object) -> bool:
        return seq in self._records

    def append(self, record: Record) -> None:
        """Add the record; its revision is higher than that of all others."""
        self._records[record.seq] = record
        self._order.append(record.seq)

    def remove(self, seq: int) -> None:
        del self._records[seq]
        while self._head < len(self._order) and self._order[self._head] not in self._records:
            self._head += 1
        if len(self._order) > 2 * len(self._records) + _SLACK:
            self._order = [kept for kept in self._order if kept in self._records]
            self._head = 0

    def get(self, seq: int) -> Record | None:
        return self._records.get(seq)

    def first(self) -> Record | None:
        return self._records[self._order[self._head]] if self._records else None

    def after(self, seq: int) -> Iterator[Record]:
        """The records with a higher revision, oldest first; use it up before the log changes."""
        for index in range(bisect_right(self._order, seq, lo=self._head), len(self._order)):
            record = self._records.get(self._order[index])
            if record is not None:
                yield record
