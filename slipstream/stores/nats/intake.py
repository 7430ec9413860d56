"""What a feed has received and handed out: the sequencing of one watch. Pure: messages and counts in, decisions out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from slipstream.model import KvUpdate, VersionToken, WatchCursor
from slipstream.stores.nats.decode import (
    LAST_CONSUMER,
    LAST_STREAM,
    STALLED,
    header_number,
    make_update,
    parse_ack_subject,
    time_from_ns,
    value_size,
)
from slipstream.stores.nats.lane import Message

_OVERHEAD_BYTES = 100
_CONTROL = 100


class OutOfStep(Exception):
    """What the consumer sends does not follow from what it sent before: something was lost on the way."""


class Arrival(NamedTuple):
    """An update for the reader, or none where the server only came this far.

    Attributes:
        after: the position before it, to come back to if it cannot be taken in.
        revision: the position that it brings, None where it could not be read.
    """

    update: KvUpdate | None
    size: int
    after: int | None
    revision: int | None


class Intake:
    """Positions are revisions; counts tie what comes between updates to its place among them."""

    def __init__(
        self,
        cursor: WatchCursor,
        *,
        key_of: Callable[[str], str],
        accepts: Callable[[str], bool],
        evicts: bool,
        headers_only: bool,
    ) -> None:
        self._key_of = key_of
        self._accepts = accepts
        self._evicts = evicts
        self._headers_only = headers_only
        self._consumer_sequence = 0
        self._queued = 0
        self._taken = 0
        self._live = not cursor.is_none
        self._initial_end: int | None = None
        self._complete_after: int | None = None
        self._flow: deque[tuple[int, str]] = deque()
        self._progress: int | None = None
        self._held: list[Arrival] = []
        self.received = cursor.revision
        self.handed_out = cursor.revision
        self.pending = 0

    # A consumer.

    def begin(self) -> None:
        """A new consumer starts after `received`. What was held back is asked for again."""
        if self._held:
            self.received = self._held[0].after
            self._held.clear()
        if self.received is not None and self._initial_end is not None:
            self._live = True  # now everything that came after is sent, not just the last of each key
        self._consumer_sequence = 0
        self._flow.clear()

    def ends_initially(self, revision: int) -> None:
        """The bucket ended here when the first consumer was made: what comes later must come without a gap."""
        self._initial_end = revision

    def counted(self, pending: int) -> None:
        """What the create reply counted, unless a delivery has told a newer count already."""
        if not self._consumer_sequence:
            self.pending = pending

    def message(self, message: Message) -> list[Arrival]:
        """What a message brings. Raises: OutOfStep."""
        metadata = parse_ack_subject(message.reply)
        if metadata is None and message.status is not None:
            return self._control(message) if message.status == _CONTROL else []
        self._consumer_sequence += 1
        revision, created = None, None
        if metadata is not None:
            if metadata.consumer_sequence != self._consumer_sequence:
                raise OutOfStep(f"delivery {self._consumer_sequence} is missing")
            revision, created = metadata.stream_sequence, time_from_ns(metadata.timestamp_ns)
            self.pending = metadata.pending
        update = None
        key = self._key_of(message.subject)
        if self._accepts(key):
            update = make_update(
                key=key,
                headers=message.headers,
                data=message.data,
                version=VersionToken.unknown() if revision is None else VersionToken.from_u64(revision),
                created=created,
            )
        size = value_size(message.headers, message.data) if self._headers_only else len(message.data)
        return self._arrived(update, size + len(message.subject) + _OVERHEAD_BYTES, revision, delivered=True)

    def _control(self, message: Message) -> list[Arrival]:
        """A flow control request, to be answered when the reader has come this far; or a heartbeat."""
        if message.reply:
            self._flow.append((self._count_with_held(), message.reply))
            return []
        stalled = message.headers.get(STALLED)
        if stalled:
            self._flow.append((self._count_with_held(), stalled))
        else:
            self.pending = 0
        delivered = header_number(message.headers, LAST_CONSUMER)
        if delivered is not None and delivered != self._consumer_sequence:
            raise OutOfStep(f"{delivered} deliveries were sent, {self._consumer_sequence} arrived")
        progress = header_number(message.headers, LAST_STREAM)
        # In the initial state the server counts along its list of keys, not along the stream.
        if progress is None or self._complete_after is None:
            return []
        return self._arrived(None, 0, progress, delivered=False)

    def _arrived(self, update: KvUpdate | None, size: int, revision: int | None, *, delivered: bool) -> list[Arrival]:
        self._leave_initial_state(revision)
        after = self.received
        if revision is not None:
            if after is not None and revision <= after:
                return []
            self.received = revision
        arrival = Arrival(update, size, after, revision)
        if self._held or (self._evicts and self._live and _skips(arrival, delivered)):
            self._held.append(arrival)
            return []
        return [arrival]

    def _leave_initial_state(self, revision: int | None) -> None:
        """In the initial state gaps are the rule: only the last record of each key is sent. Beyond it they count."""
        if not self._live and self._initial_end is not None and revision is not None and revision > self._initial_end:
            self._live = True
            # Records come in order: what was there at the beginning has been sent.
            self.received = max(self.received or 0, self._initial_end)

    # Held back until it is known that nothing was evicted.

    @property
    def held_after(self) -> int | None:
        """The position before a gap that has to be looked into; None for none."""
        return self._held[0].after if self._held else None

    def release(self) -> list[Arrival]:
        """The gap was benign: what was held back."""
        held, self._held = self._held, []
        return held

    def refused(self, arrival: Arrival) -> None:
        """It could not be queued: it has to be asked for again."""
        self.received = arrival.after

    # The reader.

    def queued(self, arrival: Arrival) -> None:
        """It waits for the reader, or was mere progress."""
        if arrival.update is not None:
            self._queued += 1
        elif arrival.revision is not None:
            self._progress = arrival.revision

    def taken(self, update: KvUpdate) -> None:
        self._taken += 1
        self._move(update.revision)

    def settle(self) -> list[str]:
        """Do what was waiting for the reader to come this far; the flow control requests to be answered now."""
        if self._progress is not None and self._taken == self._queued:
            self._move(self._progress)
            self._progress = None
        due = []
        while self._flow and self._flow[0][0] <= self._taken:
            due.append(self._flow.popleft()[1])
        return due

    def proven(self) -> None:
        """What was received so far completes the initial state."""
        self._complete_after = self._queued
        self._live = True

    @property
    def complete(self) -> bool:
        """The initial state has been handed out."""
        return self._complete_after is not None and self._taken >= self._complete_after

    @property
    def delivered(self) -> int:
        return self._taken

    @property
    def level(self) -> bool:
        """The consumer has sent all there was, as far as it said."""
        return self.pending == 0 and not self._flow

    @property
    def outstanding(self) -> int:
        """Updates not handed out yet, here and on the server."""
        return self.pending + self._queued - self._taken + len(self._held)

    def _count_with_held(self) -> int:
        return self._queued + sum(arrival.update is not None for arrival in self._held)

    def _move(self, revision: int | None) -> None:
        if revision is not None and (self.handed_out is None or revision > self.handed_out):
            self.handed_out = revision


def _skips(arrival: Arrival, delivered: bool) -> bool:
    """There is room between this position and the one before for a record that was not delivered."""
    if arrival.revision is None or arrival.after is None:
        return False
    # Mere progress delivers nothing: also the very next record may have been one of ours, and evicted.
    return not (delivered and arrival.revision == arrival.after + 1)
