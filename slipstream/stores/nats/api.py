"""The calls of the JetStream API that a bucket needs, as values; each is one request."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf
from time import monotonic
from typing import Any, TypeVar

from slipstream.model import Moment, to_datetime
from slipstream.resume import BucketView
from slipstream.stores.nats.clock import ServerClock
from slipstream.stores.nats.decode import (
    NO_HEADERS,
    PENDING,
    SEQUENCE,
    SUBJECT,
    TIME_STAMP,
    Headers,
    expiry_of,
    header_number,
    is_marker,
    is_plain,
    parse_head,
    parse_stored_headers,
    parse_time,
)
from slipstream.stores.nats.error_map import NO_MESSAGE_FOUND, ApiError, parse_api_error
from slipstream.stores.nats.lane import Lane, Message, read_frame
from slipstream.stores.nats.stream_config import NANOSECONDS
from slipstream.stores.nats.subjects import ALL_SCRATCH, api_prefix

T = TypeVar("T")
_ANSWER_BYTES = 16 * 1024 * 1024
_PAUSE = 0.5
"""Seconds until a question that nobody has answered is asked again."""
_ANSWER = re.compile(
    rb"\r\nNats-Stream: [^\r\n]*\r\nNats-Subject: ([^\r\n]+)\r\n"
    rb"Nats-Sequence: ([0-9]{1,19})\r\nNats-Time-Stamp: ([^\r\n]*)\r\n"
)


class StoredMessage:
    """A message as the stream holds it. Its headers are read when they are asked for."""

    __slots__ = ("_carrier", "_plain", "data", "sequence", "stamp", "subject")

    def __init__(
        self, subject: str, sequence: int, headers: Headers | bytes, data: bytes, stamp: Moment = None
    ) -> None:
        self.subject = subject
        self.sequence = sequence
        self.data = data
        self.stamp = stamp
        self._carrier = headers
        self._plain: bool | None = None

    @property
    def headers(self) -> Headers:
        if isinstance(self._carrier, bytes):
            self._carrier = parse_head(self._carrier)[0]
        return self._carrier

    @property
    def created(self) -> datetime | None:
        return to_datetime(self.stamp)

    @property
    def is_plain(self) -> bool:
        """Its headers are certain to say nothing of how it is to be understood."""
        if self._plain is None:
            self._plain = isinstance(self._carrier, bytes) and is_plain(self._carrier)
        return self._plain

    @property
    def is_marker(self) -> bool:
        """It says itself that the key is gone; an empty value alone does not count."""
        return not self.is_plain and is_marker(self.headers)

    @property
    def expires(self) -> datetime | None:
        """When its ttl ends, None without one."""
        return None if self.is_plain else expiry_of(self.headers, self.created)


@dataclass(frozen=True, slots=True)
class KeysPage:
    """The answer to one request for the last messages of many subjects.

    Attributes:
        whole: every subject that has a message is among them.
    """

    messages: list[StoredMessage]
    whole: bool


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as its leader describes it.

    Attributes:
        clustered: its server is one of several; one alone names itself as the leader, too.
        silence: seconds since the leader last heard from so many followers that these and it are most of the copies;
            infinite where it never did, None where the stream has one copy.
    """

    config: Mapping[str, Any]
    view: BucketView
    bytes: int
    leader: str | None
    replicas: int
    at: datetime | None
    subjects: Mapping[str, int]
    subjects_total: int
    clustered: bool
    silence: float | None


@dataclass(frozen=True, slots=True)
class ConsumerCreated:
    """What a consumer create reply says.

    Attributes:
        start: the stream sequence before the first one that will be delivered.
        pending: messages to deliver, as counted at creation.
    """

    start: int
    pending: int
    config: Mapping[str, Any]


class JetStreamApi:
    """Raises from every call: ApiError, and what `Lane.request` raises.

    A cluster drops the request that meets a leader which has just died or was deposed. So what may be asked twice is
    asked again after a second; else it would wait for its operation's whole timeout.
    """

    def __init__(self, lane: Lane, *, domain: str | None = None, clustered: bool = True) -> None:
        """
        Args:
            clustered: a request may be dropped while the connection lives. One server alone answers each.
        """
        self.lane = lane
        self.clock = ServerClock()
        self._prefix = api_prefix(domain)
        self._clustered = clustered

    async def call(
        self, name: str, body: Mapping[str, Any] | None = None, *, once: bool = False, growth: float = 1.0
    ) -> dict[str, Any]:
        """The answer to one API request, as JSON.

        Args:
            once: never ask again: the answer would be another one.
            growth: as for `_repeated`.
        """
        payload = b"" if body is None else json.dumps(body).encode()
        subject = f"{self._prefix}.{name}"
        if once:
            return _checked(await self.lane.request(subject, payload))
        return _checked(await self._repeated(lambda: self.lane.request(subject, payload), growth=growth))

    async def api_level(self) -> int:
        """The server's API level; 0 where it names none (before 2.11)."""
        answer = await self.call("INFO")
        level = (answer.get("api") or {}).get("level", 0)
        return level if isinstance(level, int) else 0

    async def stream_info(self, stream: str, *, subjects_filter: str | None = None, offset: int = 0) -> StreamInfo:
        """The stream; with a filter, up to 100,000 of its subjects from `offset` on, of one moment."""
        # Unasked for, the scratch subject: it counts as a key to the server, to nobody else.
        body = {"subjects_filter": subjects_filter or ALL_SCRATCH, "offset": offset}
        asked = monotonic()
        answer = await self.call(f"STREAM.INFO.{stream}", body, growth=1.0 if subjects_filter is None else 2.0)
        info = _stream_info(answer, counts=subjects_filter is None)
        self.clock.observe(info.at, asked=asked)
        return info

    async def create_stream_raw(self, body: Mapping[str, Any]) -> bytes:
        """The unread answer to a create request."""
        subject = f"{self._prefix}.STREAM.CREATE.{body['name']}"
        payload = json.dumps(body).encode()
        return (await self._repeated(lambda: self.lane.request(subject, payload))).data

    async def delete_stream(self, stream: str) -> None:
        await self.call(f"STREAM.DELETE.{stream}", once=True)

    async def stream_names(self) -> list[str]:
        """Every stream of the account. Unfiltered: a mirror has no subjects and would be left out."""
        names: list[str] = []
        while True:
            answer = await self.call("STREAM.NAMES", {"offset": len(names)})
            page = answer.get("streams") or []
            names.extend(page)
            if not page or len(names) >= answer.get("total", 0):
                return names

    async def purge_key(self, stream: str, subject: str, *, up_to: int) -> int:
        """Remove the messages of one subject up to and including a sequence; how many there were."""
        answer = await self.call(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": up_to + 1}, once=True)
        return int(answer.get("purged", 0))

    async def last_at_leader(self, stream: str, subject: str) -> StoredMessage | None:
        """The last message of a subject as the leader has it."""
        return await self._message(stream, {"last_by_subj": subject})

    async def next_at_leader(self, stream: str, filter_subject: str, sequence: int) -> StoredMessage | None:
        """The first message of a filter at or after a sequence, as the leader has it."""
        return await self._message(stream, {"seq": sequence, "next_by_subj": filter_subject})

    async def message(self, stream: str, sequence: int) -> StoredMessage | None:
        """The message with this sequence, as the leader has it."""
        return await self._message(stream, {"seq": sequence})

    async def last_direct(self, stream: str, subject: str) -> StoredMessage | None:
        """The last message of a subject as whichever replica answers has it."""
        request = f"{self._prefix}.DIRECT.GET.{stream}.{subject}"
        message = await self._repeated(lambda: self.lane.request(request))
        if message.status == 404:
            return None
        return _direct(message)

    async def last_of_many(self, stream: str, subjects: Sequence[str]) -> KeysPage:
        """The last messages of up to 1024 subjects, as whichever replica answers has them; some may be missing."""
        body = json.dumps({"multi_last": subjects}).encode()
        request = f"{self._prefix}.DIRECT.GET.{stream}"
        *frames, last = await self._repeated(lambda: self.lane.request_many(request, body))
        end = read_frame(last)
        if end.status == 404:
            return KeysPage([], whole=True)
        if end.status != 204:
            raise ApiError(end.status, None, end.description or "an answer that cannot be read")
        pending = header_number(end.headers, PENDING)
        # nats-server 2.11 counts one too few (PROTOCOL.md, c): where it may have stopped for the size, ask again.
        stopped = sum([len(data) for *_, data in frames]) > _ANSWER_BYTES
        messages = [_quickly(frame[2], frame[3]) or _direct(read_frame(frame)) for frame in frames]
        return KeysPage(messages, whole=pending == 0 and not stopped)

    async def create_consumer(self, stream: str, name: str, config: Mapping[str, Any]) -> ConsumerCreated:
        answer = await self.call(
            f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config, "action": "create"}
        )
        delivered = answer.get("delivered") or {}
        return ConsumerCreated(
            int(delivered.get("stream_seq", 0)), int(answer.get("num_pending", 0)), answer.get("config") or {}
        )

    async def delete_consumer(self, stream: str, name: str) -> None:
        await self.call(f"CONSUMER.DELETE.{stream}.{name}")

    def delete_consumer_unasked(self, stream: str, name: str) -> None:
        """Ask for the removal without waiting for an answer."""
        self.lane.send(f"{self._prefix}.CONSUMER.DELETE.{stream}.{name}")

    async def _repeated(self, ask: Callable[[], Coroutine[Any, Any, T]], *, growth: float = 2.0) -> T:
        """The first answer to a question that is asked again while none comes; all of them stay open.

        So whoever is slow to answer is waited for, and whoever comes to lead meanwhile is asked.

        Args:
            growth: of the time to the next question; 1 where the answers are small.
        """
        if not self._clustered:
            return await ask()
        pause = _PAUSE
        asked: set[asyncio.Task[T]] = set()
        try:
            while True:
                asked.add(asyncio.create_task(ask(), name="slipstream-request"))
                answered, _ = await asyncio.wait(asked, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if answered:
                    return answered.pop().result()
                pause *= growth
        finally:
            for question in asked:
                question.cancel()
            await asyncio.wait(asked)  # a turn of the loop, in which they are forgotten
            for question in asked:
                if not question.cancelled():
                    question.exception()  # one that nobody wants to know any more

    async def _message(self, stream: str, body: Mapping[str, Any]) -> StoredMessage | None:
        try:
            answer = await self.call(f"STREAM.MSG.GET.{stream}", body, growth=2.0)
        except ApiError as error:
            if error.err_code == NO_MESSAGE_FOUND:
                return None
            raise
        found = answer["message"]
        encoded = found.get("hdrs")
        return StoredMessage(
            found["subject"],
            int(found["seq"]),
            parse_stored_headers(encoded) if encoded else NO_HEADERS,
            base64.b64decode(found.get("data") or ""),
            parse_time(found.get("time", "")),
        )


def _direct(message: Message) -> StoredMessage:
    """The stored message that a direct get was answered with."""
    quickly = _quickly(message.head, message.data)
    if quickly is not None:
        return quickly
    number = header_number(message.headers, SEQUENCE)
    if message.status is not None or number is None or SUBJECT not in message.headers:
        raise ApiError(message.status, None, message.description or "an answer that cannot be read")
    return StoredMessage(
        message.headers[SUBJECT], number, message.headers, message.data, message.headers.get(TIME_STAMP, "")
    )


def _quickly(head: bytes, data: bytes) -> StoredMessage | None:
    """As `_direct`, where the server's headers are in their usual order: to read them all costs more than the rest."""
    # They stand behind the stored ones.
    found = _ANSWER.match(head, head.rfind(b"\r\nNats-Stream: ")) if head.startswith(b"NATS/1.0\r\n") else None
    if found is None:
        return None
    subject, sequence, stored = found.groups()
    return StoredMessage(subject.decode("utf-8", "replace"), int(sequence), head, data, stored)


def _checked(message: Message) -> dict[str, Any]:
    try:
        answer = json.loads(message.data)
    except ValueError:
        raise ApiError(message.status, None, message.description or "an answer that is no JSON") from None
    if not isinstance(answer, dict):
        raise ApiError(None, None, "an answer that is no JSON object")
    error = parse_api_error(answer)
    if error is not None:
        raise error
    return answer


def _stream_info(answer: Mapping[str, Any], *, counts: bool) -> StreamInfo:
    state = answer["state"]
    subjects = state.get("subjects") or {}
    cluster = answer.get("cluster") or {}
    config = answer["config"]
    view = BucketView(
        # The server says 0 before the first write and last + 1 where everything is gone: here it is always the latter.
        first_revision=max(int(state["first_seq"]), 1),
        last_revision=int(state["last_seq"]),
        keys=int(state.get("num_subjects", 0)) - (len(subjects) if counts else 0),
        incarnation=parse_time(answer.get("created", "")),
    )
    return StreamInfo(
        config,
        view,
        int(state["bytes"]),
        cluster.get("leader") or None,
        int(config.get("num_replicas", 1)),
        parse_time(answer.get("ts", "")),
        {} if counts else subjects,
        int(answer.get("total", 0)),
        bool(cluster.get("name")),
        silence(cluster, copies=int(config.get("num_replicas", 1))),
    )


def silence(cluster: Mapping[str, Any], *, copies: int) -> float | None:
    """How long the leader of so many copies has not heard from a majority of them, as `StreamInfo.silence`. Pure."""
    if copies == 1:
        return None
    if not cluster.get("leader"):
        return inf
    # 0: not heard since it leads.
    heard = sorted(int(follower.get("active") or 0) / NANOSECONDS or inf for follower in cluster.get("replicas") or ())
    needed = copies // 2
    return heard[needed - 1] if len(heard) >= needed else inf
