"""What a feed has received and handed out: the sequencing of one watch. Pure: messages and counts in, decisions out.

What an idle heartbeat says, and when it counts (nats-server, server/consumer.go: `sendIdleHeartbeat`, `getNextMsg` and
`loopAndGatherMsgs`, alike in 2.10.26, 2.11.11, 2.12.8, 2.14.0 and 2.15.0-dev):

- `Nats-Last-Stream` is `o.sseq - 1`: how far the consumer has *looked*. It is neither the last delivery nor the end of
  the stream. Where nothing of the filter is left, `LoadNextMsg` answers with the store's last sequence, read under the
  same lock, and the consumer jumps behind it: that moves the cursor of a quiet prefix.
- What does not match does not wake a consumer. It looks again right after a heartbeat, so a heartbeat tells where the
  stream ended at the one before: up to an interval late, never ahead.
- Deliveries and heartbeats pass through one queue (`o.outq`) to one inbox. So all of the filter up to there was sent
  before it: under flow control, too, where it is the last delivery; and after a purge, which moves `o.sseq` past what
  is gone only. That it also arrived is what `Nats-Last-Consumer`, the count of the deliveries, proves.
- While the last record of each key is listed (`o.lss`) it counts along that list, and one record of the list that was
  overwritten sends the consumer to wait, heartbeats included: in the initial state it proves nothing.
- The consumers here have one replica, so a new leader means another life of it, which counts from one: the counts part
  at once. It reads the store of the node it is on, which may lag behind the leader and never runs ahead.

So it counts from the consumer of the moment alone (an inbox for each), after the initial state, with both numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice, repeat, takewhile
from operator import lt
from typing import NamedTuple

from slipstream.model import KvUpdate, Operation, VersionToken, WatchCursor, new_puts, new_update
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
from slipstream.stores.nats.lane import Frame, Message

_OVERHEAD_BYTES = 100
_CONTROL = 100
_BLOCK = 128
_U64 = 2**64
_SIZE = MESSAGE_SIZE.encode()
_SIZE_LINE = b"\r\n" + _SIZE + b": "


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
        size: of all the updates together.
        stop: the index behind the last message of it.
        singly: so many messages after it have to be looked into one by one.
        after: the position before them, to come back to if they cannot be taken in.
    """

    updates: list[KvUpdate]
    size: int
    stop: int
    singly: int
    after: int | None


_NOTHING: Sequence[Arrival] = ()


class Intake:
    """Positions are revisions; counts tie what comes between updates to its place among them.

    Args:
        accepts: whether a key is watched; None where the server's filter says it all.
    """

    def __init__(
        self,
        cursor: WatchCursor,
        *,
        subject_prefix: str,
        accepts: Callable[[str], bool] | None,
        evicts: bool,
        headers_only: bool,
    ) -> None:
        self._subject_prefix = subject_prefix
        self._key_at = len(subject_prefix.encode())
        self._accepts = accepts
        self._evicts = evicts
        self._headers_only = headers_only
        self._consumer_sequence = 0
        self._ack_prefix = b""
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
        self._ack_prefix = b""
        self._flow.clear()

    def ends_initially(self, revision: int) -> None:
        """The bucket ended here when the first consumer was made: what comes later must come without a gap."""
        self._initial_end = revision

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
            self._ack_prefix = f"{front}.".encode() if front.count(".") == 4 else b""
        update = None
        key = message.subject.removeprefix(self._subject_prefix)
        data, head = message.data, message.head
        # Of a message without a value the size, where only headers were asked for; else it has none.
        size = len(data) or (last_number(head, _SIZE) if head else value_size(message.headers, data)) or 0
        if self._accepts is None or self._accepts(key):
            version = VersionToken.unknown() if revision is None else revision
            if size and (is_plain(head) if head else not message.headers):
                update = new_update(Operation.PUT, key, data, version, created)
            else:
                update = make_update(key=key, headers=message.headers, data=data, version=version, created=created)
        return self._arrived(update, size + len(message.subject) + _OVERHEAD_BYTES, revision, delivered=True)

    def deliveries(self, frames: list[Frame], start: int) -> Run:
        """The ordinary deliveries from `start` on, up to the first message that `message` has to look into.

        Ordinary is a value that comes next in the consumer's count, where no gap has to be minded. Nearly all are, and
        a hydration costs what is done for each in here: so it is done to all of them at once, column by column. They
        count as received: see `refused_run`.
        """
        after = self.received
        if not self._ack_prefix or self._held:
            return Run([], 0, start, 1, after)
        # One that is not ordinary costs its block, so that what all of them cost is never more than for one by one.
        frames = frames[start : start + _BLOCK]
        subjects, replies, heads, values = zip(*frames, strict=True)
        ordinary, singly = len(frames), 0
        if not self._are_ordinary(replies, heads, values):
            ordinary = sum(1 for _ in takewhile(self._is_ordinary, frames))
            singly = len(frames) - ordinary
            if not ordinary:
                return Run([], 0, start, singly, after)
            subjects, replies, heads, values = zip(*frames[:ordinary], strict=True)
        numbers = self._numbers(replies)
        if numbers is None:
            return Run([], 0, start, ordinary + singly, after)
        revisions, created, pending = numbers
        keys = [subject[self._key_at :].decode("utf-8", "replace") for subject in subjects]
        updates = new_puts(keys, values, revisions, created)
        if self._accepts is not None:
            updates = [update for update in updates if self._accepts(update.key)]
        self.received, self.pending = revisions[-1], pending
        self._consumer_sequence += ordinary
        self._queued += len(updates)
        if len(updates) < ordinary:
            self._progress = revisions[-1]
        size = sum(map(len, values)) + sum(map(len, keys)) + ordinary * _OVERHEAD_BYTES
        return Run(updates, size, start + ordinary, singly, after)

    def _is_ordinary(self, frame: Frame) -> bool:
        _, reply, head, value = frame
        return self._are_ordinary((reply,), (head,), (value,))

    def _are_ordinary(self, replies: Sequence[bytes], heads: Sequence[bytes], values: Sequence[bytes]) -> bool:
        """Values that say nothing of how they are to be understood, sent by this consumer."""
        together = b"".join(heads)
        if self._headers_only:
            # The server adds one line to each; a stored one of that name makes more of them.
            if together.count(_SIZE_LINE) != len(heads) or _SIZE_LINE + b"0" in together or any(values):
                return False
        elif not all(values):
            return False
        return is_plain(together) and all(map(bytes.startswith, replies, repeat(self._ack_prefix)))

    def _numbers(self, replies: tuple[bytes, ...]) -> tuple[list[int], list[bytes], int] | None:
        """Revisions, times, and what is pending after the last; None where one does not follow the one before."""
        at = len(self._ack_prefix)
        joined = b".".join([reply[at:] for reply in replies])
        fields = joined.split(b".")
        # int() would take more than digits.
        if len(fields) != 4 * len(replies) or not joined.replace(b".", b"").isdigit() or b"" in fields:
            return None
        expected = range(self._consumer_sequence + 1, self._consumer_sequence + 1 + len(replies))
        revisions = list(map(int, fields[0::4]))
        pending = int(fields[-1])
        if list(map(int, fields[1::4])) != list(expected) or max(revisions[-1], pending) >= _U64:
            return None
        before = -1 if self.received is None else self.received
        if not (before < revisions[0] and all(map(lt, revisions, islice(revisions, 1, None)))):
            return None
        if self._evicts:
            # A gap counts beyond the initial state, and a first record beyond it has to leave it.
            if self._live and (revisions[0] != before + 1 or revisions[-1] - revisions[0] >= len(revisions)):
                return None
            if not self._live and self._initial_end is not None and revisions[-1] > self._initial_end:
                return None
        return revisions, fields[2::4], pending

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
        if delivered is None or progress is None or self._complete_after is None:
            return _NOTHING
        return self._arrived(None, 0, progress, delivered=False)

    def _arrived(
        self, update: KvUpdate | None, size: int, revision: int | None, *, delivered: bool
    ) -> Sequence[Arrival]:
        self._leave_initial_state(revision)
        after = self.received
        if revision is not None:
            if after is not None and revision <= after:
                return _NOTHING
            self.received = revision
        arrival = Arrival(update, size, after, revision)
        if self._held or (self._evicts and self._live and _skips(arrival, delivered)):
            self._held.append(arrival)
            return _NOTHING
        return (arrival,)

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
        self._live = True

    @property
    def complete(self) -> bool:
        """The initial state has been handed out."""
        return self._complete_after is not None and self._taken >= self._complete_after

    @property
    def delivered(self) -> int:
        return self._taken

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
