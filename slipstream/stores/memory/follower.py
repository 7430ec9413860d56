"""A position in a stream that moves on as records are taken. Pure; nothing is queued, so being slow costs nothing."""

from __future__ import annotations

from collections.abc import Iterator

from slipstream.errors import CursorExpiredError
from slipstream.model import WatchCursor
from slipstream.stores.memory.record import Record
from slipstream.stores.memory.stream import Stream


class Follower:
    """Takes the matching records one by one, in revision order.

    From the beginning (`after` is None) it takes the last record of each key as of now, then every later one that is
    still there when its turn comes. A record that was displaced before its turn is skipped: a newer one of its key
    follows. A record that went without a successor is a gap, unless whoever follows from the beginning has not heard
    of the key.

    `hydrated` is the proof that nothing of the initial state is outstanding. `_bound` starts at the last revision; each
    time that an outstanding record up to it is displaced, it moves up to the successor. So whatever key was there at
    the start has, until its turn comes, a record between the position and the bound.

    Attributes:
        position: up to here every matching record has been taken.
        start: the last revision when following began.
    """

    def __init__(
        self, stream: Stream, prefixes: tuple[str, ...], *, after: int | None = None, gaps: bool = True
    ) -> None:
        """Follow from now on.

        Args:
            prefixes: keys that begin with one of them match.
            after: take everything with a higher revision; None begins with the current state.
            gaps: False if a record that went before its turn does not matter, as in a scan.
        """
        self.position = 0 if after is None else after
        self.start = stream.last_seq
        self._stream = stream
        self._prefixes = prefixes
        self._initial = self.start if after is None else 0
        self._bound = self.start
        self._gaps = gaps
        self._gap: int | None = None
        stream.observe(self)

    @property
    def hydrated(self) -> bool:
        """Everything that was there at the start, or its successor, has been taken."""
        if self.position < self._bound:
            self.peek()
        return self.position >= self._bound

    def check(self) -> None:
        """Raises: CursorExpiredError if there is a gap and nothing is left to take before it."""
        if self._gap is not None and self.peek() is None:
            raise CursorExpiredError(
                store=self._stream.config.name,
                cursor=WatchCursor(revision=self.position, incarnation=self._stream.incarnation),
                first_revision=self._stream.first_seq,
                reason="compacted",
            )

    def pending(self, after: int | None = None) -> Iterator[Record]:
        """What could be taken now beyond `after` (None: the position); use it up before the stream changes."""
        for record in self._stream.after(self.position if after is None else after):
            if self._gap is not None and record.seq > self._gap:
                return
            if record.key.startswith(self._prefixes) and not self._is_history(record):
                yield record

    def peek(self) -> Record | None:
        """The next record without taking it; moves the position up to it, or to the end if there is none."""
        record = next(self.pending(), None)
        if record is not None:
            self.position = record.seq - 1
        else:
            self.position = self._stream.last_seq if self._gap is None else self._gap - 1
        return record

    def take(self) -> Record | None:
        """The next record, None if there is none now."""
        record = self.peek()
        if record is not None:
            self.position = record.seq
        return record

    def removed(self, record: Record) -> None:
        """Called by the stream for every record that leaves it."""
        if record.seq <= self.position or not record.key.startswith(self._prefixes):
            return
        if record.superseded_by is not None:
            if record.seq <= self._bound:
                self._bound = max(self._bound, record.superseded_by)
        elif self._gaps and record.seq > self._initial:
            self._gap = record.seq if self._gap is None else min(self._gap, record.seq)

    def _is_history(self, record: Record) -> bool:
        return record.superseded_by is not None and record.superseded_by <= self._initial
