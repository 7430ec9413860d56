"""What stored messages and their subjects say. Pure.

Facts: PROTOCOL.md sections c (direct get), d (ACK reply subjects) and f (tombstones and markers).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from slipstream.model import KvUpdate, Moment, Operation, VersionToken, new_update, to_datetime
from slipstream.model import parse_time as parse_time
from slipstream.model import time_from_ns as time_from_ns

Headers = Mapping[str, str]
NO_HEADERS: Headers = {}

OPERATION = "KV-Operation"
MARKER_REASON = "Nats-Marker-Reason"
BATCH_ID = "Nats-Batch-Id"
BATCH_SEQUENCE = "Nats-Batch-Sequence"
BATCH_COMMIT = "Nats-Batch-Commit"
MESSAGE_SIZE = "Nats-Msg-Size"
MESSAGE_ID = "Nats-Msg-Id"
ROLLUP = "Nats-Rollup"
TTL = "Nats-TTL"
EXPECTED_SEQUENCE = "Nats-Expected-Last-Sequence"
EXPECTED_SUBJECT_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
LAST_CONSUMER = "Nats-Last-Consumer"
LAST_STREAM = "Nats-Last-Stream"
STALLED = "Nats-Consumer-Stalled"
SEQUENCE = "Nats-Sequence"
PENDING = "Nats-Num-Pending"
SUBJECT = "Nats-Subject"
TIME_STAMP = "Nats-Time-Stamp"

_U64 = 2**64
_HEADER_LINE = b"NATS/1.0"
_TTL = TTL.encode()
_ACK = re.compile(
    # Lazily: most have the short form.
    r"\$JS\.ACK\.(?:[^.]*\.){3}(?P<long>(?:[^.]*\.){2})??"
    r"(\d{1,20})\.(\d{1,20})\.(\d{1,20})\.(\d{1,20})(?(long)(?:\..*)?)",
    re.ASCII | re.DOTALL,
)


class AckMetadata(NamedTuple):
    """What the reply subject of a delivered message tells."""

    stream_sequence: int
    consumer_sequence: int
    timestamp_ns: int
    pending: int


def parse_ack_subject(reply: str) -> AckMetadata | None:
    """The metadata in an ACK reply subject, None where it cannot be read.

    9 tokens: `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`. 11 and more:
    domain and account hash stand before the stream, and more may follow (ADR-15), so it is read from the front.
    """
    found = _ACK.fullmatch(reply)
    if found is None:
        return None
    stream_sequence, consumer_sequence, timestamp_ns, pending = map(int, found.group(2, 3, 4, 5))
    if max(stream_sequence, consumer_sequence, timestamp_ns, pending) >= _U64:
        return None
    return AckMetadata(stream_sequence, consumer_sequence, timestamp_ns, pending)


def _u64(token: str) -> int | None:
    # str.isdigit() takes "²" and "٣" too, and int() takes "1_000" and " 1".
    if not (token.isascii() and token.isdigit()) or len(token) > 20:
        return None
    number = int(token)
    return number if number < _U64 else None


def header_number(headers: Headers, name: str) -> int | None:
    """A header that is a decimal number, None where it is missing or is none."""
    return _u64(headers.get(name, ""))


def parse_stored_headers(encoded: str) -> dict[str, str]:
    """The headers of a stored message as `STREAM.MSG.GET` gives them (base64); empty where they cannot be read."""
    try:
        block = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return {}
    return parse_head(block)[0]


def parse_head(block: bytes) -> tuple[dict[str, str], str]:
    """The headers of a header block, and the text of its status line; empty where they cannot be read.

    Where a name comes twice the last one holds: the server appends its own behind those that were stored.
    """
    headers: dict[str, str] = {}
    if not block.startswith(_HEADER_LINE):
        return headers, ""
    first, *lines = block.split(b"\r\n")
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.strip().decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    _, _, description = first[len(_HEADER_LINE) :].strip().partition(b" ")
    return headers, description.strip().decode("utf-8", "replace")


def status_of(block: bytes) -> int | None:
    """The number in the status line of a header block, None for one that carries data."""
    number = block[len(_HEADER_LINE) : block.find(b"\r\n")].strip()[:3]
    return int(number) if number.isdigit() else None


def operation_of(headers: Headers, size: int) -> tuple[Operation, bool]:
    """What a stored message means, and whether it is the server's mark of an expired key.

    An empty value is a tombstone: that is what `delete_with_version` writes (DESIGN.md section 4, absent).
    """
    match headers.get(OPERATION):
        case "DEL":
            return Operation.DELETE, False
        case "PURGE":
            return Operation.PURGE, False
    match headers.get(MARKER_REASON):
        case None:
            return (Operation.PUT if size else Operation.DELETE), False
        case "MaxAge":
            return Operation.PURGE, True
        case "Remove":
            return Operation.DELETE, False
        case _:
            return Operation.PURGE, False


_SPAN = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,12})?(?:ns|us|µs|μs|ms|h|m|s))+")
_SPAN_PART = re.compile(r"([0-9.]+)([a-zµμ]+)")
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_ttl(text: str) -> timedelta | None:
    """A `Nats-TTL`: whole seconds or a duration as Go writes it (`1h30m`, `1.5s`); None for none and for `never`."""
    try:
        if text.isascii() and text.isdigit():
            return timedelta(seconds=int(text))
        if _SPAN.fullmatch(text) is None:
            return None
        return timedelta(seconds=sum(float(n) * _UNIT_SECONDS[unit] for n, unit in _SPAN_PART.findall(text)))
    except (ValueError, OverflowError):
        return None


def expiry_of(headers: Headers, created: datetime | None) -> datetime | None:
    """When the ttl of a stored message ends, None without one. The server removes it within a moment after."""
    text = headers.get(TTL)
    ttl = parse_ttl(text) if text is not None else None
    try:
        return None if ttl is None or created is None else created + ttl
    except OverflowError:
        return None  # beyond the calendar


def is_marker(headers: Headers) -> bool:
    """The message says itself that the key is gone; an empty value alone does not count."""
    return OPERATION in headers or MARKER_REASON in headers


def value_size(headers: Headers, data: bytes) -> int:
    """The size of the stored value, also where only the headers were delivered."""
    # The data first: whoever stored the message may have written a header of that name into it.
    return len(data) or header_number(headers, MESSAGE_SIZE) or 0


def is_plain(head: bytes) -> bool:
    """A header block says nothing of how its message is to be understood: one with a value is a put.

    Looked for in the block, or in several at once, as they came: to read the headers of every message would cost more
    than all the rest. Too careful where the value of a header repeats such a name.
    """
    return not (b"KV-Operation" in head or b"Nats-Marker-Reason" in head or b"Nats-Batch-" in head or _TTL in head)


def last_header(head: bytes, name: bytes) -> bytes | None:
    """A header of a block, the last of that name, None where it is missing."""
    start = head.rfind(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    return head[start : head.find(b"\r\n", start)].strip()


def last_number(head: bytes, name: bytes) -> int | None:
    """As `last_header`, of a header that is a decimal number; None where it is none."""
    digits = last_header(head, name)
    return int(digits) if digits and digits.isdigit() and len(digits) < 20 else None


def make_update(*, key: str, headers: Headers, data: bytes, version: VersionToken | int, created: Moment) -> KvUpdate:
    """The update that a stored message is."""
    operation, expired = operation_of(headers, value_size(headers, data))
    value = data if operation is Operation.PUT else b""
    expires = expiry_of(headers, to_datetime(created)) if operation is Operation.PUT else None
    marks = (expired, headers.get(BATCH_ID), BATCH_COMMIT in headers, expires)
    return new_update(operation, key, value, version, created, marks)


def printable(payload: bytes) -> str:
    """A payload for a log line: text where it is UTF-8, else hexadecimal with `0x` before it."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return f"0x{payload.hex()}"
