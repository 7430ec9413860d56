"""What is in a log after whatever happened to it: decided from its bytes alone.

A write is durable before the next one begins. So only what is last in a file can be half written (a torn tail, which
was never acknowledged and is dropped); a broken frame with a sound one after it is damage.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from slipstream.errors import SnapshotCorruptedError
from slipstream.replica.append_log.frame import (
    HEAD_BYTES,
    HEADER_BYTES,
    MARK,
    FileHeader,
    Frame,
    payload_is_sound,
    unpack_head,
)

_CHUNK = 1 << 20


def read_header(file: BinaryIO) -> FileHeader | None:
    """The header at the beginning of the file; None where a torn one is all there is.

    Raises: SnapshotError, SnapshotCorruptedError; see `FileHeader.unpack`.
    """
    file.seek(0)
    try:
        return FileHeader.unpack(file.read(HEADER_BYTES))
    except SnapshotCorruptedError:
        if _only_zeros(file):
            return None  # nothing came after it, so nothing was acknowledged
        raise


def read_frames(file: BinaryIO, header: FileHeader) -> Iterator[tuple[Frame, int]]:
    """The frames after the header, each with where it ends; it stops before a torn tail.

    Raises: SnapshotCorruptedError for damage before the tail, or anywhere in what a compaction wrote.
    """
    at = HEADER_BYTES
    file.seek(at)
    while raw := file.read(HEAD_BYTES):
        head = unpack_head(raw, salt=header.salt)
        # A length is believed only with its CRC: a damaged one would ask for any amount of memory.
        payload = file.read(head.length) if head is not None else b""
        if head is None or not payload_is_sound(payload, head, salt=header.salt):
            if at < header.base_end or _sound_head_after(file, at + 1, salt=header.salt):
                raise SnapshotCorruptedError(message=f"it is damaged at byte {at}, with sound data after it")
            return
        at += HEAD_BYTES + head.length
        try:
            yield Frame(payload), at
        except (ValueError, struct.error) as error:
            raise SnapshotCorruptedError(message=f"the frame that ends at byte {at} makes no sense: {error}") from error
    if at < header.base_end:
        raise SnapshotCorruptedError(message=f"it ends at byte {at}, inside of what a compaction wrote")


def _only_zeros(file: BinaryIO) -> bool:
    while chunk := file.read(_CHUNK):
        if chunk.strip(b"\0"):
            return False
    return True


def _sound_head_after(file: BinaryIO, at: int, *, salt: int) -> bool:
    """Whether a frame begins anywhere from `at` on: then what stands before it had been durable."""
    file.seek(at)
    window = b""
    while chunk := file.read(_CHUNK):
        window += chunk
        found = window.find(MARK)
        while found >= 0:
            if unpack_head(memoryview(window)[found:], salt=salt) is not None:
                return True
            found = window.find(MARK, found + 1)
        window = window[-(HEAD_BYTES - 1) :]  # a head may lie across two chunks
    return False
