"""Times of the server, which has nanoseconds; ours have microseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Moment = datetime | str | bytes | int | None
"""When something was stored, as far as it was read: a time, nanoseconds since 1970, or the server's text of either."""


def parse_time(text: str) -> datetime | None:
    """A time of the server (RFC 3339, up to nanoseconds) cut to microseconds, None where it cannot be read."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):  # the latter where its zone moves it out of the calendar
        return None


def time_from_ns(nanoseconds: int) -> datetime | None:
    """A time of the server given in nanoseconds since 1970, None where the calendar has no such time."""
    try:
        return EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None


def to_datetime(moment: Moment) -> datetime | None:
    """The time (UTC), None where it is none."""
    if isinstance(moment, int):
        return time_from_ns(moment)
    if isinstance(moment, bytes):
        moment = moment.decode()
    if isinstance(moment, str):
        return time_from_ns(int(moment)) if moment.isdigit() else parse_time(moment)
    return moment
