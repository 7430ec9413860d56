"""One owner of a folder, in this process and in all others; and folders that are something else."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from slipstream.errors import SnapshotError
from slipstream.testing.snapshots.base import SnapshotBackend, State, apply_numbers, state_of
from slipstream.testing.snapshots.child import Child, run_child


class OwnerConformance(SnapshotBackend):
    """Opening a folder twice is refused."""

    async def test_a_folder_that_is_open_is_refused_and_unharmed(self, tmp_path: Path) -> None:
        states = [State()]
        async with await self.open(tmp_path) as store:
            await apply_numbers(store, 1, 2, states=states)
            with pytest.raises(SnapshotError, match="open already"):
                await self.kind.open(tmp_path)
            await apply_numbers(store, 3, 4, states=states)
            assert state_of(store) == states[-1]
        assert await self.read(tmp_path) == states[-1]

    async def test_another_process_is_refused_too(self, tmp_path: Path) -> None:
        async with await self.open(tmp_path) as store:
            await apply_numbers(store, 1, 1)
            run_child("is_refused", self.kind, tmp_path)
            await apply_numbers(store, 2, 2)

    async def test_a_process_that_was_killed_owns_nothing(self, tmp_path: Path) -> None:
        with Child("open_and_wait", self.kind, tmp_path) as child:
            assert child.line() == "open"
            with pytest.raises(SnapshotError, match="open already"):
                await self.kind.open(tmp_path)
            child.kill(signal.SIGKILL)
        await self.read(tmp_path)

    async def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("something else")
        with pytest.raises(SnapshotError):
            await self.kind.open(tmp_path / "file")
        assert (tmp_path / "file").read_text() == "something else"

    async def test_a_newer_schema_is_refused_and_unharmed(self, tmp_path: Path) -> None:
        async with await self.open(tmp_path) as store:
            await apply_numbers(store, 1, 2)
        self.make_newer(tmp_path)
        for _ in range(2):
            with pytest.raises(SnapshotError, match="schema") as caught:
                await self.kind.open(tmp_path)
            assert type(caught.value) is SnapshotError
