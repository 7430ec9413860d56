"""Processes that are killed while they export and import: afterwards there is all of it, or none."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slipstream.replica import AppendLogSnapshot, SnapshotStore, import_artifact
from tests.replica.artifacts import BUCKET, artifact_of, at, leftovers, names_in, on_each_disk, opened

VALUES = {f"k.{number:04}": b"%d" % number * 40 for number in range(1500)}

# Forked from here, where everything is imported and no thread runs: a new interpreter for each would take longest.
NURSERY = """
import asyncio, os, sys
from pathlib import Path
from slipstream import replica
from slipstream.replica import artifacts

def say(line):
    os.write(1, f"{line}\\n".encode())  # in one piece: a kill between a print's text and its end would join two lines

async def export(kind, source, place):
    snapshot, _ = await kind.open(source)
    async with snapshot:
        for number in range(10**6):
            name = f"artifact-{os.getpid()}-{number}"
            say(f"begin {name}")
            await artifacts.export_artifact(snapshot, place / name, bucket="config")
            say(f"end {name}")

async def take_in(kind, source, place):
    for number in range(10**6):
        name = f"node-{os.getpid()}-{number}"
        say(f"begin {name}")
        await artifacts.import_artifact(source, place / name, kind=kind, bucket="config")
        say(f"end {name}")

work, kind, source, place = sys.argv[1:]
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run({"export": export, "import": take_in}[work](getattr(replica, kind), Path(source), Path(place)))
        finally:
            os._exit(1)
    say(f"pid {pid}")
    _, status = os.waitpid(pid, 0)
    say(f"killed {os.WIFSIGNALED(status)}")
"""


class Nursery:
    """Starts processes that are to be killed."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that who is still at work ends with it
        )

    def kill_one(self, dice: random.Random, seconds: float) -> tuple[set[str], set[str]]:
        """Let one work and kill it at some point; the names that it began with, and those that it had done."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        said: dict[str, set[str]] = {"pid": set(), "begin": set(), "end": set(), "killed": set()}
        wanted = dice.randrange(1, 4)
        while not said["pid"] or len(said["begin"]) < wanted:
            self._listen(said)
        time.sleep(dice.uniform(0, seconds))  # a point in the middle of something announces itself by nothing
        os.kill(int(said["pid"].pop()), signal.SIGKILL)
        while not said["killed"]:
            self._listen(said)
        assert said["killed"] == {"True"}, "it failed by itself"
        return said["begin"], said["end"]

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate(timeout=20)

    def _listen(self, said: dict[str, set[str]]) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(self._process.stderr.read())
        word, _, rest = line.strip().partition(" ")
        said[word].add(rest)


ROUNDS = [12, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]


async def rounds(work: str, kind: type[SnapshotStore], source: Path, place: Path, count: int, seconds: float) -> int:
    """How many of them were killed half way."""
    dice = random.Random()
    half = 0
    nursery = Nursery(work, kind.__name__, str(source), str(place))
    try:
        for _ in range(count):
            begun, done = nursery.kill_one(dice, seconds)
            there = {name for name in names_in(place) if not name.startswith(".")}
            assert done <= there <= begun
            half += begun != there
            for name in sorted(there):
                found = place / name
                if work == "export":
                    await import_artifact(found, place / "taken", kind=kind, bucket=BUCKET)
                    assert await opened(kind, place / "taken") == (VALUES, at(len(VALUES)))
                    shutil.rmtree(place / "taken")
                else:
                    assert await opened(kind, found) == (VALUES, at(len(VALUES)))
                shutil.rmtree(found)
            # What the dead one has left is in nobody's way, and goes with the next one for the same name.
            for name in begun - there:
                await artifact_of(place / name, at(1))
                shutil.rmtree(place / name)
                shutil.rmtree(place / f"{name}.source")
            assert leftovers(place) == []
    finally:
        nursery.close()
    return half


@on_each_disk
@pytest.mark.parametrize("count", ROUNDS)
async def test_a_killed_export_leaves_a_whole_artifact_or_none(
    kind: type[SnapshotStore], count: int, tmp_path: Path
) -> None:
    await artifact_of(tmp_path / "first", at(len(VALUES)), kind=kind, values=VALUES)
    (tmp_path / "place").mkdir()
    assert await rounds("export", kind, tmp_path / "first.source", tmp_path / "place", count, 0.06) > 0


@on_each_disk
@pytest.mark.parametrize("count", ROUNDS)
async def test_a_killed_import_leaves_a_whole_snapshot_or_none(
    kind: type[SnapshotStore], count: int, tmp_path: Path
) -> None:
    await artifact_of(tmp_path / "artifact", at(len(VALUES)), kind=kind, values=VALUES)
    (tmp_path / "place").mkdir()
    assert await rounds("import", kind, tmp_path / "artifact", tmp_path / "place", count, 0.03) > 0


async def test_an_artifact_outlives_what_it_was_made_of(tmp_path: Path) -> None:
    await artifact_of(tmp_path / "artifact", at(len(VALUES)), values=VALUES)
    shutil.rmtree(tmp_path / "artifact.source")
    await import_artifact(tmp_path / "artifact", tmp_path / "node", kind=AppendLogSnapshot, bucket=BUCKET)
    shutil.rmtree(tmp_path / "artifact")
    assert await opened(AppendLogSnapshot, tmp_path / "node") == (VALUES, at(len(VALUES)))
