"""Moments as numbers. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNKNOWN = -(2**63)


def to_micros(moment: datetime | None) -> int:
    """Microseconds since 1970, in 64 bits with a sign; the lowest number for None."""
    return _UNKNOWN if moment is None else (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime | None:
    """The moment (UTC) that `to_micros` made this number of. Raises: OverflowError outside of the calendar."""
    return None if micros == _UNKNOWN else _EPOCH + timedelta(microseconds=micros)
