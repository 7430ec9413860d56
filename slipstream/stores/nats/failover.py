"""Which server is tried next, and after what wait. Pure: addresses and seconds in, an address and seconds out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

FIRST_WAIT = 0.05
"""Seconds before the first attempt, shortened at random: a server's clients do not all come back in one moment."""
_MOST_DOUBLINGS = 10
_REST_FACTOR = 2.0
"""A server rests so many times as long as it kept us waiting in vain: black holes get a third of the time at most."""


class Failover:
    """The servers of one connection and how they behaved, by address.

    Next is a server that nothing speaks against, else the one that was just lost, else, of those that failed, the one
    whose rest ends first. A rest grows with every failure in a row up to `max_wait`, and is longer still where the
    server did not even answer. Each gets its chance again.

    Times are seconds of one monotonic clock.

    Args:
        max_wait: seconds, the longest wait before an attempt.
        spread: a number between two others, for jitter.
    """

    def __init__(self, max_wait: float, *, spread: Callable[[float, float], float] = random.uniform) -> None:
        self._max_wait = max_wait
        self._spread = spread
        self._trying: tuple[str, float] | None = None
        self._failures: dict[str, int] = {}
        self._rested: dict[str, float] = {}
        self._lost: str | None = None
        self._connected_at = 0.0

    def choose(self, servers: Sequence[str], now: float) -> tuple[str, float]:
        """The next server and the seconds to wait before trying it.

        Args:
            servers: all there are now, at least one; among equals the first is taken.
        """
        self._settle(now)
        server = min(servers, key=self._rank)
        rest = self._rested.get(server, now) - now
        return server, min(max(rest, FIRST_WAIT), self._max_wait) * self._spread(0.5, 1.0)

    def attempt(self, server: str, now: float) -> None:
        """It is being tried. What comes next tells how that ended: `connected`, or anything else."""
        self._settle(now)
        self._trying = (server, now)

    def connected(self, now: float) -> None:
        """The attempt has worked: what spoke against the server is forgotten."""
        if self._trying is not None:
            server, _ = self._trying
            self._failures.pop(server, None)
            self._rested.pop(server, None)
            self._trying = None
        self._lost = None
        self._connected_at = now

    def lost(self, server: str, now: float) -> None:
        """A connection to it has ended: those that nothing speaks against come first.

        So do others if it was but a short one: a server may take every connection and keep none.
        """
        if now - self._connected_at < self._max_wait:
            self._rested[server] = now
        else:
            self._lost = server

    def _rank(self, server: str) -> tuple[int, float]:
        if server in self._rested:
            return 2, self._rested[server]
        return (1 if server == self._lost else 0), 0.0

    def _settle(self, now: float) -> None:
        """An attempt that is followed by another one has failed."""
        if self._trying is None:
            return
        (server, began), self._trying = self._trying, None
        failures = self._failures[server] = self._failures.get(server, 0) + 1
        rest = min(self._max_wait, FIRST_WAIT * 2 ** min(failures, _MOST_DOUBLINGS))
        self._rested[server] = now + max(rest, _REST_FACTOR * (now - began))
