"""Compression, by the zstandard package (extra `zstd`)."""

from __future__ import annotations

import zstandard

from slipstream.codecs.values import BytesCodec
from slipstream.errors import DeserializationError

_MAX_DECODED_BYTES = 64 * 1024 * 1024
"""The most that one message of a server can be configured to hold."""
_STEP = 256
"""Bytes: of a frame that does not say its size so many are looked at at once; they can become 8 MiB (64 RLE blocks)."""


class _TooMuch(Exception):
    """More than may come out."""


class ZstdCodec(BytesCodec):
    """Zstandard frames with a checksum."""

    def __init__(self, *, level: int = 3, max_decoded_bytes: int = _MAX_DECODED_BYTES) -> None:
        """A codec.

        Args:
            level: 1 (quick) to 22 (small).
            max_decoded_bytes: what decodes to more is refused: a few bytes can say that they are many gigabytes.
        """
        if not 1 <= level <= zstandard.MAX_COMPRESSION_LEVEL:
            raise ValueError(f"level is 1 to {zstandard.MAX_COMPRESSION_LEVEL}, not {level}")
        self._level = level
        self._max = max_decoded_bytes

    # A compressor and a decompressor of one's own for each call: they must not be used by two threads at once.

    def encode(self, raw: bytes, *, key: str) -> bytes:
        return zstandard.ZstdCompressor(level=self._level, write_checksum=True).compress(raw)

    def decode(self, raw: bytes, *, key: str) -> bytes:
        try:
            plain = self._decompressed(raw)
        except _TooMuch:
            raise DeserializationError(
                key=key, message=f"the stored value decompresses to more than {self._max} bytes"
            ) from None
        except zstandard.ZstdError:
            plain = None
        if plain is None:
            raise DeserializationError(key=key, message="the stored value is no Zstandard frame, or a damaged one")
        return plain

    def _decompressed(self, raw: bytes) -> bytes | None:
        """None for what is no single whole frame."""
        size = zstandard.frame_content_size(raw)
        if size > self._max:
            raise _TooMuch
        # Not `decompress`: where a damaged head says 0 bytes it returns nothing, without a look at the rest (0.25.0).
        frame = zstandard.ZstdDecompressor().decompressobj()
        step = len(raw) if size >= 0 else _STEP  # a frame that says its size cannot hold more
        plain = bytearray()
        for start in range(0, len(raw), step):
            if frame.eof:
                return None  # something comes after the frame
            plain += frame.decompress(raw[start : start + step])
            if len(plain) > self._max:
                raise _TooMuch
        return bytes(plain) if frame.eof and not frame.unused_data else None

    def __repr__(self) -> str:
        return f"ZstdCodec(level={self._level})"
