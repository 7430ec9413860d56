"""The format of the log: a header, then frames. Pure.

A file is a header of 28 bytes and frames, one for each batch that was applied. A frame is a head of 20 bytes and a
payload in columns, so that a batch is packed and unpacked by a few calls instead of by one for each record, and so
that a value need not be looked at before somebody asks for it. All numbers are little-endian.

    header   magic 8, schema 2, unused 2, salt 4, base_end 8, CRC 4
    head     mark 4, length of the payload 8, CRC of the payload 4, CRC of the head 4
    payload  length of the cursor 1, count of puts 8, bytes of their keys 8, bytes of the removed keys 8;
             cursor; keys of the puts, separated by newlines; removed keys, likewise;
             for each put: length of its version 1 | version 10 | created 8 | end of its value 8; the values

Every CRC starts from the salt, a random number of the file: a value that looks like a frame is not taken for one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from zlib import crc32

from slipstream.errors import InvalidKeyError, SnapshotCorruptedError, SnapshotError
from slipstream.model import KvEntry, VersionToken, WatchCursor
from slipstream.replica.change import Change
from slipstream.replica.times import from_micros, to_micros

SCHEMA = 1
MAGIC = b"SLIPFOLD"
MARK = b"\xf5\x0aFR"
"""What a head begins with; no text in UTF-8 has its first byte."""

_HEADER = struct.Struct("<8sHHIQ")
_HEAD = struct.Struct("<4sQI")
_COUNTS = struct.Struct("<BQQQ")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
HEAD_BYTES = _HEAD.size + _CRC.size

_VERSION_BYTES = 10
_I64 = struct.Struct("<q")
_U64 = struct.Struct("<Q")
_ENTRY_BYTES = 1 + _VERSION_BYTES + _I64.size + _U64.size + 1  # and one for the newline after its key


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHeader:
    """What a file says of itself.

    Attributes:
        salt: where the CRCs start from.
        base_end: up to here a compaction wrote, and the whole of it was durable before the file got its name.
    """

    salt: int
    base_end: int = 0
    schema: int = SCHEMA

    def pack(self) -> bytes:
        raw = _HEADER.pack(MAGIC, self.schema, 0, self.salt, self.base_end)
        return raw + _CRC.pack(crc32(raw))

    @classmethod
    def unpack(cls, raw: bytes) -> FileHeader:
        """Raises: SnapshotError for another format or schema, SnapshotCorruptedError for a damaged header."""
        if not MAGIC.startswith(raw[: len(MAGIC)].rstrip(b"\0")):
            raise SnapshotError(message="it is no log of slipstream")
        # Before the schema is believed: the header is the part that no release changes.
        if len(raw) < HEADER_BYTES or crc32(raw[: _HEADER.size]) != _CRC.unpack_from(raw, _HEADER.size)[0]:
            raise SnapshotCorruptedError(message="the header is damaged")
        _, schema, _, salt, base_end = _HEADER.unpack_from(raw)
        if schema != SCHEMA:
            raise SnapshotError(
                message=f"it has schema {schema}, this release reads {SCHEMA}: use the one that wrote it"
            )
        return cls(salt=salt, base_end=base_end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What stands before a payload."""

    length: int
    payload_crc: int


def unpack_head(raw: bytes | memoryview, *, salt: int) -> Head | None:
    """None if it is no head, or a damaged one."""
    if len(raw) < HEAD_BYTES:
        return None
    mark, length, payload_crc = _HEAD.unpack_from(raw)
    if mark != MARK or crc32(raw[: _HEAD.size], salt) != _CRC.unpack_from(raw, _HEAD.size)[0]:
        return None
    return Head(length=length, payload_crc=payload_crc)


def payload_is_sound(payload: bytes, head: Head, *, salt: int) -> bool:
    return len(payload) == head.length and crc32(payload, salt) == head.payload_crc


def pack_frame(change: Change, cursor: WatchCursor, *, salt: int) -> bytes:
    """Raises: InvalidKeyError for a key with a newline in it."""
    entries = change.puts.values()
    values = [entry.value for entry in entries]
    tokens = [entry.version.raw for entry in entries]
    position = cursor.to_bytes()
    keys, removed = _join(change.puts), _join(change.removed)
    payload = b"".join(
        [
            _COUNTS.pack(len(position), len(values), len(keys), len(removed)),
            position,
            keys,
            removed,
            bytes(map(len, tokens)),
            b"".join([token.ljust(_VERSION_BYTES, b"\0") for token in tokens]),
            struct.pack(f"<{len(values)}q", *[to_micros(entry.created) for entry in entries]),
            struct.pack(f"<{len(values)}Q", *accumulate(map(len, values))),
            *values,
        ]
    )
    head = _HEAD.pack(MARK, len(payload), crc32(payload, salt))
    return b"".join([head, _CRC.pack(crc32(head, salt)), payload])


def entry_bytes(entry: KvEntry) -> int:
    """What the entry takes in a frame."""
    return len(entry.key) + len(entry.value) + _ENTRY_BYTES


class Frame:
    """A payload taken apart as far as needed: keys at once, an entry when it is asked for."""

    __slots__ = ("_created", "_ends", "_lengths", "_payload", "_values", "_versions", "cursor", "keys", "removed")

    def __init__(self, payload: bytes) -> None:
        """Raises: ValueError or struct.error for what `pack_frame` did not make."""
        position, count, keys, removed = _COUNTS.unpack_from(payload)
        keys_at = _COUNTS.size + position
        removed_at = keys_at + keys
        self._payload = payload
        self._lengths = removed_at + removed
        self._versions = self._lengths + count
        self._created = self._versions + count * _VERSION_BYTES
        self._ends = self._created + count * _I64.size
        self._values = self._ends + count * _U64.size
        self.cursor = WatchCursor.from_bytes(payload[_COUNTS.size : keys_at])
        self.keys = _split(payload[keys_at:removed_at])
        self.removed = _split(payload[removed_at : self._lengths])
        if len(self.keys) != count or self._values + self._end(count - 1) != len(payload):
            raise ValueError("the columns of a frame do not fit together")

    def entry(self, index: int) -> KvEntry:
        """The put number `index`."""
        payload = self._payload
        version = self._versions + index * _VERSION_BYTES
        (micros,) = _I64.unpack_from(payload, self._created + index * _I64.size)
        return KvEntry(
            key=self.keys[index],
            value=payload[self._values + self._end(index - 1) : self._values + self._end(index)],
            version=VersionToken(raw=payload[version : version + payload[self._lengths + index]]),
            created=from_micros(micros),
        )

    def entry_bytes(self, index: int) -> int:
        """As `entry_bytes` of that entry."""
        return len(self.keys[index]) + self._end(index) - self._end(index - 1) + _ENTRY_BYTES

    def put_bytes(self) -> int:
        """The sum of `entry_bytes` over all puts."""
        count = len(self.keys)
        return sum(map(len, self.keys)) + self._end(count - 1) + count * _ENTRY_BYTES

    def _end(self, index: int) -> int:
        if index < 0:
            return 0
        end: int = _U64.unpack_from(self._payload, self._ends + index * _U64.size)[0]
        return end


def _join(keys: Iterable[str]) -> bytes:
    listed = list(keys)
    text = "\n".join(listed)
    if text.count("\n") != max(len(listed) - 1, 0) or "" in listed:
        broken = next(key for key in listed if not key or "\n" in key)
        raise InvalidKeyError(key=broken, message="no key of a bucket is empty or has a newline in it")
    return text.encode()


def _split(keys: bytes) -> list[str]:
    return keys.decode().split("\n") if keys else []
