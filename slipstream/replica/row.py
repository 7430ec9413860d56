"""An entry, and how far a fold has come, as bytes with a CRC: what is read is what was written. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

from slipstream.errors import SnapshotCorruptedError, SnapshotError
from slipstream.model import KvEntry, VersionToken, WatchCursor
from slipstream.replica.times import from_micros, to_micros

SCHEMA = 1

_CRC = struct.Struct("<I")
_FIXED = struct.Struct("<Bq")  # length of the version, microseconds
_VERSION_AT = _CRC.size + _FIXED.size
_POSITION = struct.Struct("<HQ")


def pack_row(entry: KvEntry) -> bytes:
    version = entry.version.raw
    body = b"".join((_FIXED.pack(len(version), to_micros(entry.created)), version, entry.value))
    return _CRC.pack(_row_crc(entry.key, body)) + body


def unpack_row(key: str, row: bytes) -> KvEntry:
    """Raises: SnapshotCorruptedError for what `pack_row` did not make of this key."""
    if len(row) < _VERSION_AT or _CRC.unpack_from(row)[0] != _row_crc(key, row[_CRC.size :]):
        raise SnapshotCorruptedError(key=key, message="the entry in the snapshot is damaged")
    length, micros = _FIXED.unpack_from(row, _CRC.size)
    value_at = _VERSION_AT + length
    version = VersionToken(raw=row[_VERSION_AT:value_at])
    return KvEntry(key=key, value=row[value_at:], version=version, created=from_micros(micros))


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a fold has come, and how many keys it then has."""

    cursor: WatchCursor
    count: int
    schema: int = SCHEMA

    def pack(self) -> bytes:
        body = _POSITION.pack(self.schema, self.count) + self.cursor.to_bytes()
        return _CRC.pack(crc32(body)) + body

    @classmethod
    def unpack(cls, raw: bytes) -> Position:
        """Raises: SnapshotError for another schema, SnapshotCorruptedError for anything that `pack` did not make."""
        if len(raw) < _CRC.size + _POSITION.size or _CRC.unpack_from(raw)[0] != crc32(raw[_CRC.size :]):
            raise SnapshotCorruptedError(message="the cursor in the snapshot is damaged")
        schema, count = _POSITION.unpack_from(raw, _CRC.size)
        if schema != SCHEMA:
            raise SnapshotError(
                message=f"the snapshot has schema {schema}, this release reads {SCHEMA}: use the one that wrote it"
            )
        return cls(cursor=WatchCursor.from_bytes(raw[_CRC.size + _POSITION.size :]), count=count)


def _row_crc(key: str, body: bytes) -> int:
    return crc32(body, crc32(key.encode()))
