"""One write and what becomes of it: done, refused or unknown."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from slipstream.commits import Fence, Last
from slipstream.errors import (
    FencedError,
    KvError,
    NotConnectedError,
    OperationFailedError,
    OperationTimeoutError,
    RevisionMismatchError,
)
from slipstream.model import VersionToken
from slipstream.stores.nats.batch import Guard
from slipstream.stores.nats.bucket import LANE_FAILURES, Bucket, Pauses, settle
from slipstream.stores.nats.decode import MESSAGE_ID, Headers, printable
from slipstream.stores.nats.error_map import ApiError, parse_api_error, to_kv_error
from slipstream.stores.nats.lane import Disconnected, Message, NoResponders, Pending

_ACKNOWLEDGED = re.compile(rb'\{"stream": ?"[^"\\]*", ?"seq": ?([1-9][0-9]*)\}')
"""The answer to nearly every write; whatever else is in one is read as JSON."""
_PATIENCE = 2.0
"""Seconds until a write without an answer is sent again over the same connection; doubles from one to the next."""
_RESEND_FRACTION = 0.5
"""Of the server's duplicate window: within it a message id is certain to be remembered."""


@asynccontextmanager
async def publication(bucket: Bucket, key: str, *, ends_at: float | None = None) -> AsyncIterator[Publication]:
    """A block in which a key is written, bounded by `op_timeout`. Nothing is sent after it.

    Args:
        ends_at: when an operation ends that this write is only a part of (loop time).
    """
    attempt = Publication(bucket, key)
    now = asyncio.get_running_loop().time()
    try:
        if ends_at is not None and now >= ends_at:
            raise TimeoutError  # a timeout that is over would let what does not wait be sent
        async with asyncio.timeout_at(now + bucket.op_timeout if ends_at is None else ends_at):
            yield attempt
    except KvError as error:
        error.outcome_unknown = error.outcome_unknown or attempt.outcome_unknown
        raise
    except TimeoutError:
        raise attempt.too_late() from None


def acknowledged(posted: Pending) -> int | None:
    """The revision of a write, if the answer is there and says nothing else."""
    answer = posted.peek()
    found = _ACKNOWLEDGED.fullmatch(answer) if answer is not None else None
    return int(found[1]) if found is not None else None


def guard_headers(
    bucket: Bucket, subject: str, *, expected: int | None = None, fence: Fence | None = None
) -> dict[str, str]:
    """The one guard that a message carries: the fence, else the revision that its own subject must be at."""
    if fence is not None:
        return dict(Guard(bucket.subject(fence.key), fence.revision).headers(subject))
    return {} if expected is None else dict(Guard(subject, expected).headers(subject))


class Publication:
    """Sends a write, again under the same message id where the answer was lost.

    A message id lets the server tell a repetition from a new write for as long as its duplicate window; so it is sent
    again only well within that window. A conditional write may meet its own first attempt: then the stored id tells.
    """

    __slots__ = ("_bucket", "_first_sent_at", "_key", "_message_id", "outcome_unknown")

    def __init__(self, bucket: Bucket, key: str, *, message_id: str | None = None, sent_at: float = 0.0) -> None:
        """`message_id` and `sent_at` (loop time) are those of a first attempt that was posted already."""
        self._bucket = bucket
        self._key = key
        self._message_id = message_id
        self._first_sent_at = sent_at
        self.outcome_unknown = False

    async def send(
        self,
        payload: bytes,
        headers: Headers,
        *,
        expected: int | None = None,
        fence: Fence | None = None,
        posted: Pending | None = None,
    ) -> int:
        """The revision of the write.

        Args:
            posted: the first attempt, where it was sent already.
            expected: the revision that the key must be at, 0 for none; None: whatever it is at.
            fence: instead of `expected`, which takes the one guard of a message as well: another key's revision.
        Raises: RevisionMismatchError, FencedError and the other refusals; NotConnectedError; StoreNotFoundError.
        """
        bucket = self._bucket
        complete, message_id = self._complete(headers, expected, fence)
        subject = bucket.subject(self._key)
        loop = asyncio.get_running_loop()
        resend_until = self._first_sent_at + bucket.resend_seconds * _RESEND_FRACTION
        pauses: Pauses | None = None
        patience = _PATIENCE if bucket.clustered and message_id is not None else None
        doubt = False
        while True:
            self.outcome_unknown = True
            sent_at = self._first_sent_at if posted is not None else loop.time()
            request = bucket.lane.request(subject, payload, complete) if posted is None else posted.answer()
            try:
                if patience is None:
                    answer = await request
                else:
                    async with asyncio.timeout(patience):
                        answer = await request
            except TimeoutError:
                # Dropped on its way, or slow. Sent again, the server knows it by its id.
                if posted is not None:
                    posted.close()
                    posted = None
                doubt = True
                assert patience is not None
                patience = 2 * patience if loop.time() + 2 * patience < resend_until else None
                continue
            except Disconnected as error:
                posted = None
                doubt = doubt or error.sent
                self.outcome_unknown = doubt
                if doubt and (message_id is None or loop.time() > resend_until):
                    raise NotConnectedError(
                        store=bucket.name,
                        key=self._key,
                        message="the connection was lost before the answer came",
                        outcome_unknown=True,
                    ) from None
                await bucket.wait_connected(self._key)
                continue
            except NoResponders:
                # Nobody took it: no such bucket, or an election.
                posted = None
                self.outcome_unknown = doubt
                await bucket.look_up(self._key)
                pauses = pauses or Pauses()
                await pauses.pause()
                continue
            except LANE_FAILURES as error:
                self.outcome_unknown = doubt
                raise settle(error, store=bucket.name, key=self._key) from None
            posted = None
            try:
                revision = self._revision(answer)
            except ApiError as error:
                doubt = doubt or error.is_in_process
                self.outcome_unknown = doubt
                if error.is_temporary or error.is_in_process or await self._is_undecided(error, sent_at):
                    pauses = pauses or Pauses()
                    await pauses.pause()
                    continue
                if error.is_mismatch and doubt:
                    revision = await self._settle_doubt(message_id, expected, fence)
                elif error.is_mismatch and fence is not None:
                    await self._check_fence(fence)
                    pauses = pauses or Pauses()
                    await pauses.pause()  # it holds: it was refused before it did
                    continue
                else:
                    version = None if expected is None else VersionToken.from_u64(expected)
                    raise to_kv_error(error, store=bucket.name, key=self._key, expected=version) from None
            self._done(revision)
            return revision

    def too_late(self) -> OperationTimeoutError:
        return OperationTimeoutError(
            store=self._bucket.name,
            key=self._key,
            message=f"no answer within {self._bucket.op_timeout:g} s",
            outcome_unknown=self.outcome_unknown,
        )

    def _complete(self, headers: Headers, expected: int | None, fence: Fence | None) -> tuple[Headers, str | None]:
        """The headers with those that every attempt repeats, and the message id."""
        complete = dict(headers)
        if fence is not None or expected is not None:
            complete |= guard_headers(self._bucket, self._bucket.subject(self._key), expected=expected, fence=fence)
        # Every attempt of a publication has the same one; another write by it has another one.
        if self._message_id is None or not self.outcome_unknown:
            self._message_id = self._bucket.message_id()
            self._first_sent_at = asyncio.get_running_loop().time()
        if self._message_id is not None:
            complete[MESSAGE_ID] = self._message_id
        return complete, self._message_id

    def _done(self, revision: int) -> None:
        self.outcome_unknown = False
        if self._bucket.reads == "session":
            self._bucket.own_writes[self._key] = revision

    async def _is_undecided(self, error: ApiError, sent_at: float) -> bool:
        """A mismatch with a write in flight, which may come to nothing, or by the word of a leader that may be none."""
        if not error.is_mismatch:
            return False
        return error.actual is None or not await self._bucket.vouched(sent_at, self._key)

    async def _check_fence(self, fence: Fence) -> None:
        """Raises: FencedError if its key has moved on."""
        bucket = self._bucket
        last = await bucket.last(fence.key)
        found = Last(0, absent=True) if last is None else Last(last.sequence, absent=False)
        fence.condition.check(fence.key, found, store=bucket.name)

    async def _settle_doubt(self, message_id: str | None, expected: int | None, fence: Fence | None) -> int:
        """Another revision is there than expected, perhaps our own from an attempt whose answer was lost."""
        bucket = self._bucket
        last = await bucket.last(self._key)
        if last is not None and message_id is not None and last.headers.get(MESSAGE_ID) == message_id:
            return last.sequence
        if fence is not None:
            raise FencedError(
                store=bucket.name,
                key=fence.key,
                expected=VersionToken.from_u64(fence.revision),
                outcome_unknown=True,
            )
        raise RevisionMismatchError(
            store=bucket.name,
            key=self._key,
            expected=None if expected is None else VersionToken.from_u64(expected),
            actual=VersionToken.from_u64(last.sequence if last is not None else 0),
            # It may have been stored and then overwritten.
            outcome_unknown=True,
        )

    def _revision(self, answer: Message) -> int:
        found = _ACKNOWLEDGED.fullmatch(answer.data)
        if found is not None:
            return int(found[1])
        try:
            body = json.loads(answer.data)
        except ValueError:
            body = None
        if isinstance(body, dict):
            error = parse_api_error(body)
            if error is not None:
                raise error
            revision = body.get("seq")
            if isinstance(revision, int) and revision > 0:
                return revision
        raise OperationFailedError(
            store=self._bucket.name,
            key=self._key,
            code=answer.status,
            message=f"an answer that cannot be read: {printable(answer.data[:200])}",
            outcome_unknown=True,
        )
