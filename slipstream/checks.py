"""L1: what is checked of arguments before anything is done, the same on every backend. Pure."""

from __future__ import annotations

from datetime import timedelta

from slipstream.errors import OperationFailedError, UnsupportedError
from slipstream.interfaces import Ttl
from slipstream.model import Drift, StoreConfig, VersionToken


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


def refuse_ttl(ttl: Ttl | None, *, store: str, key: str) -> None:
    """Raises: ValueError for a ttl under a second; UnsupportedError for any other."""
    if ttl is None:
        return
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if not seconds >= 1:  # NaN too
        raise ValueError(f"a ttl is at least one second, not {ttl}")
    raise UnsupportedError(store=store, key=key, message="keys with a ttl are not available here")


def drift(wanted: StoreConfig, actual: StoreConfig) -> list[Drift]:
    """Where a bucket differs from what was asked for in so many words: fields left to their defaults are no wish."""
    return [
        Drift(field=field, wanted=getattr(wanted, field), actual=getattr(actual, field))
        for field in StoreConfig.model_fields
        if field in wanted.model_fields_set and getattr(wanted, field) != getattr(actual, field)
    ]
