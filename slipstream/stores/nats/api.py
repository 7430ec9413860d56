"""The calls of the JetStream API that a bucket needs, as values; each is one request."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any

from slipstream.resume import BucketView
from slipstream.stores.nats.clock import ServerClock
from slipstream.stores.nats.decode import (
    NO_HEADERS,
    SEQUENCE,
    SUBJECT,
    TIME_STAMP,
    Headers,
    header_number,
    parse_stored_headers,
    parse_time,
)
from slipstream.stores.nats.error_map import NO_MESSAGE_FOUND, ApiError, parse_api_error
from slipstream.stores.nats.lane import Lane, Message
from slipstream.stores.nats.subjects import ALL_SCRATCH, api_prefix


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the stream holds it."""

    subject: str
    sequence: int
    headers: Headers
    data: bytes
    created: datetime | None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as its leader describes it."""

    config: Mapping[str, Any]
    view: BucketView
    bytes: int
    leader: str | None
    replicas: int
    at: datetime | None
    subjects: Mapping[str, int]
    subjects_total: int


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
    """Raises from every call: ApiError, and what `Lane.request` raises."""

    def __init__(self, lane: Lane, *, domain: str | None = None) -> None:
        self.lane = lane
        self.clock = ServerClock()
        self._prefix = api_prefix(domain)

    async def call(self, name: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to one API request, as JSON."""
        payload = b"" if body is None else json.dumps(body).encode()
        message = await self.lane.request(f"{self._prefix}.{name}", payload)
        return _checked(message)

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
        info = _stream_info(await self.call(f"STREAM.INFO.{stream}", body), counts=subjects_filter is None)
        self.clock.observe(info.at, asked=asked)
        return info

    async def create_stream_raw(self, body: Mapping[str, Any]) -> bytes:
        """The unread answer to a create request."""
        subject = f"{self._prefix}.STREAM.CREATE.{body['name']}"
        return (await self.lane.request(subject, json.dumps(body).encode())).data

    async def delete_stream(self, stream: str) -> None:
        await self.call(f"STREAM.DELETE.{stream}")

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
        answer = await self.call(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": up_to + 1})
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
        message = await self.lane.request(f"{self._prefix}.DIRECT.GET.{stream}.{subject}")
        if message.status == 404:
            return None
        sequence = header_number(message.headers, SEQUENCE)
        if message.status is not None or sequence is None:
            raise ApiError(message.status, None, message.description or "an answer that cannot be read")
        return StoredMessage(
            message.headers.get(SUBJECT, subject),
            sequence,
            message.headers,
            message.data,
            parse_time(message.headers.get(TIME_STAMP, "")),
        )

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

    async def _message(self, stream: str, body: Mapping[str, Any]) -> StoredMessage | None:
        try:
            answer = await self.call(f"STREAM.MSG.GET.{stream}", body)
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
    )
