"""Files that are not as they were written: cut, zeroed, flipped."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.errors import SnapshotCorruptedError, SnapshotError
from slipstream.testing.snapshots.base import SnapshotBackend, State, apply_numbers, cursor_number, put

_EVERY_BYTE = 3000
_SAMPLES = 100
_LAST_WRITE = 160
"""Bytes that hold all of the last write of a log: it is a small one, so that it can be cut at every byte."""
_FLIPS = 40


def places(size: int) -> Iterator[int]:
    """Every length of a small file; of a larger one many, with all of those that tear the last write of a log."""
    if size <= _EVERY_BYTE:
        yield from range(size + 1)
    else:
        yield from sorted({*random.Random(size).sample(range(size), _SAMPLES), *range(size - _LAST_WRITE, size + 1)})


class DamageConformance(SnapshotBackend):
    """A fold is whole and has its own cursor, or there is an error: never something in between."""

    async def crash_image(self, folder: Path) -> tuple[Path, list[State]]:
        """A folder as a crash leaves it after the last of some batches, and the states that it went through."""
        states = [State()]
        async with await self.open(folder / "lives") as store:
            await store.apply([], cursor_number(1))
            states.append(State(cursor=cursor_number(1)))
            await apply_numbers(store, 2, 7, states=states)
            batch, cursor = [put("k.1", b"the last", 8000)], cursor_number(8)
            await store.apply(batch, cursor)
            states.append(states[-1].after(batch, cursor))
            shutil.copytree(folder / "lives", folder / "image")
        return folder / "image", states

    async def spoilt(self, image: Path, name: Path, content: bytes) -> State:
        """What opening a copy of the image gives in which that file has another content."""
        copy = image.with_name("copy")
        shutil.copytree(image, copy)
        try:
            (copy / name).write_bytes(content)
            state = await self.read(copy)
            # What was dropped stays dropped, and does not come back to life under what is written next.
            async with await self.open(copy) as store:
                await store.apply([], cursor_number(99))
            assert await self.read(copy) == State(cursor=cursor_number(99), fold=state.fold)
        finally:
            shutil.rmtree(copy)
        return state

    @pytest.mark.timeout(300)
    async def test_a_torn_tail_is_dropped_at_every_byte(self, tmp_path: Path) -> None:
        image, states = await self.crash_image(tmp_path)
        tail = self.tail(image)
        content, name = tail.read_bytes(), tail.relative_to(image)
        found = [await self.spoilt(image, name, content[:length]) for length in places(len(content))]
        for state in found:
            assert state in states
        # What is longer holds no less; and the last write is in the file that was cut.
        numbers = [states.index(state) for state in found]
        assert numbers == sorted(numbers)
        assert found[-1] == states[-1]
        assert found[-2] == states[-2]

    @pytest.mark.timeout(300)
    async def test_a_zeroed_tail_is_dropped(self, tmp_path: Path) -> None:
        image, states = await self.crash_image(tmp_path)
        tail = self.tail(image)
        content, name = tail.read_bytes(), tail.relative_to(image)
        for length in places(len(content)):
            state = await self.spoilt(image, name, content[:length] + bytes(len(content) - length))
            assert state in states
            if length <= len(content) - 8 and any(content[length:]):
                assert state != states[-1]
        for more in (1, 100, 5000):
            assert await self.spoilt(image, name, content + bytes(more)) == states[-1]

    @pytest.mark.timeout(300)
    async def test_no_flipped_bit_gives_something_that_never_was(self, tmp_path: Path) -> None:
        image, states = await self.crash_image(tmp_path)
        await self.read(tmp_path / "lives")
        corrupted = 0
        dice = random.Random(5)
        for folder in (image, tmp_path / "lives"):
            for path in [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]:
                content = path.read_bytes()
                for at in dice.sample(range(len(content)), min(len(content), _FLIPS)):
                    flipped = bytearray(content)
                    flipped[at] ^= 1 << dice.randrange(8)
                    try:
                        assert await self.spoilt(folder, path.relative_to(folder), bytes(flipped)) in states
                    except SnapshotCorruptedError:
                        corrupted += 1
                    except SnapshotError:
                        continue  # a name or a format that is no longer recognised
        assert corrupted > 0
