"""The server's clock as far as it is known here: whether a ttl has ended is never decided by this machine's."""

from __future__ import annotations

from datetime import datetime, timedelta
from time import monotonic

_DRIFT = 1e-3
"""Two clocks part by less than this, in seconds a second; generous, and what it costs is a question more."""


class ServerClock:
    """Told the time of the server by its answers, it counts on by the monotonic clock.

    The time in an answer was taken before the answer arrived: so `now` is never ahead of the server, and what has
    ended by it has ended.
    """

    def __init__(self) -> None:
        self._seen: tuple[datetime, float, float] | None = None

    def observe(self, moment: datetime | None, *, asked: float) -> None:
        """The server's time in an answer that has just arrived, to a question sent at `asked` (monotonic seconds)."""
        if moment is not None:
            self._seen = moment, monotonic(), asked

    def has_passed(self, end: datetime) -> bool:
        """By the server's clock it is `end` or later. Certain right after `observe`."""
        if self._seen is None:
            return False
        moment, arrived, _ = self._seen
        return moment + timedelta(seconds=monotonic() - arrived) >= end

    def lies_ahead(self, end: datetime) -> bool:
        """It is certainly earlier than `end`, even if the last answer was slow and the clocks have drifted since."""
        if self._seen is None:
            return False
        moment, arrived, asked = self._seen
        now = monotonic()
        return moment + timedelta(seconds=now - asked + (now - arrived) * _DRIFT) < end
