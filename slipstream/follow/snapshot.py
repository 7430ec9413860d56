"""A state in a file, to start from while no server can be reached."""

from __future__ import annotations

import base64
import binascii
import json
import os
import tempfile
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from slipstream.errors import SnapshotCorruptedError, SnapshotError
from slipstream.model import KvEntry, VersionToken, WatchCursor

_FORMAT = "slipstream-state"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The entries of some prefixes as of a cursor.

    Attributes:
        prefixes: what was followed; a snapshot of something else is not taken.
        saved: when (UTC).
    """

    prefixes: tuple[str, ...]
    cursor: WatchCursor
    saved: datetime
    entries: tuple[KvEntry, ...]


class SnapshotFile(Protocol):
    """Where a snapshot is kept. Both methods block; they are called in a thread, one at a time."""

    @abstractmethod
    def load(self) -> Snapshot | None:
        """What was saved last, None if nothing was. Raises: SnapshotError, SnapshotCorruptedError."""

    @abstractmethod
    def save(self, snapshot: Snapshot) -> None:
        """Replace what was saved; whenever it is interrupted, the old or the new one is there.

        Raises: SnapshotError.
        """


class JsonLinesSnapshot(SnapshotFile):
    """One file: a line that says what it is, one line an entry, and a last line with count and CRC-32 of those before.

    Values are in it as they are in the store: encrypted only if they are so there. It is made readable by its owner
    alone.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> Snapshot | None:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SnapshotError(message=f"{self._path} cannot be read: {error.strerror}") from error
        try:
            return _parse(raw)
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise SnapshotCorruptedError(
                message=f"{self._path} is damaged ({type(error).__name__}): delete it to begin anew"
            ) from None  # the cause may show a value

    def save(self, snapshot: Snapshot) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._replace(_lines(snapshot))
        except OSError as error:
            raise SnapshotError(message=f"{self._path} cannot be written: {error.strerror}") from error

    def _replace(self, lines: Iterator[bytes]) -> None:
        # A name of its own: two processes that save to one path must not write into one file.
        number, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # mode 0600
        try:
            with os.fdopen(number, "wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(name).unlink()
            raise
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # a rename is durable once its folder is
        finally:
            os.close(folder)


def _lines(snapshot: Snapshot) -> Iterator[bytes]:
    head = {
        "format": _FORMAT,
        "version": _VERSION,
        "prefixes": list(snapshot.prefixes),
        "cursor": str(snapshot.cursor),
        "saved": snapshot.saved.isoformat(),
    }
    checksum = 0
    for line in (head, *map(_from_entry, snapshot.entries)):
        raw = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        checksum = zlib.crc32(raw, checksum)
        yield raw
    yield json.dumps({"entries": len(snapshot.entries), "crc32": checksum}).encode() + b"\n"


def _parse(raw: bytes) -> Snapshot:
    body, newline, tail = raw.rstrip(b"\n").rpartition(b"\n")
    end = json.loads(tail)
    if zlib.crc32(body + newline) != end["crc32"]:
        raise ValueError("checksum")
    head, *lines = [json.loads(line) for line in body.split(b"\n")]
    if head["format"] != _FORMAT or len(lines) != end["entries"]:
        raise ValueError("format")
    if head["version"] != _VERSION:
        raise SnapshotError(
            message=f"the snapshot has format version {head['version']}, this program reads {_VERSION}: delete it"
        )
    return Snapshot(
        prefixes=tuple(head["prefixes"]),
        cursor=WatchCursor.parse(head["cursor"]),
        saved=datetime.fromisoformat(head["saved"]).astimezone(UTC),
        entries=tuple(map(_to_entry, lines)),
    )


def _from_entry(entry: KvEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "value": base64.b64encode(entry.value).decode(),
        "version": bytes(entry.version).hex(),
        "created": None if entry.created is None else entry.created.isoformat(),
    }


def _to_entry(line: dict[str, Any]) -> KvEntry:
    created = line["created"]
    return KvEntry(
        key=line["key"],
        value=base64.b64decode(line["value"], validate=True),
        version=VersionToken.from_bytes(bytes.fromhex(line["version"])),
        created=None if created is None else datetime.fromisoformat(created),
    )
