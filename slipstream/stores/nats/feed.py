"""The updates of some filters in revision order: what watches and scans are made of.

A feed keeps one consumer at a time. It proves when the initial state is complete, answers flow control as its reader
takes updates, and sets up a new consumer after its last update when the connection, the server or the consumer went,
or ends with an error where it cannot know that nothing was missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from slipstream.channel import Channel
from slipstream.errors import KvError, NotConnectedError, OperationTimeoutError, WatchError
from slipstream.model import KvUpdate, WatchCursor
from slipstream.resume import initial_state_complete
from slipstream.stores.nats.bucket import LANE_FAILURES, Bucket, Pauses, settle
from slipstream.stores.nats.consumer import PushConsumer
from slipstream.stores.nats.error_map import ApiError
from slipstream.stores.nats.intake import Arrival, Intake, OutOfStep
from slipstream.stores.nats.lane import Denied, Disconnected, Frame, Listener, NoResponders, read_frame
from slipstream.stores.nats.lookout import Lookout
from slipstream.stores.nats.opening import FeedOptions, open_consumer
from slipstream.stores.nats.tail import tail_revisions

_log = logging.getLogger(__name__)
_MAX_BYTES = 64 * 1024 * 1024
"""The server keeps at most 32 MiB unanswered under flow control (JsFlowControlMaxPending), plus one message."""
_TOO_SLOW = "the reader is too slow for what is under way"
_MISSED_HEARTBEATS = 3
_QUIET_SECONDS = 0.05


class Feed(Listener):
    """One reader at a time takes from it; `open` first, `aclose` last."""

    def __init__(self, bucket: Bucket, options: FeedOptions) -> None:
        self._bucket = bucket
        self._options = options
        self._intake = Intake(
            options.cursor,
            subject_prefix=bucket.subject(""),
            accepts=options.accepts,
            evicts=bucket.retention.evicts,
            headers_only=options.headers_only,
        )
        self._updates: Channel[KvUpdate] = Channel(max_bytes=_MAX_BYTES)
        self._consumer: PushConsumer | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._generation = 0
        self._runner: asyncio.Task[None] | None = None
        self._lookout = Lookout(bucket, options)
        self._heard_at = 0.0
        self._broken: str | None = None
        self._alarm = asyncio.Event()
        self._moved = asyncio.Event()
        self._settled = asyncio.Event()
        self.failed_proofs = 0
        self.resumes = 0

    # The reader's side.

    @property
    def cursor(self) -> WatchCursor:
        """The position after what was handed out."""
        revision = self._intake.handed_out
        if revision == self._options.cursor.revision:
            return self._options.cursor
        return WatchCursor(revision=revision, incarnation=self._lookout.incarnation)

    @property
    def complete(self) -> bool:
        """The initial state has been handed out."""
        return self._intake.complete

    @property
    def ready(self) -> int:
        """How many updates can be taken now."""
        return len(self._updates)

    @property
    def ended(self) -> bool:
        """Nothing will come after what is ready."""
        return self._updates.closed

    @property
    def pending(self) -> int:
        return self._intake.outstanding

    @property
    def delivered(self) -> int:
        return self._intake.delivered

    @property
    def last_heard(self) -> float:
        """Seconds."""
        return asyncio.get_running_loop().time() - self._heard_at

    async def wait_complete(self) -> None:
        """Return once complete; raise what ended the feed if it ended before."""
        await self._settled.wait()
        if not self.complete:
            raise self._updates.error or NotConnectedError(store=self._bucket.name, message="the watch was closed")

    def take(self) -> KvUpdate | None:
        """The next update if there is one now. Raises what ended the feed, or ChannelClosed, once it is empty."""
        update = self._updates.get_nowait()
        if update is not None:
            self._intake.taken(update)
            self._settle()
        return update

    def take_many(self, limit: int) -> list[KvUpdate]:
        """As `take`, for up to so many."""
        updates = self._updates.take_nowait(limit)
        if updates:
            self._intake.taken_together(updates)
            self._settle()
        return updates

    def peek(self, index: int) -> KvUpdate:
        """One of the updates that are ready, 0 being the next."""
        return self._updates.peek(index)

    async def next(self) -> KvUpdate:
        """Wait for the next update. Cancelled, it has taken nothing."""
        while True:
            update = self.take()
            if update is not None:
                return update
            await self._updates.wait()

    async def wait_ready(self, *, more_than: int = 0) -> None:
        """Return once more than so many updates are ready, or the feed has ended."""
        await self._updates.wait(more_than=more_than)

    async def open(self) -> None:
        """Set up the first consumer. Raises: CursorExpiredError, StoreNotFoundError, ..., within `op_timeout`."""
        self._bucket.lane.add_listener(self)
        try:
            await self._bucket.read(self._start)
        except BaseException:
            self._bucket.lane.remove_listener(self)
            self._updates.close()
            raise
        self._runner = asyncio.create_task(self._run(), name=f"slipstream-{self._options.purpose}")

    async def aclose(self) -> None:
        """End it and remove the consumer; safe to repeat."""
        self._finish(None)
        self._bucket.lane.remove_listener(self)
        runner, self._runner = self._runner, None
        consumer, self._consumer = self._consumer, None
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

    def on_denied(self, subject: str) -> None:
        # The server would wait for ever for the word to go on, and send heartbeats meanwhile.
        consumer = self._consumer
        if consumer is not None and consumer.is_flow_control(subject):
            self._finish(settle(Denied("publish", subject), store=self._bucket.name, key=None))

    def _on_frames(self, generation: int, frames: list[Frame]) -> None:
        if generation != self._generation or self._updates.closed:
            return
        self._heard_at = asyncio.get_running_loop().time()
        index = 0
        try:
            while index < len(frames):
                run = self._intake.deliveries(frames, index)
                if run.updates and not self._updates.offer_many(run.updates, run.size):
                    self._intake.refused_run(run)
                    self._break(_TOO_SLOW)
                    break
                index = run.stop + run.singly
                singly = frames[run.stop : index]
                if not all(self._accept(self._intake.message(read_frame(frame))) for frame in singly):
                    break
        except OutOfStep as error:
            self._break(str(error))
        self._after_arrivals()

    def _accept(self, arrivals: Sequence[Arrival]) -> bool:
        """Queue them for the reader; False where one could not be, and has to be asked for again."""
        for arrival in arrivals:
            if arrival.update is not None and not self._updates.offer(arrival.update, arrival.size):
                self._intake.refused(arrival)
                self._break(_TOO_SLOW)
                return False
            self._intake.queued(arrival)
        return True

    def _after_arrivals(self) -> None:
        if self._intake.held_after is not None:
            self._alarm.set()
        else:
            self._lookout.received(self._intake.received)
        self._moved.set()
        self._settle()

    def _settle(self) -> None:
        for request in self._intake.settle():
            self._bucket.lane.send(request)
        if self._intake.complete:
            self._settled.set()

    # Keeping it going.

    def _break(self, why: str) -> None:
        """The consumer cannot be trusted any more: set up another one after what was received."""
        if not self._updates.closed:
            self._broken = why
            self._generation += 1
            self._alarm.set()

    def _finish(self, error: BaseException | None) -> None:
        self._updates.close(error)
        # Releases who waits; what they find then is that the feed has ended.
        self._settled.set()
        self._alarm.set()
        self._moved.set()

    async def _run(self) -> None:
        try:
            await self._keep_going()
        finally:
            # Also one that was made while this was being cancelled.
            self._drop_consumer()

    async def _keep_going(self) -> None:
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

    async def _maintain(self) -> None:
        """Look into gaps, and set up a new consumer when the old one is broken or has fallen silent."""
        allowed = self._bucket.heartbeat * _MISSED_HEARTBEATS
        while not self._updates.closed:
            try:
                async with asyncio.timeout(max(min(allowed - self.last_heard, self._lookout.due_in), 0.01)):
                    await self._alarm.wait()
            except TimeoutError:
                if self.last_heard >= allowed and self._broken is None:
                    self._break("no heartbeat")
            self._alarm.clear()
            if self._broken is None and self._intake.held_after is not None:
                await self._look_into_gap(self._intake.held_after)
            if self._broken is None and self._lookout.due_in <= 0:
                await self._look(allowed)
            if self._broken is not None:
                await self._restart()

    async def _look(self, within: float) -> None:
        generation = self._generation
        info = await self._lookout.look(within)
        if info is not None and generation == self._generation and self._intake.held_after is None:
            self._lookout.saw(info, self._intake.received)

    async def _look_into_gap(self, position: int) -> None:
        """Something may have been evicted after the position: hand on what came after it only if not."""
        generation = self._generation
        try:
            info = await self._bucket.read(lambda: self._bucket.api.stream_info(self._bucket.stream))
        except OperationTimeoutError:
            self._alarm.set()  # not known yet: ask again
            return
        if generation != self._generation:
            return
        self._lookout.judge_gap(info, position)
        self._accept(self._intake.release())
        self._after_arrivals()

    async def _restart(self) -> None:
        """Set up a new consumer, for as long as it takes. Raises where nothing can help."""
        pauses = Pauses()
        why = self._broken
        self._drop_consumer()
        while self._updates.pending_bytes > _MAX_BYTES // 2 and not self._updates.closed:
            await pauses.pause()  # too much is queued: the reader comes first
        while not self._updates.closed:
            try:
                await self._bucket.lane.wait_connected()
                async with asyncio.timeout(self._bucket.op_timeout):
                    await self._start()
            except (Disconnected, NoResponders, TimeoutError) as error:
                _log.debug("the watch of %s is not resumed yet: %r", self._bucket.name, error)
            except LANE_FAILURES as error:
                if not (isinstance(error, ApiError) and error.is_temporary):
                    raise settle(error, store=self._bucket.name, key=None) from None
            else:
                _log.debug("the watch of %s was resumed (%s)", self._bucket.name, why)
                return
            await pauses.pause()

    async def _start(self) -> None:
        """Make a consumer after what was received."""
        self._drop_consumer()
        resuming = self._lookout.seen is not None
        self._generation += 1
        generation = self._generation
        self._broken = None
        self._intake.begin()
        early: list[Frame] = []
        opened = False

        def on_frames(frames: list[Frame]) -> None:
            # Until both ends and the incarnation have been compared, nothing of it counts.
            if opened:
                self._on_frames(generation, frames)
            else:
                early.extend(frames)

        consumer, seen, ended = await open_consumer(
            self._bucket,
            self._options,
            on_frames,
            leaving=self._leaving,
            revision=self._intake.received,
            seen=self._lookout.seen,
        )
        self._consumer = consumer
        self._lookout.opened(seen)
        self._heard_at = asyncio.get_running_loop().time()
        self._intake.counted(consumer.pending)
        if not self._options.ends:
            # A scan may pass over a tombstone: what it returned was there meanwhile. A watch may not.
            self._intake.ends_initially(ended)
        self.resumes += resuming
        opened = True
        if early:
            self._on_frames(generation, early)
        self._moved.set()

    def _drop_consumer(self) -> None:
        if self._consumer is not None:
            self._consumer.abandon()
            self._consumer = None

    # The proof of completeness.

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
                tails = await tail_revisions(self._bucket, unproven, (self._intake.received or 0) + 1)
            except OperationTimeoutError:
                continue  # nobody answers for now; the watch outlives that
            if generation != self._generation or self._intake.held_after is not None:
                continue
            unproven = [filter_subject for filter_subject, tail in tails.items() if tail is not None]
            if initial_state_complete(tails.values()):
                self._intake.proven()
                self._settle()
                if self._options.ends:
                    self._finish(None)
                return
            ahead = min(tail for tail in tails.values() if tail is not None)
            self.failed_proofs += 1
            if self.failed_proofs == self._options.max_tail_reads:
                self._finish(None)

    async def _nothing_expected(self, ahead: int) -> None:
        """Return when the consumer seems to have delivered all there is, or the revision that is known to lie ahead.

        Or when it has been quiet for a moment, and not for want of a reader: its count may include what was removed.
        """
        while not self._updates.closed:
            settled = self._broken is None and self._intake.held_after is None
            if settled and ((self._intake.received or 0) >= ahead if ahead else self._intake.pending == 0):
                return
            self._moved.clear()
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    await self._moved.wait()
            except TimeoutError:
                if self._broken is None and self._intake.held_after is None and not self.ready:
                    return


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
