"""MessagePack, by the msgpack package (extra `msgpack`)."""

from __future__ import annotations

from typing import Any

import msgpack

from slipstream.codecs.values import Codec
from slipstream.errors import DeserializationError, SerializationError


class MessagePackCodec(Codec):
    """MessagePack: as JSON, but smaller, and bytes are values, too. Integers are those of 64 bits."""

    def encode(self, value: Any, *, key: str) -> bytes:
        try:
            return msgpack.packb(value, use_bin_type=True)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise SerializationError(
                key=key, message=f"no MessagePack can be made of it: {type(error).__name__}"
            ) from None

    def decode(self, raw: bytes, *, key: str) -> Any:
        try:
            return msgpack.unpackb(raw, raw=False, strict_map_key=True)
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
            raise DeserializationError(key=key, message="the stored value is no MessagePack") from None

    def __repr__(self) -> str:
        return "MessagePackCodec()"
