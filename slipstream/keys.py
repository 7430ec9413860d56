"""L0: what a legal key, prefix and bucket name is; the only place that says so."""

from __future__ import annotations

import re

from slipstream.errors import InvalidKeyError

MAX_KEY_BYTES = 1024
"""The server's control line is 4096 bytes and a direct get names the key beside the bucket (PROTOCOL.md, b)."""
MAX_BUCKET_BYTES = 252
"""A stream's name has at most 255 (10052 "stream name is too long", 2.15.1), and KV_ stands before the bucket's."""

# fullmatch everywhere: `$` would let a trailing newline through, the classic hole of `^...$` checks.
_KEY = re.compile(r"[-/_=a-zA-Z0-9]+(?:\.[-/_=a-zA-Z0-9]+)*")
_PREFIX = re.compile(r"(?:[-/_=a-zA-Z0-9]+(?:\.[-/_=a-zA-Z0-9]+)*\.?)?")
_BUCKET = re.compile(r"[-_a-zA-Z0-9]+")
_RULE = "tokens of letters, digits and - / _ = joined by single dots"


def check_key(key: str, *, store: str | None = None) -> str:
    """The key itself, if it is legal: tokens of `[-/_=a-zA-Z0-9]` joined by single dots, at most 1024 bytes.

    Raises: InvalidKeyError otherwise.
    """
    if not isinstance(key, str) or _KEY.fullmatch(key) is None:
        raise InvalidKeyError(message=f"a key is {_RULE}", store=store, key=_shown(key))
    if len(key) > MAX_KEY_BYTES:
        raise InvalidKeyError(message=f"a key has at most {MAX_KEY_BYTES} bytes", store=store, key=_shown(key))
    return key


def check_prefix(prefix: str, *, store: str | None = None) -> str:
    """The prefix itself, if it is legal: empty, or the beginning of a legal key, which may end in a dot.

    Raises: InvalidKeyError otherwise; wildcards (`*`, `>`) are illegal too.
    """
    if not isinstance(prefix, str) or _PREFIX.fullmatch(prefix) is None:
        raise InvalidKeyError(
            message=f"a prefix is the beginning of a key ({_RULE}), without wildcards", store=store, key=_shown(prefix)
        )
    if len(prefix) > MAX_KEY_BYTES:
        raise InvalidKeyError(message=f"a prefix has at most {MAX_KEY_BYTES} bytes", store=store, key=_shown(prefix))
    return prefix


def check_bucket(name: str) -> str:
    """The bucket name itself, if it is legal: letters, digits, `-` and `_`.

    Raises: InvalidKeyError otherwise.
    """
    if not isinstance(name, str) or _BUCKET.fullmatch(name) is None:
        raise InvalidKeyError(message="a bucket name is made of letters, digits, - and _", store=_shown(name))
    if len(name) > MAX_BUCKET_BYTES:
        raise InvalidKeyError(message=f"a bucket name has at most {MAX_BUCKET_BYTES} bytes", store=_shown(name))
    return name


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
