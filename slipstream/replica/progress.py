"""How far a replica has come, for a progress bar and for a dashboard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.model import KvUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaProgress:
    """The way to `ready`.

    Attributes:
        done: updates applied since the start.
        expected: how many there are to be in all, as far as the server has said; grows with what is written meanwhile.
        bytes: keys and values applied since the start.
        rate: updates applied a second, from the start until ready.
    """

    done: int
    expected: int
    bytes: int
    rate: float

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return min(self.done / self.expected, 1.0) if self.expected else 1.0


class Meter:
    """Counts what is applied."""

    def __init__(self) -> None:
        self.done = 0
        self.bytes = 0
        self._began = time.monotonic()
        self._rate: float | None = None

    def count(self, batch: Sequence[KvUpdate]) -> None:
        self.done += len(batch)
        self.bytes += sum(len(update.key) + len(update.value) for update in batch)

    def hydrated(self) -> None:
        """From now on it is no longer catching up."""
        if self._rate is None:
            self._rate = self._rate_now()

    def progress(self, pending: int) -> ReplicaProgress:
        """With so many more updates known of."""
        rate = self._rate_now() if self._rate is None else self._rate
        return ReplicaProgress(done=self.done, expected=self.done + pending, bytes=self.bytes, rate=rate)

    def _rate_now(self) -> float:
        seconds = time.monotonic() - self._began
        return self.done / seconds if seconds > 0 else 0.0
