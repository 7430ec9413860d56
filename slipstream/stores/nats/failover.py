"""Which server is tried next, and after what wait. Pure: addresses and seconds in, an address and seconds out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

FIRST_WAIT = 0.05
"""Seconds before the first attempt, so that a cluster's clients do not come back all at the same moment."""
_MOST_DOUBLINGS = 10
_REST_FACTOR = 2.0
"""A server rests so many times as long as it kept us waiting in vain: black holes get a third of the time at most."""


class Failover:
    """The servers of one connection and how they behaved, by address.

    A server that failed rests, longer with every failure in a row up to `max_wait`, and longer still where it did not
    even answer. The one whose rest ends first is next: those that nothing speaks against, then the one that was just
    lost, then those that refused, last those that kept silent. Each gets its chance again.

    Args:
        max_wait: seconds, the longest wait before an attempt.
        spread: a number between two others, for jitter.
    """

    def __init__(self, max_wait: float, *, spread: Callable[[float, float], float] = random.uniform) -> None:
        self._max_wait = max_wait
        self._spread = spread
        self._failures: dict[str, int] = {}
        self._rested: dict[str, float] = {}
        self._trying: tuple[str, float] | None = None

    def choose(self, servers: Sequence[str], now: float) -> tuple[str, float]:
        """The next server and the seconds to wait before trying it. Asked again, that attempt has failed.

        Args:
            servers: all there are now, at least one; among equals the first is taken.
            now: seconds of a monotonic clock.
        """
        if self._trying is not None:
            self._failed(*self._trying, now)
        server = min(servers, key=lambda one: self._rested.get(one, 0.0))
        rest = self._rested.get(server, 0.0) - now
        wait = min(max(rest, FIRST_WAIT), self._max_wait) * self._spread(0.5, 1.0)
        self._trying = (server, now + wait)
        return server, wait

    def connected(self) -> None:
        """The attempt at the server chosen last has worked: its failures are forgotten."""
        if self._trying is not None:
            self._failures.pop(self._trying[0], None)
            self._rested.pop(self._trying[0], None)
            self._trying = None

    def lost(self, server: str, now: float) -> None:
        """A connection to it has ended: the others come first."""
        self._rested[server] = now

    def _failed(self, server: str, began: float, now: float) -> None:
        failures = self._failures[server] = self._failures.get(server, 0) + 1
        rest = min(self._max_wait, FIRST_WAIT * 2 ** min(failures, _MOST_DOUBLINGS))
        self._rested[server] = now + max(rest, _REST_FACTOR * (now - began))
