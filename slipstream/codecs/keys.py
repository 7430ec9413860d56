"""Free-form keys in the alphabet of the store. Pure."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Protocol

from slipstream.errors import DeserializationError

_EMPTY = "-"
_ENCODED = re.compile(r"-|(?:[0-9A-Za-y]|[-=_z][0-9a-f]{2})+")
_UNIT = re.compile(r"[0-9A-Za-y]|[-=_z][0-9a-f]{2}")


class KeyCodec(Protocol):
    """Keys of an application as keys of the store, and back."""

    @abstractmethod
    def encode(self, key: str) -> str:
        """The key of the store. Different keys have different ones."""

    @abstractmethod
    def decode(self, key: str) -> str:
        """The key that `encode` was given. Raises: DeserializationError for one that it did not make."""

    @abstractmethod
    def encode_prefix(self, prefix: str) -> str:
        """A prefix of the store that matches exactly the encoded keys that begin with `prefix`."""


class EscapingKeyCodec(KeyCodec):
    """Any string is a key; its tokens, between separators, become tokens of the store.

    Digits and letters but `z` stay as they are; every other byte of the UTF-8 text becomes three characters, the empty
    token `-`. Within a token the order (by code point, as Python compares strings) and prefixes are kept:
    `a < b` exactly if `encode(a) < encode(b)`, and `b.startswith(a)` exactly if the encoded one does.
    """

    def __init__(self, separator: str = ".") -> None:
        """Raises: ValueError for an empty separator."""
        if not separator:
            raise ValueError("the separator is at least one character")
        self._separator = separator

    def encode(self, key: str) -> str:
        return ".".join(_escape(token) or _EMPTY for token in key.split(self._separator))

    def decode(self, key: str) -> str:
        return self._separator.join(_unescape(token, key) for token in key.split("."))

    def encode_prefix(self, prefix: str) -> str:
        *whole, begun = prefix.split(self._separator)
        return ".".join([*(_escape(token) or _EMPTY for token in whole), _escape(begun)])


def _escape(token: str) -> str:
    # surrogatepass: a lone surrogate is no text, but it is in Python strings (os.fsdecode), and any of those is a key.
    return "".join(_CODES[byte] for byte in token.encode("utf-8", "surrogatepass"))


def _unescape(token: str, key: str) -> str:
    if _ENCODED.fullmatch(token) is None:
        raise DeserializationError(key=key, message="this key was not written by this key codec")
    if token == _EMPTY:
        return ""
    raw = b"".join(_BYTES.get(unit, b"") for unit in _UNIT.findall(token))
    try:
        text = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = ""
    if _escape(text) != token:  # another spelling of the same bytes, or no text at all
        raise DeserializationError(key=key, message="this key was not written by this key codec")
    return text


def _code(byte: int) -> str:
    """Itself, or a lead that sorts where the byte does among those that stay themselves: - 0..9 = A..Z _ a..y z."""
    if chr(byte).isascii() and chr(byte).isalnum() and byte != ord("z"):
        return chr(byte)
    if byte < ord("0"):
        lead = "-"
    elif byte < ord("A"):
        lead = "="
    elif byte < ord("a"):
        lead = "_"
    else:
        lead = "z"
    return f"{lead}{byte:02x}"


_CODES = [_code(byte) for byte in range(256)]
_BYTES = {code: bytes([byte]) for byte, code in enumerate(_CODES)}
