"""How many updates are applied together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """A batch is flushed when it is full or its time is up, whichever is first.

    Attributes:
        max_items: updates; the updates of one commit stay together and may exceed it.
        window: seconds or `timedelta` from its first update until it is flushed.
        progress_interval: seconds or `timedelta` after which the cursor is saved though nothing came, so that
            that of a quiet prefix does not grow too old in a busy bucket.
    """

    max_items: int = 1000
    window: float | timedelta = 0.01
    progress_interval: float | timedelta = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.max_items, bool) or self.max_items < 1:
            raise ValueError(f"max_items is at least 1, not {self.max_items}")
        if not self.window_seconds >= 0:  # NaN too
            raise ValueError(f"window is not negative, but {self.window}")
        if not self.progress_seconds > 0:
            raise ValueError(f"progress_interval is above 0, not {self.progress_interval}")

    @property
    def window_seconds(self) -> float:
        return _seconds(self.window)

    @property
    def progress_seconds(self) -> float:
        return _seconds(self.progress_interval)


def _seconds(span: float | timedelta) -> float:
    return span.total_seconds() if isinstance(span, timedelta) else span
