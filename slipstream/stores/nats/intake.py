"""What a feed has received and handed out: the sequencing of one watch. Pure: messages and counts in, decisions out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from slipstream.model import KvUpdate, Operation, VersionToken, WatchCursor, new_update
from slipstream.stores.nats.decode import (
    LAST_CONSUMER,
    LAST_STREAM,
    MESSAGE_SIZE,
    STALLED,
    header_number,
    is_plain,
    last_number,
    make_update,
    parse_ack_subject,
    value_size,
)
from slipstream.stores.nats.lane import Message

_OVERHEAD_BYTES = 100
_CONTROL = 100
_SIZE = MESSAGE_SIZE.encode()


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


class Run(NamedTuple):
    """Deliveries that follow each other.

    Attributes:
        updates: each with its size.
        size: the sum.
        stop: the index of the first message that is none of them.
        after: the position before them, to come back to if they cannot be taken in.
    """

    updates: list[tuple[KvUpdate, int]]
    size: int
    stop: int
    after: int | None


_NOTHING: Sequence[Arrival] = ()


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
        self._ack_prefix = ""
        self._queued = 0
        self._taken = 0
        self._live = not cursor.is_none
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
        self._consumer_sequence = 0
        self._ack_prefix = ""
        self._flow.clear()

    def counted(self, pending: int) -> None:
        """What the create reply counted, unless a delivery has told a newer count already."""
        if not self._consumer_sequence:
            self.pending = pending

    def message(self, message: Message) -> Sequence[Arrival]:
        """What a message brings. Raises: OutOfStep."""
        metadata = parse_ack_subject(message.reply)
        if metadata is None and message.status is not None:
            return self._control(message) if message.status == _CONTROL else _NOTHING
        self._consumer_sequence += 1
        revision, created = None, None
        if metadata is not None:
            revision, sequence, created, self.pending = metadata
            if sequence != self._consumer_sequence:
                raise OutOfStep(f"delivery {self._consumer_sequence} is missing")
            # What the reply subjects of this consumer begin with; those of the long form are read one by one.
            front, *_ = message.reply.rsplit(".", 4)
            self._ack_prefix = f"{front}." if front.count(".") == 4 else ""
        update = None
        key = self._key_of(message.subject)
        data, head = message.data, message.head
        # Of a message without a value the size, where only headers were asked for; else it has none.
        size = len(data) or (last_number(head, _SIZE) if head else value_size(message.headers, data)) or 0
        if self._accepts(key):
            version = VersionToken.unknown() if revision is None else revision
            if size and (is_plain(head) if head else not message.headers):
                update = new_update(Operation.PUT, key, data, version, created)
            else:
                update = make_update(key=key, headers=message.headers, data=data, version=version, created=created)
        after = self.received
        follows = revision is None or after is None or revision == after + 1
        return self._arrived(update, size + len(message.subject) + _OVERHEAD_BYTES, revision, gap=not follows)

    def deliveries(self, messages: list[Message], start: int) -> Run:
        """The ordinary deliveries from `start` on, up to the first message that `message` has to look into.

        Ordinary is a value that comes next in the consumer's count, where no gap has to be minded. Nearly all are, and
        what is done for each of them in here is what a hydration costs. They count as received: see `refused`.
        """
        prefix, after = self._ack_prefix, self.received
        run = Run([], 0, start, after)
        if not prefix or self._held:
            return run
        numbers_at, accepts, key_of = len(prefix), self._accepts, self._key_of
        minds_gaps = self._evicts and (self._live or self._complete_after is not None)
        last = -1 if after is None else after
        sequence, total = self._consumer_sequence, 0
        pending: str | None = None
        updates = run.updates
        index = start
        for index in range(start, len(messages)):
            message = messages[index]
            reply, data, head = message.reply, message.data, message.head
            if not reply.startswith(prefix) or (message.headers if not head else not is_plain(head)):
                break
            size = len(data)
            if not size:
                size = (last_number(head, _SIZE) or 0) if self._headers_only else 0
                if not size:
                    break
            try:
                revision_text, sequence_text, created, left = reply[numbers_at:].split(".")
                revision = int(revision_text)
                follows = int(sequence_text) == sequence + 1 and revision > last
            except ValueError:
                break
            if not (follows and created.isdigit() and left.isdigit()) or (minds_gaps and revision != last + 1):
                break
            key = key_of(message.subject)
            sequence += 1
            last, pending = revision, left
            if accepts(key):
                size += len(key) + _OVERHEAD_BYTES
                total += size
                updates.append((new_update(Operation.PUT, key, data, revision, created), size))
            else:
                self._progress = revision
        else:
            index += 1
        if pending is not None:
            self.received, self._consumer_sequence, self.pending = last, sequence, int(pending)
            self._queued += len(updates)
        return Run(updates, total, index, after)

    def _control(self, message: Message) -> Sequence[Arrival]:
        """A flow control request, to be answered when the reader has come this far; or a heartbeat."""
        if message.reply:
            self._flow.append((self._count_with_held(), message.reply))
            return _NOTHING
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
            return _NOTHING
        # Nothing was delivered on the way there: also the very next record may have been one of ours, and evicted.
        return self._arrived(None, 0, progress, gap=self.received is not None)

    def _arrived(self, update: KvUpdate | None, size: int, revision: int | None, *, gap: bool) -> Sequence[Arrival]:
        after = self.received
        if revision is not None:
            if after is not None and revision <= after:
                return _NOTHING
            self.received = revision
        arrival = Arrival(update, size, after, revision)
        # In the initial state gaps are the rule: only the last record of each key is delivered.
        if self._held or (gap and self._evicts and (self._live or self._complete_after is not None)):
            self._held.append(arrival)
            return _NOTHING
        return (arrival,)

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

    def refused_run(self, run: Run) -> None:
        """As `refused`, for all of a run."""
        self.received = run.after
        self._queued -= len(run.updates)

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

    def taken_together(self, updates: list[KvUpdate]) -> None:
        """As `taken` for each of them: they come in revision order, so the last one that has a revision counts."""
        self._taken += len(updates)
        self._move(next((update.revision for update in reversed(updates) if update.revision is not None), None))

    def settle(self) -> Sequence[str]:
        """Do what was waiting for the reader to come this far; the flow control requests to be answered now."""
        if self._progress is None and not self._flow:
            return ()
        if self._progress is not None and self._taken == self._queued:
            self._move(self._progress)
            self._progress = None
        due: list[str] = []
        while self._flow and self._flow[0][0] <= self._taken:
            due.append(self._flow.popleft()[1])
        return due

    def proven(self) -> None:
        """What was received so far completes the initial state."""
        self._complete_after = self._queued

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
