"""One bucket as the backend works on it, and the bounds of every operation on it."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, TypeVar

from slipstream.checks import to_value
from slipstream.errors import (
    KvError,
    NotConnectedError,
    OperationTimeoutError,
    StoreNotFoundError,
    ValueTooLargeError,
)
from slipstream.interfaces import Reads
from slipstream.model import Drift, KvEntry, KvUpdate, Operation, new_entry
from slipstream.resume import Retention
from slipstream.stores.nats.abilities import Abilities
from slipstream.stores.nats.api import JetStreamApi, StoredMessage
from slipstream.stores.nats.decode import make_update, operation_of
from slipstream.stores.nats.error_map import ApiError, permission_denied, to_kv_error
from slipstream.stores.nats.lane import Closed, Denied, Disconnected, Lane, NoResponders, TooLarge
from slipstream.stores.nats.quorum import Leadership
from slipstream.stores.nats.subjects import filter_for, filters_for, stream_name, subject_prefix

T = TypeVar("T")
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_HEADER_ROOM = 512
"""Bytes of a message that are left to headers, which the server's max_payload counts."""


def largest_value(lane: Lane) -> int:
    """What the server takes in one message beside the headers, in bytes."""
    return max(lane.max_payload - _HEADER_ROOM, 0)


class Background(Protocol):
    """Where a task goes that outlives the call which needed it: the connection owns it and ends it."""

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]: ...


class Pauses:
    """Growing pauses with jitter between attempts at what nobody announces, as the end of an election."""

    def __init__(self) -> None:
        self._next = _FIRST_PAUSE

    async def pause(self) -> None:
        await asyncio.sleep(self._next * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing
        self._next = min(_LONGEST_PAUSE, self._next * 2)


def settle(error: Exception, *, store: str | None, key: str | None, outcome_unknown: bool = False) -> KvError:
    """The public error for what a lane or the API raised."""
    match error:
        case KvError():
            return error
        case ApiError():
            return to_kv_error(error, store=store, key=key)
        case Denied():
            return permission_denied(error.action, error.subject, store=store, key=key)
        case Closed():
            return NotConnectedError(store=store, key=key, message="the connection was shut down")
        case Disconnected():
            return NotConnectedError(
                store=store, key=key, message="the connection was lost", outcome_unknown=outcome_unknown and error.sent
            )
        case TooLarge():
            return ValueTooLargeError(store=store, key=key, message="the message exceeds the server's max_payload")
        case NoResponders():
            return StoreNotFoundError(store=store, key=key)
        case _:
            raise error


LANE_FAILURES = (ApiError, Closed, Denied, Disconnected, NoResponders, TooLarge)


class deadline:  # noqa: N801 - it is used as a function; a class costs a third of a generator
    """Bound a block that changes nothing on the server. Raises: OperationTimeoutError."""

    __slots__ = ("_key", "_seconds", "_store", "_timeout")

    def __init__(self, seconds: float, *, store: str | None, key: str | None = None) -> None:
        self._seconds = seconds
        self._store = store
        self._key = key

    async def __aenter__(self) -> None:
        self._timeout = asyncio.timeout(self._seconds)
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._too_late() from None
        if isinstance(error, TimeoutError) and not isinstance(error, OperationTimeoutError):
            raise self._too_late() from None

    def _too_late(self) -> OperationTimeoutError:
        return OperationTimeoutError(store=self._store, key=self._key, message=f"no answer within {self._seconds:g} s")


@dataclass(slots=True, kw_only=True)
class Bucket:
    """What a handle knows of its bucket.

    Attributes:
        application: what the consumers are named after; None for the program.
        origin: the bucket whose subjects it uses: its own name, or the one that it mirrors.
        resend_seconds: how long the server remembers message ids; 0 where writes are not sent again.
        leadership: of the stream that takes its writes; None where it has one copy, which is right by itself.
        clustered: a write may be dropped while the connection lives, where it meets a leader that was deposed.
        batched_gets: the server answers one request with the last message of each of many keys.
        own_writes: the last revision that this handle wrote of each key, for `reads="session"`.
    """

    name: str
    origin: str
    stream: str
    api: JetStreamApi
    background: Background
    op_timeout: float
    heartbeat: float
    reads: Reads
    direct: bool
    max_value_size: int | None
    retention: Retention
    resend_seconds: float
    abilities: Abilities
    drift: list[Drift]
    leadership: Leadership | None = None
    clustered: bool = False
    batched_gets: bool = False
    application: str | None = None
    own_writes: dict[str, int] = field(default_factory=dict)
    _subject_prefix: str = field(init=False)
    _id_prefix: str = field(default_factory=lambda: secrets.token_hex(12))
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._subject_prefix = subject_prefix(self.origin)

    @property
    def lane(self) -> Lane:
        return self.api.lane

    @property
    def written(self) -> str:
        """The stream that takes its writes, and so has the last word: a mirror lags behind it."""
        return stream_name(self.origin)

    def value_limit(self) -> int:
        """The largest value in bytes. A message over the server's limit makes it close the connection."""
        limit = largest_value(self.lane)
        return limit if self.max_value_size is None else min(limit, self.max_value_size)

    def payload(self, key: str, value: bytes) -> bytes:
        """A copy of the value. Raises: ValueTooLargeError."""
        payload = to_value(value)
        limit = self.value_limit()
        if len(payload) > limit:
            raise ValueTooLargeError(
                store=self.name, key=key, message=f"the value has {len(payload)} bytes, {limit} is the limit here"
            )
        return payload

    def message_id(self) -> str | None:
        """An id that no other write has; None where writes are not sent again."""
        return f"{self._id_prefix}.{next(self._ids)}" if self.resend_seconds > 0 else None

    def subject(self, key: str) -> str:
        return self._subject_prefix + key

    def key(self, subject: str) -> str:
        return subject.removeprefix(self._subject_prefix)

    def filter(self, prefix: str) -> str:
        return filter_for(self.origin, prefix)

    def filters(self, prefixes: list[str]) -> list[str]:
        return filters_for(self.origin, prefixes)

    async def read(self, attempt: Callable[[], Awaitable[T]], *, key: str | None = None) -> T:
        """The result of an attempt that changes nothing; repeated within `op_timeout` while nobody answers."""
        async with deadline(self.op_timeout, store=self.name, key=key):
            pauses: Pauses | None = None
            while True:
                try:
                    return await attempt()
                except Disconnected:
                    await self.wait_connected(key)
                    continue
                except NoResponders:
                    await self.look_up(key)
                except ApiError as error:
                    if not error.is_temporary:
                        raise settle(error, store=self.name, key=key) from None
                except (Closed, Denied, TooLarge) as error:
                    raise settle(error, store=self.name, key=key) from None
                pauses = pauses or Pauses()
                await pauses.pause()

    async def at_leader(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What the leader of `written` answers, one that certainly led meanwhile; inside of an attempt of `read`."""
        return await (attempt() if self.leadership is None else self.leadership.certain(attempt))

    async def vouched(self, since: float, key: str) -> bool:
        """What the leader refused, in answer to something sent then (loop time), is refused: no other led meanwhile."""
        leadership = self.leadership
        return leadership is None or await self.read(lambda: leadership.vouches(since), key=key)

    async def last(self, key: str) -> StoredMessage | None:
        """The last message of a key, not older than any write that was acknowledged before."""
        subject = self.subject(key)
        return await self.read(lambda: self.at_leader(lambda: self.api.last_at_leader(self.written, subject)), key=key)

    async def has_expired(self, end: datetime | None) -> bool:
        """A ttl that ends then has ended, by the server's clock. Asks the server where that is not certain.

        The server removes what has expired on a grid of a quarter of a second, and hands it out until then
        (2.11.11, 2.12.8, 2.14.6 and 2.15.1, with get and with consumers).
        """
        if end is None or self.api.clock.lies_ahead(end):
            return False
        await self.read(lambda: self.api.stream_info(self.stream))
        return self.api.clock.has_passed(end)

    async def is_absent(self, message: StoredMessage) -> bool:
        """The key reads as absent after this last message of it: a marker, an empty value, or a ttl that has ended."""
        operation, _ = operation_of(message.headers, len(message.data))
        return operation is not Operation.PUT or await self.has_expired(message.expires)

    async def look_up(self, key: str | None) -> None:
        """Nobody answered: raise StoreNotFoundError if the bucket is gone; return if it may be an election."""
        try:
            await self.api.stream_info(self.stream)
            if self.written != self.stream:
                await self.api.stream_info(self.written)
        except (NoResponders, Disconnected):
            return
        except ApiError as error:
            if not error.is_temporary:
                raise settle(error, store=self.name, key=key) from None
        except (Closed, Denied) as error:
            raise settle(error, store=self.name, key=key) from None

    async def wait_connected(self, key: str | None) -> None:
        """Return once connected. Raises: NotConnectedError where that will not be."""
        try:
            await self.lane.wait_connected()
        except Closed as error:
            raise settle(error, store=self.name, key=key) from None

    def entry(self, message: StoredMessage) -> KvEntry | None:
        """The raw record, None for a marker."""
        if message.is_marker:
            return None
        return new_entry(self.key(message.subject), message.data, message.sequence, message.stamp)

    def update(self, message: StoredMessage) -> KvUpdate:
        """The update that a stored message is."""
        return make_update(
            key=self.key(message.subject),
            headers=message.headers,
            data=message.data,
            version=message.sequence,
            created=message.stamp,
        )
