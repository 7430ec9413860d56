"""Encryption, by the cryptography package (extra `crypto`)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from slipstream.codecs.values import BytesCodec
from slipstream.errors import DeserializationError

_FORMAT = b"\x01"
_NONCE_BYTES = 12
_TAG_BYTES = 16


class AesGcmCodec(BytesCodec):
    """AES-GCM with keys that can be rotated: what was written under any of them is read, writes are under the current.

    A value is bound to its key in the store: copied to another key it cannot be read there. An older value put back at
    its own key can be. Length, key and time of a value stay visible. The nonce is random: one key is good for 2**32
    values (NIST SP 800-38D, 8.3).

    To rotate: give every reader the new key, then make it current everywhere, then write again what `key_id` says is
    under the old one, then drop that.
    """

    def __init__(self, keys: Mapping[str, bytes], *, current: str) -> None:
        """A codec.

        Args:
            keys: by id (1 to 255 bytes of UTF-8, stored with each value, no secret), each of 16, 24 or 32 bytes.
            current: the id of the key to write with.
        Raises: ValueError, which shows no key.
        """
        if current not in keys:
            raise ValueError(f"there is no key {current!r} to write with, only {sorted(keys)}")
        for name, secret in keys.items():
            if not 1 <= len(name.encode()) <= 255:
                raise ValueError("the id of a key has 1 to 255 bytes")
            if len(secret) not in (16, 24, 32):
                raise ValueError(f"key {name!r} has {len(secret)} bytes: AES takes 16, 24 or 32")
        self._ciphers = {name: AESGCM(secret) for name, secret in keys.items()}
        self._current = current

    def encode(self, raw: bytes, *, key: str) -> bytes:
        name = self._current.encode()
        head = _FORMAT + bytes([len(name)]) + name
        nonce = os.urandom(_NONCE_BYTES)
        return head + nonce + self._ciphers[self._current].encrypt(nonce, raw, head + key.encode())

    def decode(self, raw: bytes, *, key: str) -> bytes:
        name, head = _split(raw, key)
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise DeserializationError(
                key=key, message=f"the stored value is encrypted with key {name!r}, and that is not among the keys here"
            )
        body = raw[len(head) :]
        try:
            return cipher.decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], head + key.encode())
        except InvalidTag:
            raise DeserializationError(
                key=key,
                message=f"the stored value does not belong here or was changed, or key {name!r} is another one",
            ) from None

    def key_id(self, raw: bytes) -> str:
        """The id of the key that a stored value is encrypted with. Raises: DeserializationError."""
        return _split(raw, None)[0]

    def __repr__(self) -> str:
        return f"AesGcmCodec(keys={sorted(self._ciphers)}, current={self._current!r})"


def _split(raw: bytes, key: str | None) -> tuple[str, bytes]:
    """The id of the key, and the head that says it."""
    end = 2 + raw[1] if len(raw) > 1 else 2
    if raw[:1] != _FORMAT or len(raw) < end + _NONCE_BYTES + _TAG_BYTES:
        raise DeserializationError(key=key, message="the stored value is not encrypted in this format")
    try:
        return raw[2:end].decode(), raw[:end]
    except UnicodeDecodeError:
        raise DeserializationError(key=key, message="the stored value is not encrypted in this format") from None
