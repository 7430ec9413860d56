"""Processes that are killed while they write."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from slipstream.testing.snapshots.base import SnapshotBackend, State, batch_number, cursor_number, number_of
from slipstream.testing.snapshots.child import Child

_MOST_SECONDS = 0.004
"""About what a batch takes: the kill comes anywhere in the next one."""


class CrashConformance(SnapshotBackend):
    """kill -9 at random points of applying, opening, closing and rewriting."""

    @pytest.mark.parametrize("rounds", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
    async def test_a_killed_process_leaves_what_its_cursor_names(self, tmp_path: Path, rounds: int) -> None:
        dice = random.Random()
        state = State()
        with Child("fork_crashing_writers", self.kind, tmp_path) as nursery:
            for _ in range(rounds):
                nursery.tell(f"{dice.randrange(2**32)} {self.rewriting or ''}")
                said = self._kill_after(nursery, dice.randrange(25), dice.uniform(0, _MOST_SECONDS))
                found = await self.read(tmp_path)
                reached = number_of(found.cursor)
                assert reached >= max(said, number_of(state.cursor)), "what was durable is gone"
                for number in range(number_of(state.cursor) + 1, reached + 1):
                    state = state.after(batch_number(number), cursor_number(number))
                assert found == state
        assert number_of(state.cursor) > rounds

    def _kill_after(self, nursery: Child, count: int, seconds: float) -> int:
        """Kill the writer that was asked for last, so many batches on; the number of the last batch that it said."""
        said, pid = 0, None
        while pid is None or count > 0:
            line = nursery.line()
            if line.startswith("pid "):
                pid = int(line.removeprefix("pid "))
            else:
                said, count = int(line), count - 1
        time.sleep(seconds)  # a point in the middle of something announces itself by nothing
        os.kill(pid, signal.SIGKILL)
        while (line := nursery.line()) != "0":
            said = int(line)
        return said
