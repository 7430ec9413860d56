"""Notices a connection that is said to be there and answers nothing, and one that nobody restores any more.

It stands beside nats-py's own pings and does not rely on any task of nats-py: those have been seen dead, with the
client still saying CONNECTED (2.16.0, after connections that were cut within their handshake).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from enum import Enum

from slipstream.stores.nats.client import StoreClient

_log = logging.getLogger(__name__)
_LOOKS_PER_PING = 2
_IDLE_LOOKS = 2
"""How long nobody may restore a lost connection: nats-py takes a few turns of the loop to begin."""


class Phase(Enum):
    """What a client says of its connection. UP: usable; REDIALLING: a task restores it; IDLE: neither."""

    UP = "up"
    REDIALLING = "redialling"
    IDLE = "idle"


class Patience:
    """How many looks in a row may find the same phase without progress. Pure: a look that came late counts once.

    So a program whose own loop stood still, or which was suspended, does not lose a good connection over it.
    """

    def __init__(self, limits: dict[Phase, int]) -> None:
        self._limits = limits
        self._seen: tuple[Phase, int] | None = None
        self._looks = 0

    def is_over(self, phase: Phase, progress: int) -> bool:
        """Take in what a look found; whether it has been so for too long. `progress` is any number that moves."""
        if (phase, progress) != self._seen:
            self._seen = (phase, progress)
            self._looks = 0
            return False
        self._looks += 1
        return self._looks >= self._limits[phase]


class Watchdog:
    """Pings the server twice per `ping_interval`; redials after `max_pings_out` intervals without any answer.

    Args:
        is_up: whether operations can be sent.
        ping_interval, connect_timeout, reconnect_max_wait: seconds.
    """

    def __init__(
        self,
        client: StoreClient,
        is_up: Callable[[], bool],
        *,
        ping_interval: float,
        max_pings_out: int,
        connect_timeout: float,
        reconnect_max_wait: float,
    ) -> None:
        self._client = client
        self._is_up = is_up
        self._pause = ping_interval / _LOOKS_PER_PING
        self._silence = ping_interval * max_pings_out
        # An attempt waits, connects, encrypts, and reads two answers, each within its own bound.
        attempt = reconnect_max_wait + 4 * connect_timeout
        self._patience = Patience(
            {
                Phase.UP: _LOOKS_PER_PING * max_pings_out,
                Phase.REDIALLING: math.ceil((attempt + self._silence) / self._pause),
                Phase.IDLE: _IDLE_LOOKS,
            }
        )

    async def run(self) -> None:
        """Watch until cancelled, or until the client is closed."""
        while not self._client.is_closed:
            phase, progress = self._look()
            if self._patience.is_over(phase, progress):
                _log.warning("the connection is replaced: it was %s for too long without progress", phase.value)
                await self._client.redial(ConnectionError(self._why(phase)))
            elif phase is Phase.UP:
                await self._ping()
            await asyncio.sleep(self._pause)

    def _look(self) -> tuple[Phase, int]:
        if self._is_up():
            return Phase.UP, self._client.pongs
        if self._client.is_redialling:
            return Phase.REDIALLING, self._client.attempts
        return Phase.IDLE, 0

    async def _ping(self) -> None:
        try:
            async with asyncio.timeout(self._pause):
                await self._client.ping()
        except Exception as error:  # noqa: BLE001 - whatever is broken there shows as silence
            _log.debug("no ping was sent: %r", error)

    def _why(self, phase: Phase) -> str:
        if phase is Phase.UP:
            return f"the server answered nothing for {self._silence:g} s"
        return "the client had ceased to reconnect"
