"""A process that campaigns again and again, and says on stdout what becomes of it; run by the tests.

Usage: python candidate.py URL BUCKET NAME TTL [WALL_CLOCK_JUMPS]

A line of JSON for every term when it begins and when it ends. While it leads, it writes its token under ever new keys.
For each line on stdin it tries to write with the token of its first term, past its own clock.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time

import slipstream
from slipstream import FencedError, FencingToken, KvError, KvStore, LeaderElection, Term
from slipstream.coordination.clock import now

TICK = 0.05  # seconds


class Pulse:
    """Knows for how long the event loop has not turned."""

    def __init__(self) -> None:
        self._beat = now()
        self._pauses: list[tuple[float, float]] = []  # (when it was over, seconds)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._note()

    def stood_still(self) -> float:
        """The longest pause of the last seconds."""
        self._note()
        return max(seconds for ended, seconds in self._pauses if ended > now() - 2)

    def _note(self) -> None:
        before, self._beat = self._beat, now()
        self._pauses.append((self._beat, self._beat - before))


def say(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, "at": now(), **fields}), flush=True)


async def lead(term: Term, store: KvStore, name: str, tokens: list[FencingToken], pulse: Pulse) -> None:
    token = str(term.fencing_token)
    tokens.append(term.fencing_token)
    say("began", token=token)
    try:
        writer = term.fenced(store)
        for number in itertools.count():
            try:
                await writer.put(f"log.{name}.{term.fencing_token.revision}.{number}", token.encode())
            except FencedError:
                raise
            except KvError:  # the tests cut it off
                pass
            await asyncio.sleep(TICK)
    finally:
        say("ended", token=token, stood_still=pulse.stood_still())


async def write_late(store: KvStore, name: str, tokens: list[FencingToken], lines: asyncio.StreamReader) -> None:
    while await lines.readline():
        try:
            await store.fenced("leader.holder", tokens[0].version).put(f"late.{name}", b"late")
            say("late", outcome="written")
        except FencedError as error:
            say("late", outcome="refused", by_the_server=error.actual is not None)


async def main(url: str, bucket: str, name: str, ttl: float) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    tokens: list[FencingToken] = []
    pulse = Pulse()
    async with slipstream.connect(url, heartbeat=0.5) as connection, asyncio.TaskGroup() as tasks:
        store = await connection.store(bucket)
        say("ready")
        tasks.create_task(pulse.run())
        tasks.create_task(write_late(store, name, tokens, lines))
        election = LeaderElection(store, "leader", ttl=ttl, candidate=name)
        await election.run(lambda term: lead(term, store, name, tokens, pulse))


def jump() -> float:
    """A time of day that is days before or after the last."""
    return random.uniform(-1e6, 1e6) + 1.7e9


if __name__ == "__main__":
    if sys.argv[5:]:
        time.time, time.time_ns = jump, lambda: int(jump() * 1e9)
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
