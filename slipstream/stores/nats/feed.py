"""The updates of some filters in revision order: what watches and scans are made of.

A feed keeps one consumer at a time. It proves when the initial state is complete, answers flow control as its reader
takes updates, and sets up a new consumer after its last update when the connection, the server or the consumer went,
or raises where it cannot know that nothing was missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from slipstream.channel import Channel
from slipstream.errors import (
    CursorExpiredError,
    ExpiryReason,
    KvError,
    NotConnectedError,
    OperationTimeoutError,
    WatchError,
)
from slipstream.model import KvUpdate, VersionToken, WatchCursor
from slipstream.resume import (
    BucketView,
    cursor_expiry,
    gap_is_benign,
    initial_state_complete,
    resume_expiry,
)
from slipstream.stores.nats.bucket import LANE_FAILURES, Bucket, Pauses, settle
from slipstream.stores.nats.consumer import PushConsumer
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
from slipstream.stores.nats.error_map import ApiError, reports_expiry
from slipstream.stores.nats.lane import Closed, Disconnected, Listener, Message, NoResponders
from slipstream.stores.nats.pipeline import pipelined

_log = logging.getLogger(__name__)
_MAX_BYTES = 64 * 1024 * 1024
"""The server keeps at most 32 MiB unanswered under flow control (JsFlowControlMaxPending), plus one message."""
_MISSED_HEARTBEATS = 3
_PARALLEL_TAIL_READS = 64
_OVERHEAD_BYTES = 100
_QUIET_SECONDS = 0.05


@dataclass(slots=True, kw_only=True)
class FeedOptions:
    """What to deliver.

    Attributes:
        accepts: the client's part of the filtering: the server matches whole tokens only.
        every_message: from the beginning, deliver what is held of each key, not just the last.
        ends: the feed ends with its initial state.
        max_tail_reads: end it unproven after so many proofs that failed because of ever new writes; None: never.
    """

    purpose: str
    filters: list[str]
    accepts: Callable[[str], bool]
    cursor: WatchCursor
    headers_only: bool = False
    every_message: bool = False
    ends: bool = False
    max_tail_reads: int | None = None


class Feed(Listener):
    """One reader at a time takes from it; `open` first, `aclose` last."""

    def __init__(self, bucket: Bucket, options: FeedOptions) -> None:
        self._bucket = bucket
        self._options = options
        self._updates: Channel[tuple[KvUpdate, int]] = Channel(max_bytes=_MAX_BYTES)
        self._consumer: PushConsumer | None = None
        self._generation = 0
        self._runner: asyncio.Task[None] | None = None
        # Positions are revisions; None until something is known to have been received.
        self._received: int | None = options.cursor.revision
        self._handed_out = options.cursor
        self._seen: BucketView | None = None
        self._seen_at = 0.0
        self._consumer_sequence = 0
        # Counts tie what arrives between updates to its place among them.
        self._accepted_count = 0
        self._taken_count = 0
        self._flow_replies: deque[tuple[int, str]] = deque()
        self._progress: int | None = None
        self._complete_at: int | None = None
        self._complete = asyncio.Event()
        # What waits for a check that nothing was evicted, with the position before it.
        self._limbo: list[tuple[KvUpdate | None, int, int]] = []
        self._limbo_from: int | None = None
        self._broken: str | None = None
        self._alarm = asyncio.Event()
        self._moved = asyncio.Event()
        self._heard_at = 0.0
        self._pending = 0
        self.unproven = 0
        self.delivered = 0
        self.resumes = 0

    # The reader's side.

    @property
    def cursor(self) -> WatchCursor:
        return self._handed_out

    @property
    def complete(self) -> bool:
        """The initial state has been handed out."""
        return self._complete_at is not None and self._taken_count >= self._complete_at

    @property
    def pending(self) -> int:
        return self._pending + len(self._updates) + len(self._limbo)

    @property
    def last_heard(self) -> float:
        return asyncio.get_running_loop().time() - self._heard_at

    async def wait_complete(self) -> None:
        """Return once complete; raise what ended the feed if it ended before."""
        await self._complete.wait()
        if not self.complete:
            raise self._updates.error or NotConnectedError(store=self._bucket.name, message="the watch was closed")

    def take(self) -> KvUpdate | None:
        """The next update if there is one now. Raises what ended the feed, or ChannelClosed, once it is empty."""
        taken = self._updates.get_nowait()
        if taken is None:
            return None
        update, _ = taken
        self._taken_count += 1
        self.delivered += 1
        revision = update.revision
        if revision is not None:
            self._move_cursor(revision)
        self._settle_reader()
        return update

    async def next(self) -> KvUpdate:
        """Wait for the next update. Cancelled, it has taken nothing."""
        while True:
            update = self.take()
            if update is not None:
                return update
            await self._updates.wait()

    @property
    def ready(self) -> int:
        """How many updates can be taken now."""
        return len(self._updates)

    @property
    def ended(self) -> bool:
        """Nothing will come after what is ready."""
        return self._updates.closed

    def peek(self, index: int) -> KvUpdate:
        return self._updates.peek(index)[0]

    async def wait_ready(self, *, more_than: int = 0) -> None:
        """Return once more than so many updates are ready, or the feed has ended."""
        await self._updates.wait(more_than=more_than)

    async def open(self) -> None:
        """Set up the first consumer. Raises: CursorExpiredError, StoreNotFoundError, ..., within `op_timeout`."""
        self._bucket.lane.add_listener(self)
        try:
            await self._bucket.read(self._start_first)
        except BaseException:
            self._bucket.lane.remove_listener(self)
            self._drop_consumer()
            raise
        self._runner = asyncio.create_task(self._run(), name=f"slipstream-{self._options.purpose}")

    async def aclose(self, error: BaseException | None = None) -> None:
        """End it and remove the consumer; safe to repeat."""
        self._finish(error)
        self._bucket.lane.remove_listener(self)
        runner, self._runner = self._runner, None
        consumer, self._consumer = self._consumer, None
        self._generation += 1
        if runner is not None:
            runner.cancel()
        try:
            if runner is not None:
                await asyncio.wait({runner})
        finally:
            if consumer is not None:
                await consumer.aclose()

    # What the lane tells.

    def on_disconnected(self) -> None:
        # Whatever the old consumer still sends after the reconnect is not wanted: a new one takes over.
        self._break("disconnected")

    def on_reconnected(self) -> None:
        self._break("reconnected")

    def on_closed(self) -> None:
        self._finish(NotConnectedError(store=self._bucket.name, message="the connection was shut down"))
        if self._consumer is not None:
            self._consumer.forget()
            self._consumer = None

    def _on_message(self, generation: int, message: Message) -> None:
        if generation != self._generation or self._updates.closed:
            return
        self._heard_at = asyncio.get_running_loop().time()
        metadata = parse_ack_subject(message.reply)
        if metadata is None and message.status is not None:
            self._on_status(message)
            return
        self._consumer_sequence += 1
        if metadata is None:
            sequence, created = None, None
        else:
            if metadata.consumer_sequence != self._consumer_sequence:
                self._break(f"delivery {self._consumer_sequence} is missing")
                return
            sequence, created = metadata.stream_sequence, time_from_ns(metadata.timestamp_ns)
            self._pending = metadata.pending
        key = self._bucket.key(message.subject)
        update = None
        if self._options.accepts(key):
            update = make_update(
                key=key,
                headers=message.headers,
                data=message.data,
                version=VersionToken.unknown() if sequence is None else VersionToken.from_u64(sequence),
                created=created,
            )
        size = value_size(message.headers, message.data) if self._options.headers_only else len(message.data)
        self._receive(update, sequence, size + len(message.subject) + _OVERHEAD_BYTES)

    def _on_status(self, message: Message) -> None:
        if message.status != 100:
            return
        if message.reply:
            self._flow_replies.append((self._count_with_limbo(), message.reply))
        else:
            stalled = message.headers.get(STALLED)
            if stalled:
                self._flow_replies.append((self._count_with_limbo(), stalled))
            delivered = header_number(message.headers, LAST_CONSUMER)
            if delivered is not None and delivered != self._consumer_sequence:
                self._break(f"{delivered} deliveries were sent, {self._consumer_sequence} arrived")
                return
            self._pending = 0 if not stalled else self._pending
            self._moved.set()
            progress = header_number(message.headers, LAST_STREAM)
            # During the initial state the server counts its list of keys, not the stream.
            if progress is not None and self._complete_at is not None:
                self._receive(None, progress, 0)
        self._settle_reader()

    def _receive(self, update: KvUpdate | None, sequence: int | None, size: int) -> None:
        """Queue an update, or note that the server has come this far without one."""
        if sequence is not None:
            before = self._received
            if before is not None and sequence <= before:
                return
            if self._limbo or (before is not None and sequence > before + 1 and self._gap_matters()):
                if not self._limbo:
                    self._limbo_from = before
                    self._alarm.set()
                self._limbo.append((update, sequence, size))
                self._received = sequence
                return
        self._accept(update, sequence, size)

    def _accept(self, update: KvUpdate | None, sequence: int | None, size: int) -> None:
        if update is not None:
            if not self._updates.offer((update, size), size):
                self._break("the reader is too slow for what is under way")
                return
            self._accepted_count += 1
        elif sequence is not None:
            self._progress = sequence
        if sequence is not None:
            self._received = sequence
        self._moved.set()
        self._settle_reader()

    def _count_with_limbo(self) -> int:
        return self._accepted_count + sum(update is not None for update, _, _ in self._limbo)

    def _gap_matters(self) -> bool:
        # In the initial state gaps are the rule: only the last record of each key is delivered.
        live = self._complete_at is not None or not self._options.cursor.is_none
        return live and self._bucket.retention.evicts

    def _settle_reader(self) -> None:
        """Do what was waiting for the reader to come this far."""
        while self._flow_replies and self._flow_replies[0][0] <= self._taken_count:
            self._bucket.lane.send(self._flow_replies.popleft()[1])
        if self.complete:
            self._complete.set()
        if self._progress is not None and not len(self._updates) and not self._limbo:
            self._move_cursor(self._progress)
            self._progress = None

    def _move_cursor(self, revision: int) -> None:
        if self._handed_out.revision is None or revision > self._handed_out.revision:
            incarnation = self._seen.incarnation if self._seen is not None else None
            self._handed_out = WatchCursor(revision=revision, incarnation=incarnation)

    # Keeping it going.

    def _break(self, why: str) -> None:
        """The consumer cannot be trusted any more: set up another one after what was received."""
        if not self._updates.closed:
            self._broken = why
            self._generation += 1
            self._alarm.set()

    def _finish(self, error: BaseException | None) -> None:
        self._limbo.clear()
        self._updates.close(error)
        self._complete.set()  # releases who waits; wait_complete() then looks at why
        self._alarm.set()
        self._moved.set()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._maintain(), name=f"slipstream-{self._options.purpose}-maintain")
                tasks.create_task(self._prove(), name=f"slipstream-{self._options.purpose}-prove")
        except* KvError as group:
            self._finish(_first(group))
        except* Exception as group:  # noqa: BLE001 - a bug in here must end the watch, not leave it silent
            _log.exception("the watch of %s failed", self._bucket.name)
            error = WatchError(store=self._bucket.name, message=f"the watch failed: {_first(group)!r}")
            error.__cause__ = group
            self._finish(error)
        self._drop_consumer()

    async def _maintain(self) -> None:
        allowed = self._bucket.heartbeat * _MISSED_HEARTBEATS
        while not self._updates.closed:
            try:
                async with asyncio.timeout(max(allowed - self.last_heard, 0.01)):
                    await self._alarm.wait()
            except TimeoutError:
                if self.last_heard >= allowed and self._broken is None:
                    self._break("no heartbeat")
            self._alarm.clear()
            if self._broken is None and self._limbo:
                await self._check_gap()
            if self._broken is not None:
                await self._restart()

    async def _check_gap(self) -> None:
        """Something may have been evicted before what is in limbo: hand it on only if not."""
        position = self._limbo_from
        assert position is not None
        generation = self._generation
        try:
            info = await self._bucket.read(lambda: self._bucket.api.stream_info(self._bucket.stream))
        except OperationTimeoutError:
            self._alarm.set()  # not known yet: ask again
            return
        if generation != self._generation:
            return
        if not gap_is_benign(
            position=position, first_revision=info.view.first_revision, retention=self._bucket.retention
        ):
            raise self._expired("compacted", info.view, position)
        self._note(info.view)
        limbo, self._limbo = self._limbo, []
        self._limbo_from = None
        for update, sequence, size in limbo:
            self._accept(update, sequence, size)
            if generation != self._generation:
                return

    async def _restart(self) -> None:
        """Set up a new consumer, for as long as it takes. Raises where nothing can help."""
        pauses = Pauses()
        self._drop_consumer()
        if self._limbo:
            # Never handed on: ask for it again, after the position before it.
            self._received = self._limbo_from
            self._limbo.clear()
            self._limbo_from = None
        while len(self._updates) and self._updates.pending_bytes > _MAX_BYTES // 2:
            await pauses.pause()  # too much is queued: let the reader come first
        while True:
            why = self._broken
            try:
                await self._bucket.lane.wait_connected()
                async with asyncio.timeout(self._bucket.op_timeout):
                    await self._start(first=False)
            except (Disconnected, NoResponders, TimeoutError) as error:
                _log.debug("watch of %s not resumed yet: %s", self._bucket.name, error)
            except Closed as error:
                raise settle(error, store=self._bucket.name, key=None) from None
            except ApiError as error:
                if not error.is_temporary:
                    raise settle(error, store=self._bucket.name, key=None) from None
            except LANE_FAILURES as error:
                raise settle(error, store=self._bucket.name, key=None) from None
            else:
                self.resumes += 1
                _log.debug("watch of %s resumed after %s (%s)", self._bucket.name, self._received, why)
                return
            await pauses.pause()

    async def _start_first(self) -> None:
        await self._start(first=True)

    async def _start(self, *, first: bool) -> None:
        """Make a consumer after the position, with both ends and the incarnation compared before and after."""
        self._drop_consumer()
        bucket, options = self._bucket, self._options
        position = self._received
        info = await bucket.api.stream_info(bucket.stream)
        self._compare(info.view, position, first=first)
        self._generation += 1
        generation = self._generation
        self._broken = None
        self._consumer_sequence = 0
        self._flow_replies.clear()
        self._heard_at = asyncio.get_running_loop().time()
        try:
            consumer = await PushConsumer.open(
                bucket,
                lambda message: self._on_message(generation, message),
                purpose=options.purpose,
                filters=options.filters,
                start_after=position,
                last_per_key=not options.every_message,
                headers_only=options.headers_only,
            )
        except ApiError as error:
            if reports_expiry(error.description):
                raise self._expired("compacted", info.view, position) from None
            raise
        self._consumer = consumer
        if position is not None and consumer.start != position:
            # The only word the server gives, in the create reply, at the moment of creation (PROTOCOL.md, e).
            moved = BucketView(
                first_revision=max(consumer.start + 1, info.view.first_revision),
                last_revision=max(info.view.last_revision, consumer.start),
                keys=info.view.keys,
                incarnation=info.view.incarnation,
            )
            if consumer.start < position:
                raise self._expired("rolled_back", moved, position)
            self._compare(moved, position, first=first)
        after = await bucket.api.stream_info(bucket.stream)
        if after.view.incarnation != info.view.incarnation:
            raise self._expired("recreated", after.view, position)
        if position is not None and position > after.view.last_revision:
            raise self._expired("rolled_back", after.view, position)
        self._note(after.view)
        if not self._consumer_sequence:
            # Else a message has already told a newer count.
            self._pending = consumer.pending
        self._moved.set()

    def _compare(self, view: BucketView, position: int | None, *, first: bool) -> None:
        """Raise if what comes after the position may no longer be there."""
        incarnation = self._options.cursor.incarnation
        if self._seen is not None:
            incarnation = self._seen.incarnation
        if position is None:
            if incarnation is not None and incarnation != view.incarnation:
                raise self._expired("recreated", view, position)
            return
        cursor = WatchCursor(revision=position, incarnation=incarnation)
        if first or self._seen is None:
            reason = cursor_expiry(
                cursor,
                first_revision=view.first_revision,
                last_revision=view.last_revision,
                incarnation=view.incarnation,
            )
        else:
            reason = resume_expiry(
                cursor,
                seen=self._seen,
                now=view,
                retention=self._bucket.retention,
                away=asyncio.get_running_loop().time() - self._seen_at,
            )
        if reason is not None:
            raise self._expired(reason, view, position)

    def _note(self, view: BucketView) -> None:
        self._seen = view
        self._seen_at = asyncio.get_running_loop().time()

    def _expired(self, reason: ExpiryReason, view: BucketView, position: int | None) -> CursorExpiredError:
        incarnation = self._seen.incarnation if self._seen is not None else self._options.cursor.incarnation
        return CursorExpiredError(
            store=self._bucket.name,
            cursor=WatchCursor(revision=position, incarnation=incarnation if position is not None else None),
            first_revision=view.first_revision,
            reason=reason,
        )

    def _drop_consumer(self) -> None:
        if self._consumer is not None:
            self._consumer.abandon()
            self._consumer = None

    async def _prove(self) -> None:
        """Ask the leader what lies beyond the last delivery, until the answer is: nothing.

        Neither the count in the create reply nor `num_pending == 0` is exact under overwrites (DESIGN.md section 4):
        they only tell when it is worth asking.
        """
        unproven = self._options.filters
        ahead = 0
        while not self._updates.closed:
            await self._nothing_expected(ahead)
            generation = self._generation
            try:
                tails = await self._tail_revisions(unproven, (self._received or 0) + 1)
            except OperationTimeoutError:
                continue  # nobody answers for now; the watch outlives that
            if generation != self._generation or self._limbo:
                continue
            unproven = [filter_subject for filter_subject, tail in tails.items() if tail is not None]
            if initial_state_complete(tails.values()):
                self._complete_at = self._accepted_count
                self._settle_reader()
                if self._options.ends:
                    self._finish(None)
                return
            ahead = min(tail for tail in tails.values() if tail is not None)
            self.unproven += 1
            if self.unproven == self._options.max_tail_reads:
                self._finish(None)

    async def _nothing_expected(self, ahead: int) -> None:
        """Return when the consumer seems to have delivered all there is, or the revision that is known to lie ahead.

        Or when it has been quiet for a moment: its count may include what was removed since.
        """
        while not self._updates.closed:
            position = self._received or 0
            settled = self._broken is None and not self._limbo
            if settled and (position >= ahead if ahead else self._pending == 0):
                return
            self._moved.clear()
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    await self._moved.wait()
            except TimeoutError:
                if self._broken is None and not self._limbo:
                    return

    async def _tail_revisions(self, filters: list[str], start: int) -> dict[str, int | None]:
        """For each filter the first record from `start` on, as the leader has it."""
        bucket = self._bucket

        async def tail(filter_subject: str) -> int | None:
            found = await bucket.read(lambda: bucket.api.next_at_leader(bucket.stream, filter_subject, start))
            return None if found is None else found.sequence

        return dict(zip(filters, await pipelined(filters, tail, window=_PARALLEL_TAIL_READS), strict=True))


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
