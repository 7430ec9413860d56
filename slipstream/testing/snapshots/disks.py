"""Disks that are slow, or refuse: full, or not to be written."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.model import WatchCursor
from slipstream.testing._waiting import bounded
from slipstream.testing.snapshots.base import SnapshotBackend, State, apply_numbers, put
from slipstream.testing.snapshots.child import run_child


class DiskConformance(SnapshotBackend):
    """In child processes, whose limits and rights can be taken away; and beside an event loop, which must not wait."""

    async def test_the_event_loop_runs_while_a_batch_is_written(self, tmp_path: Path) -> None:
        async with await self.open(tmp_path) as store:
            work = asyncio.create_task(
                store.apply([put(f"k.{n}", bytes(300), n) for n in range(20_000)], WatchCursor.from_u64(20_000))
            )
            turns = 0
            async with bounded():
                while not work.done():
                    await asyncio.sleep(0)
                    turns += 1
            await work
        assert turns > 5, "the batch was written on the event loop"  # then it has one turn

    async def test_a_full_disk_fails_a_batch_and_nothing_else(self, tmp_path: Path) -> None:
        run_child("run_out_of_room", self.kind, tmp_path)

    async def test_a_batch_that_failed_is_not_there_after_a_restart(self, tmp_path: Path) -> None:
        run_child("run_out_of_room_and_end", self.kind, tmp_path)
        states = [State()]
        async with await self.open(tmp_path) as store:
            assert store.cursor.revision == 3999
        async with await self.open(tmp_path / "reference") as store:
            await apply_numbers(store, 1, 3, states=states)
        assert await self.read(tmp_path) == states[-1]

    @pytest.fixture
    def public_folder(self) -> Iterator[Path]:
        """One that every user may enter; those of pytest are for this one alone."""
        folder = Path(tempfile.mkdtemp(prefix="slipstream-"))
        yield folder
        folder.chmod(0o755)
        shutil.rmtree(folder)

    async def test_a_folder_that_cannot_be_written_says_so(self, public_folder: Path) -> None:
        async with await self.open(public_folder) as store:
            await apply_numbers(store, 1, 2)
        before = await self.read(public_folder)
        _permit(public_folder, writing=False)
        run_child("is_not_permitted", self.kind, public_folder)
        _permit(public_folder, writing=True)
        assert await self.read(public_folder) == before


def _permit(folder: Path, *, writing: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o555 if path.is_dir() else 0o444) | (0o200 if writing else 0))
