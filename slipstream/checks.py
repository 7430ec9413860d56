"""L1: what is checked of arguments before anything is done, the same on every backend. Pure."""

from __future__ import annotations

import math
from datetime import timedelta

from slipstream.errors import OperationFailedError, UnsupportedError
from slipstream.interfaces import Ttl
from slipstream.model import Drift, StoreConfig, VersionToken

_LONGEST_TTL = 9_000_000_000
"""Seconds; the server counts nanoseconds in 63 bits."""


def to_revision(version: VersionToken, *, store: str, key: str) -> int:
    """Raises: OperationFailedError for a version that holds no revision."""
    revision = version.as_u64()
    if revision is None:
        raise OperationFailedError(store=store, key=key, message=f"version {version} is no revision: read it first")
    return revision


def to_value(value: object) -> bytes:
    """A copy of anything that holds bytes, `bytes` as they are. Raises: TypeError for the rest, as `str` and `int`."""
    if type(value) is bytes:
        return value
    try:
        return bytes(memoryview(value))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"a value is bytes, not {type(value).__name__}: encode it") from None


def to_age(age: Ttl) -> timedelta:
    """Raises: ValueError for a negative age."""
    span = age if isinstance(age, timedelta) else timedelta(seconds=age)
    if span < timedelta(0):
        raise ValueError(f"an age is not negative: {age}")
    return span


def to_ttl(ttl: Ttl | None, *, refusal: str | None, store: str, key: str) -> int | None:
    """Whole seconds, rounded up; None for no ttl.

    Args:
        refusal: why there can be none here, None if there can.
    Raises: ValueError for less than a second or more than the server can count; UnsupportedError with `refusal`.
    """
    if ttl is None:
        return None
    exact = ttl / timedelta(seconds=1) if isinstance(ttl, timedelta) else ttl
    if not 1 <= exact <= _LONGEST_TTL:  # NaN too
        raise ValueError(f"a ttl is at least one second and at most {_LONGEST_TTL}, not {ttl}")
    if refusal is not None:
        raise UnsupportedError(store=store, key=key, message=refusal)
    return -(-ttl // timedelta(seconds=1)) if isinstance(ttl, timedelta) else math.ceil(ttl)


def ttl_refusal(config: StoreConfig) -> str | None:
    """Why keys of such a bucket cannot have a ttl, None if they can."""
    if config.max_history != 1:
        return "a ttl needs a bucket with max_history=1: with more, an older value comes back when the newest expires"
    if config.marker_ttl is None:
        return (
            "this bucket leaves no limit markers, so that nobody would see a key expire: "
            "they are enabled by marker_ttl in the StoreConfig that the bucket is created with"
        )
    return None


def drift(wanted: StoreConfig, actual: StoreConfig) -> list[Drift]:
    """Where a bucket differs from what was asked for in so many words: fields left to their defaults are no wish."""
    return [
        Drift(field=field, wanted=getattr(wanted, field), actual=getattr(actual, field))
        for field in StoreConfig.model_fields
        if field in wanted.model_fields_set and getattr(wanted, field) != getattr(actual, field)
    ]
