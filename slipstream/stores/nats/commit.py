"""One atomic commit and what becomes of it: done, refused or unknown."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Sequence

from slipstream.commits import Condition, Last, Queue, QueuedWrite, changed, check_all
from slipstream.errors import (
    ConflictError,
    KvError,
    NotConnectedError,
    OperationFailedError,
    OperationTimeoutError,
    UnsupportedError,
)
from slipstream.model import Operation, VersionToken
from slipstream.stores.nats.batch import Guard, Part, messages, ride, with_scratch
from slipstream.stores.nats.bucket import LANE_FAILURES, Bucket, Pauses, settle
from slipstream.stores.nats.decode import BATCH_ID, OPERATION, ROLLUP, TTL, Headers
from slipstream.stores.nats.error_map import ApiError, parse_api_error, to_kv_error
from slipstream.stores.nats.lane import Disconnected, Message, NoResponders
from slipstream.stores.nats.pipeline import pipelined

_WINDOW = 64
_MARKERS = {Operation.DELETE: {OPERATION: "DEL"}, Operation.PURGE: {OPERATION: "PURGE", ROLLUP: "sub"}}


class Commit:
    """Sends the queue as one batch, again where a refusal turns out to be one of another moment.

    A condition with a revision is a guard as it stands. That a key be absent, whatever made it so, is not: it is read
    what revision the key is at, and guarded with that. The refusal of a batch does not say which guard it was; so
    every condition is looked up then, and the first that does not hold is the error. If all hold, somebody moved from
    one absence to another, or a write was in flight (10164): the batch is sent anew.
    """

    def __init__(self, bucket: Bucket, queue: Queue, *, on_doubt: Callable[[bool], None] = lambda _: None) -> None:
        """
        Args:
            on_doubt: told when the outcome begins to be unknown, and when it is known again.
        """
        self._bucket = bucket
        self._queue = queue
        self._on_doubt = on_doubt
        self._doubt = False

    async def run(self) -> dict[str, VersionToken]:
        """The versions of the keys written, within `op_timeout`."""
        bucket = self._bucket
        try:
            async with asyncio.timeout(bucket.op_timeout):
                return await self._run()
        except KvError as error:
            # Whatever it was, as the end of the connection: while the answer to a commit is out, nobody knows.
            error.outcome_unknown = error.outcome_unknown or self._doubt
            raise
        except TimeoutError:
            raise OperationTimeoutError(
                store=bucket.name,
                message=f"not committed within {bucket.op_timeout:g} s",
                outcome_unknown=self._doubt,
            ) from None

    async def _run(self) -> dict[str, VersionToken]:
        bucket = self._bucket
        pauses = Pauses()
        refused = False
        while True:
            parts, after = await self._prepare(look_up=refused)
            batch_id = secrets.token_hex(12)
            try:
                last = await self._send(parts, batch_id, after)
            except Disconnected:
                if self._doubt:
                    return await self._settle_doubt(batch_id)
                await bucket.wait_connected(None)
            except NoResponders:
                # Nobody took a message, so the batch is not complete: no such bucket, or an election.
                self._set_doubt(False)
                await bucket.look_up(None)
                await pauses.pause()
            except ApiError as error:
                self._set_doubt(False)
                refused = error.is_mismatch
                if not (refused or error.is_incomplete or error.is_temporary):
                    raise to_kv_error(error, store=bucket.name) from None
                if refused and error.actual is not None:
                    continue  # no write in flight: what is there now can be read
                await pauses.pause()
            except LANE_FAILURES as error:
                self._set_doubt(False)  # a message was not sent, or not permitted: the batch is not complete
                raise settle(error, store=bucket.name, key=None) from None
            else:
                self._set_doubt(False)
                return self._versions(last - len(self._queue.writes))

    # What to send.

    async def _prepare(self, *, look_up: bool) -> tuple[list[Part], int | None]:
        """The parts, guards placed; and the sequence that the whole stream has to be at, if that matters.

        Raises the error of the first condition that does not hold, as far as they are looked up.
        """
        try:
            return await self._plan(look_up=look_up)
        except ConflictError:
            if look_up:
                raise
        return await self._plan(look_up=True)  # one that was named before it may not hold either

    async def _plan(self, *, look_up: bool) -> tuple[list[Part], int | None]:
        bucket, queue = self._bucket, self._queue
        conditions = queue.conditions
        unsure = [key for key in conditions if look_up or _revision(conditions[key]) is None]
        found = dict(zip(unsure, await pipelined(unsure, self._last, window=_WINDOW), strict=True)) if unsure else {}
        for key, last in found.items():
            check_all(key, conditions[key], last, store=bucket.name)
        guards = {
            key: Guard(bucket.subject(key), found[key].revision if key in found else _revision(conditions[key]) or 0)
            for key in conditions
        }
        others = [guard for key, guard in guards.items() if key not in queue.writes]
        after, unchanged = await self._unchanged()
        writes = [self._part(write, guards.get(write.key)) for write in queue.writes.values()]
        parts, unplaced = ride(writes, unchanged + others)
        if parts and not unplaced:
            return parts, after
        if bucket.abilities.scratch is None:
            raise UnsupportedError(
                store=bucket.name,
                message="this bucket has no room for guards without a write of their own: create it with slipstream",
            )
        return with_scratch(parts, unplaced or [None], bucket.abilities.scratch), after

    async def _unchanged(self) -> tuple[int | None, list[Guard]]:
        """Guards for the prefixes; on replicas, instead, the sequence of the whole stream at which they hold.

        A guard takes a filter with wildcards. On one server it is exact. On three replicas it does not see the
        proposals that are under way: in 6 s of concurrent writes 47 to 54 of 800 such batches were committed over a
        change (2.12.1 to 2.15.1), and none of those guarded by the sequence of the stream.
        """
        bucket = self._bucket
        if not self._queue.unchanged:
            return None, []
        info = await bucket.read(lambda: bucket.api.stream_info(bucket.stream))
        guards = []
        for prefix, since in self._queue.unchanged.items():
            subject = bucket.filter(prefix)
            sequence = await self._newest(subject)
            if sequence > since:
                raise changed(prefix, since, sequence, store=bucket.name)
            guards.append(Guard(subject, sequence))
        return (None, guards) if info.replicas == 1 else (info.view.last_revision, [])

    async def _last(self, key: str) -> Last:
        message = await self._bucket.last(key)
        return (
            Last(0, absent=True) if message is None else Last(message.sequence, await self._bucket.is_absent(message))
        )

    async def _newest(self, subject: str) -> int:
        bucket = self._bucket
        message = await bucket.read(
            lambda: bucket.at_leader(lambda: bucket.api.last_at_leader(bucket.written, subject))
        )
        return 0 if message is None else message.sequence

    def _part(self, write: QueuedWrite, guard: Guard | None) -> Part:
        headers = dict(_MARKERS.get(write.operation, {}))
        if write.ttl is not None:
            headers[TTL] = f"{write.ttl}s"
        return Part(subject=self._bucket.subject(write.key), payload=write.value, headers=headers, guard=guard)

    # Sending it.

    async def _send(self, parts: Sequence[Part], batch_id: str, after: int | None) -> int:
        """The sequence of the last message."""
        *firsts, commit = batch = messages(parts, batch_id=batch_id, after=after)
        if firsts:
            # Alone, before the others: a server that is no longer one with atomic batches would store each of them.
            self._check_taken(await self._bucket.lane.request(*firsts[0]))
        self._set_doubt(True)
        answers = await pipelined([*firsts[1:], commit], self._request, window=len(batch))
        try:
            body = _answer(answers[-1])
        except ApiError:
            for answer in answers[:-1]:
                self._check_taken(answer)  # what made it incomplete says more
            raise
        sequence = body.get("seq")
        if body.get("batch") != batch_id or body.get("count") != len(batch) or not isinstance(sequence, int):
            raise self._not_atomic(answers[-1])
        return sequence

    async def _request(self, message: tuple[str, bytes, Headers]) -> Message:
        return await self._bucket.lane.request(*message)

    def _check_taken(self, answer: Message) -> None:
        """The answer to a message that waits for its commit is empty."""
        if answer.data:
            _answer(answer)
            raise self._not_atomic(answer)

    def _not_atomic(self, answer: Message) -> UnsupportedError | OperationFailedError:
        if not answer.data:
            return OperationFailedError(
                store=self._bucket.name, message="the answer to a commit says nothing", outcome_unknown=True
            )
        return UnsupportedError(
            store=self._bucket.name,
            message="this server takes the messages of an atomic batch one by one: is it older than it was?",
            outcome_unknown=True,
        )

    # Its outcome.

    def _set_doubt(self, doubt: bool) -> None:
        self._doubt = doubt
        self._on_doubt(doubt)

    def _versions(self, before: int) -> dict[str, VersionToken]:
        """The writes of a batch are stored one after the other."""
        revisions = {key: before + number for number, key in enumerate(self._queue.writes, 1)}
        if self._bucket.reads == "session":
            self._bucket.own_writes.update(revisions)
        return {key: VersionToken.from_u64(revision) for key, revision in revisions.items()}

    async def _settle_doubt(self, batch_id: str) -> dict[str, VersionToken]:
        """The answer was lost. Stored messages keep the id of their batch, and all are stored or none."""
        if not self._queue.writes:
            self._set_doubt(False)
            return await self._run()
        for number, key in enumerate(self._queue.writes, 1):
            last = await self._bucket.last(key)
            if last is not None and last.headers.get(BATCH_ID) == batch_id:
                self._set_doubt(False)
                return self._versions(last.sequence - number)
        raise NotConnectedError(
            store=self._bucket.name,
            message="the connection was lost before the commit was answered",
            # It may have been stored and overwritten since.
            outcome_unknown=True,
        )


def _revision(conditions: Sequence[Condition]) -> int | None:
    """The one revision that satisfies all of them, None where the key has to be read first."""
    revisions = {condition.revision for condition in conditions}
    return revisions.pop() if len(revisions) == 1 else None


def _answer(message: Message) -> dict[str, object]:
    """Raises: ApiError for an error."""
    try:
        body = json.loads(message.data)
    except ValueError:
        return {}
    if not isinstance(body, dict):
        return {}
    error = parse_api_error(body)
    if error is not None:
        raise error
    return body
