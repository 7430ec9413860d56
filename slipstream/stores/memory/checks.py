"""What is checked of arguments before anything is done. Pure."""

from __future__ import annotations

from datetime import timedelta

from slipstream.errors import OperationFailedError, UnsupportedError
from slipstream.interfaces import Ttl
from slipstream.model import VersionToken


def to_revision(version: VersionToken, *, store: str, key: str) -> int:
    """Raises: OperationFailedError for a version that holds no revision."""
    revision = version.as_u64()
    if revision is None:
        raise OperationFailedError(store=store, key=key, message=f"version {version} holds no revision")
    return revision


def to_value(value: object) -> bytes:
    """A copy of anything that holds bytes. Raises: TypeError for the rest, above all `str` and `int`."""
    try:
        return bytes(memoryview(value))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"a value is bytes, not {type(value).__name__}: encode it") from None


def to_duration(duration: Ttl) -> timedelta:
    return duration if isinstance(duration, timedelta) else timedelta(seconds=duration)


def refuse_ttl(ttl: Ttl | None, *, store: str, key: str) -> None:
    """Raises: ValueError for a ttl under a second; UnsupportedError for any other."""
    if ttl is None:
        return
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if not seconds >= 1:  # NaN too
        raise ValueError(f"a ttl is at least one second, not {ttl}")
    raise UnsupportedError(store=store, key=key, message="memory:// has no ttl for single keys")
