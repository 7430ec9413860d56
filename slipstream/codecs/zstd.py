"""Compression, by the zstandard package (extra `zstd`)."""

from __future__ import annotations

import zstandard

from slipstream.codecs.values import BytesCodec
from slipstream.errors import DeserializationError

_MAX_DECODED_BYTES = 64 * 1024 * 1024
"""The most that one message of a server can be configured to hold."""


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
            # The frame's own size is believed by `decompress` whatever max_output_size says, so it is checked first.
            size = zstandard.frame_content_size(raw)
            if size > self._max:
                raise DeserializationError(
                    key=key, message=f"the stored value decompresses to more than {self._max} bytes"
                )
            return zstandard.ZstdDecompressor().decompress(raw, max_output_size=self._max, allow_extra_data=False)
        except zstandard.ZstdError:
            raise DeserializationError(
                key=key, message="the stored value is no Zstandard frame, or a damaged or too large one"
            ) from None

    def __repr__(self) -> str:
        return f"ZstdCodec(level={self._level})"
