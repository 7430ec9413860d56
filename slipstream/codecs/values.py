"""What makes bytes of values, and chains of such."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Any, Protocol

from slipstream.errors import DeserializationError, SerializationError


class Codec(Protocol):
    """Plain values (None, bool, int, float, str, lists, dicts with str keys) as bytes, and back.

    `key` is the key in the store, for codecs that bind a value to it and for errors. An encoded value is never empty:
    an empty one reads as absent. No error shows a value.
    """

    @abstractmethod
    def encode(self, value: Any, *, key: str) -> bytes:
        """Raises: SerializationError."""

    @abstractmethod
    def decode(self, raw: bytes, *, key: str) -> Any:
        """Raises: DeserializationError."""

    def __or__(self, other: BytesCodec) -> Codec:
        return _Chain(self, other)


class BytesCodec(Protocol):
    """Bytes as other bytes, and back; put behind a codec by `|`. Never makes nothing out of something."""

    @abstractmethod
    def encode(self, raw: bytes, *, key: str) -> bytes:
        """Raises: SerializationError."""

    @abstractmethod
    def decode(self, raw: bytes, *, key: str) -> bytes:
        """Raises: DeserializationError."""


class _Chain(Codec):
    def __init__(self, first: Codec, second: BytesCodec) -> None:
        self._first = first
        self._second = second

    def encode(self, value: Any, *, key: str) -> bytes:
        return self._second.encode(self._first.encode(value, key=key), key=key)

    def decode(self, raw: bytes, *, key: str) -> Any:
        return self._first.decode(self._second.decode(raw, key=key), key=key)

    def __repr__(self) -> str:
        return f"{self._first!r} | {self._second!r}"


class JsonCodec(Codec):
    """JSON in UTF-8, without spaces. NaN and infinity are refused: other languages cannot read them."""

    def encode(self, value: Any, *, key: str) -> bytes:
        try:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(key=key, message=f"no JSON can be made of it: {type(error).__name__}") from None

    def decode(self, raw: bytes, *, key: str) -> Any:
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise DeserializationError(key=key, message="the stored value is no JSON") from None

    def __repr__(self) -> str:
        return "JsonCodec()"


class RawCodec(Codec):
    """Bytes as they are: to compress or encrypt what is no model."""

    def encode(self, value: Any, *, key: str) -> bytes:
        if not isinstance(value, bytes):
            raise SerializationError(key=key, message=f"bytes are wanted, not {type(value).__name__}")
        return value

    def decode(self, raw: bytes, *, key: str) -> Any:
        return raw

    def __repr__(self) -> str:
        return "RawCodec()"
