"""AppendLogSnapshot beyond the conformance suite: compaction, its leftovers, and a disk that fails in the middle."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slipstream.errors import SnapshotCorruptedError, SnapshotError
from slipstream.replica import AppendLogSnapshot, SqliteSnapshot
from slipstream.replica.append_log import compaction, snapshot
from slipstream.replica.append_log.compaction import is_due
from slipstream.replica.append_log.file import TEMPORARY, LogFile
from slipstream.replica.append_log.frame import HEADER_BYTES
from slipstream.testing._waiting import bounded, cancelled_after, eventually
from slipstream.testing.snapshots.base import (
    State,
    apply_numbers,
    batch_number,
    cursor_number,
    number_of,
    put,
    state_of,
)

SLACK = 16 << 20


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps from few entries."""
    monkeypatch.setattr(snapshot, "SLICE", 3)
    monkeypatch.setattr(snapshot, "CATCH_UP_BYTES", 2000)


async def read(folder: Path) -> State:
    store, _ = await AppendLogSnapshot.open(folder)
    async with store:
        return state_of(store)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond that; Python ignores the signal, and gets EFBIG."""
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestCompaction:
    async def test_it_keeps_the_fold_and_frees_the_rest(self, tmp_path: Path) -> None:
        states = [State()]
        store, _ = await AppendLogSnapshot.open(tmp_path)
        async with store:
            await apply_numbers(store, 1, 40, states=states)
            before = (tmp_path / "fold.log").stat().st_size
            await store.compact()
            after = (tmp_path / "fold.log").stat().st_size
            assert after < before / 3
            assert state_of(store) == states[-1]
            await apply_numbers(store, 41, 43, states=states)
            await store.compact()
            await apply_numbers(store, 44, 45, states=states)
        assert await read(tmp_path) == states[-1]
        assert not (tmp_path / TEMPORARY).exists()

    async def test_of_an_empty_fold(self, tmp_path: Path) -> None:
        store, _ = await AppendLogSnapshot.open(tmp_path)
        async with store:
            await store.compact()
        assert await read(tmp_path) == State()

    async def test_batches_go_on_while_it_runs(self, tmp_path: Path) -> None:
        states = [State()]
        store, _ = await AppendLogSnapshot.open(tmp_path)
        async with store, bounded():
            await apply_numbers(store, 1, 20, states=states)
            work = asyncio.create_task(store.compact())
            number = 20
            while not work.done():
                number += 1
                await apply_numbers(store, number, number, states=states)
                assert state_of(store) == states[-1]
            await work
            assert number > 22, "no batch came in between"
        assert await read(tmp_path) == states[-1]

    async def test_batches_that_begin_together_with_it(self, tmp_path: Path) -> None:
        # A batch that is written, but not yet in the fold, must be neither in front of nor missing from what is copied.
        for turns in range(12):
            folder = tmp_path / str(turns)
            store, _ = await AppendLogSnapshot.open(folder)
            async with store, bounded():
                await apply_numbers(store, 1, 3)
                batch = asyncio.create_task(store.apply(batch_number(4), cursor_number(4)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                await asyncio.gather(store.compact(), batch)
                expected = state_of(store)
            assert number_of(expected.cursor) == 4
            assert await read(folder) == expected

    async def test_a_batch_that_comes_before_its_last_step_keeps_its_cursor(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        states, batches = [State()], list[asyncio.Task[None]]()
        loop = asyncio.get_running_loop()
        original = compaction.Rewrite.catch_up

        def then_a_batch(self: compaction.Rewrite) -> None:
            original(self)
            if not batches:
                loop.call_soon_threadsafe(
                    lambda: batches.append(asyncio.create_task(apply_numbers(store, 4, 4, states=states)))
                )

        store, _ = await AppendLogSnapshot.open(tmp_path)
        async with store, bounded():
            await apply_numbers(store, 1, 3, states=states)
            monkeypatch.setattr(compaction.Rewrite, "catch_up", then_a_batch)
            await store.compact()
            await asyncio.gather(*batches)
        assert number_of(states[-1].cursor) == 4
        assert await read(tmp_path) == states[-1]

    @pytest.mark.parametrize("turns", [*range(0, 40, 2), 60, 100, 200, 400])
    async def test_cancelled_it_leaves_the_log_whole(self, tmp_path: Path, turns: int) -> None:
        states = [State()]
        store, _ = await AppendLogSnapshot.open(tmp_path)
        async with store:
            await apply_numbers(store, 1, 5, states=states)
            await cancelled_after(turns, store.compact())
            assert not (tmp_path / TEMPORARY).exists()
            await apply_numbers(store, 6, 8, states=states)
        assert await read(tmp_path) == states[-1]

    @pytest.mark.parametrize("step", ["add", "catch_up", "finish"])
    @pytest.mark.parametrize("ends", [False, True], ids=["before it ends", "after it has ended"])
    async def test_cancelled_in_this_step_it_leaves_the_log_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, ends: bool
    ) -> None:
        states = [State()]
        loop = asyncio.get_running_loop()
        original = getattr(compaction.Rewrite, step)

        def cancelling(self: compaction.Rewrite, *values: object) -> object:
            if ends:
                result = original(self, *values)
                loop.call_soon_threadsafe(work.cancel)
                return result
            loop.call_soon_threadsafe(work.cancel)
            return original(self, *values)

        store, _ = await AppendLogSnapshot.open(tmp_path)
        async with store, bounded():
            await apply_numbers(store, 1, 5, states=states)
            monkeypatch.setattr(compaction.Rewrite, step, cancelling)
            work = asyncio.create_task(store.compact())
            await asyncio.wait({work})
            assert not (tmp_path / TEMPORARY).exists()
            await apply_numbers(store, 6, 8, states=states)
            assert state_of(store) == states[-1]
        assert await read(tmp_path) == states[-1]

    async def test_clear_and_close_end_it(self, tmp_path: Path) -> None:
        for turns in range(0, 60, 5):
            folder = tmp_path / str(turns)
            states = [State()]
            store, _ = await AppendLogSnapshot.open(folder)
            async with bounded():
                await apply_numbers(store, 50, 55)
                work = asyncio.create_task(store.compact())
                for _ in range(turns):
                    await asyncio.sleep(0)
                await store.clear()
                await work
                await apply_numbers(store, 1, 2, states=states)
                assert state_of(store) == states[-1]
                await store.close()
                with pytest.raises(SnapshotError, match="closed"):
                    await store.compact()
            assert await read(folder) == states[-1]

    async def test_a_failure_leaves_the_log_whole(self, tmp_path: Path) -> None:
        states = [State()]
        store, _ = await AppendLogSnapshot.open(tmp_path)
        async with store:
            await apply_numbers(store, 1, 5, states=states)
            with files_of_at_most(1000), pytest.raises(SnapshotError, match="room"):
                await store.compact()
            assert not (tmp_path / TEMPORARY).exists()
            await apply_numbers(store, 6, 8, states=states)
            await store.compact()
            assert state_of(store) == states[-1]
        assert await read(tmp_path) == states[-1]

    async def test_what_a_killed_one_left_is_removed(self, tmp_path: Path) -> None:
        states = [State()]
        store, _ = await AppendLogSnapshot.open(tmp_path)
        async with store:
            await apply_numbers(store, 1, 5, states=states)
        content = (tmp_path / "fold.log").read_bytes()
        for leftover in (b"", content[:100], content, os.urandom(1000)):
            (tmp_path / TEMPORARY).write_bytes(leftover)
            assert await read(tmp_path) == states[-1]
            assert not (tmp_path / TEMPORARY).exists()

    async def test_what_it_wrote_may_not_be_cut(self, tmp_path: Path) -> None:
        store, _ = await AppendLogSnapshot.open(tmp_path)
        async with store:
            await apply_numbers(store, 1, 5)
            await store.compact()
        log = tmp_path / "fold.log"
        content = log.read_bytes()
        log.write_bytes(content[: len(content) // 2])
        with pytest.raises(SnapshotCorruptedError, match="restore it, or remove it"):
            await AppendLogSnapshot.open(tmp_path)


class TestInTheBackground:
    @pytest.fixture(autouse=True)
    def no_slack(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compaction, "_SLACK_BYTES", 1000)

    async def test_a_log_that_is_mostly_overwritten_is_compacted(self, tmp_path: Path) -> None:
        store, _ = await AppendLogSnapshot.open(tmp_path)
        async with store:
            for number in range(1, 30):
                await store.apply([put("k", bytes(400), number)], cursor_number(number))
            log = tmp_path / "fold.log"

            async def compacted() -> bool:
                return log.stat().st_size < 5000

            await eventually(compacted)
        assert await read(tmp_path) == State().after([put("k", bytes(400), 29)], cursor_number(29))

    async def test_a_failure_is_told_once_and_harms_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failed = asyncio.Event()

        def refuse(path: Path, *, salt: int) -> LogFile:
            loop.call_soon_threadsafe(failed.set)
            raise OSError(28, "No space left on device")

        loop = asyncio.get_running_loop()
        store, _ = await AppendLogSnapshot.open(tmp_path)
        monkeypatch.setattr(LogFile, "begin", refuse)
        async with store, bounded():
            number = 0
            while not failed.is_set():
                number += 1
                await store.apply([put("k", bytes(400), number)], cursor_number(number))
            for number in range(number + 1, number + 4):  # noqa: B020 - it goes on from there
                await store.apply([put("k", bytes(400), number)], cursor_number(number))
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "put off" in warnings[0]
        assert "room" in warnings[0]
        assert (await read(tmp_path)).cursor == cursor_number(number)


@pytest.mark.parametrize(
    ("log_bytes", "live_bytes", "due"),
    [
        (HEADER_BYTES, 0, False),
        (HEADER_BYTES + SLACK, 0, False),
        (HEADER_BYTES + SLACK + 1, 0, True),
        (HEADER_BYTES + 2 * SLACK, SLACK, False),
        (HEADER_BYTES + 2 * SLACK + 1, SLACK, True),
        (HEADER_BYTES + 20 * SLACK, 10 * SLACK, False),
        (HEADER_BYTES + 20 * SLACK + 1, 10 * SLACK, True),
    ],
)
def test_when_it_is_due(log_bytes: int, live_bytes: int, due: bool) -> None:
    assert is_due(log_bytes=log_bytes, live_bytes=live_bytes) is due


class TestLogFile:
    def test_what_a_failed_append_left_is_gone_before_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = LogFile.begin(tmp_path / "fold.log")
        log.publish(tmp_path / "fold.log")
        log.append(b"a" * 100)
        with files_of_at_most(HEADER_BYTES + 150), monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", self._refuse)  # a disk on which nothing works
            with pytest.raises(OSError, match="too large"):
                log.append(b"b" * 100)
            with pytest.raises(OSError, match="refused"):
                log.append(b"c" * 10)
        log.append(b"d" * 10)
        log.close()
        assert (tmp_path / "fold.log").read_bytes()[HEADER_BYTES:] == b"a" * 100 + b"d" * 10

    def test_an_append_that_was_not_made_durable_is_taken_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = LogFile.begin(tmp_path / "fold.log")
        log.publish(tmp_path / "fold.log")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", self._refuse)
            with pytest.raises(OSError, match="refused"):
                log.append(b"a" * 100)
        assert (tmp_path / "fold.log").stat().st_size == log.end == HEADER_BYTES
        log.append(b"b")
        log.close()
        assert (tmp_path / "fold.log").read_bytes()[HEADER_BYTES:] == b"b"

    def test_nothing_is_appended_before_the_name_is_durable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = LogFile.begin(tmp_path / "fold.log")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", self._refuse)
            log.publish(tmp_path / "fold.log")
            with pytest.raises(OSError, match="refused"):
                log.append(b"a")
        log.append(b"b")
        log.close()
        assert (tmp_path / "fold.log").read_bytes()[HEADER_BYTES:] == b"b"

    def test_nor_after_it_was_opened_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "fold.log"
        log = LogFile.begin(path)
        log.publish(path)
        log.close()
        log = LogFile.reopen(path, log.header, log.end)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", self._refuse)
            with pytest.raises(OSError, match="refused"):
                log.append(b"a")
        log.append(b"b")
        log.close()
        assert path.read_bytes()[HEADER_BYTES:] == b"b"

    @staticmethod
    def _refuse(*_: object) -> None:
        raise OSError(5, "refused")


async def test_a_torn_tail_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, _ = await AppendLogSnapshot.open(tmp_path)
    async with store:
        await apply_numbers(store, 1, 2)
    with (tmp_path / "fold.log").open("ab") as log:
        log.write(b"half")
    await read(tmp_path)
    assert "dropped 4 bytes" in caplog.text
    caplog.clear()
    store, _ = await AppendLogSnapshot.open(tmp_path)
    async with store:
        await apply_numbers(store, 3, 3)
    await read(tmp_path)
    assert not caplog.records


async def test_a_folder_of_another_kind_says_whose_it_is(tmp_path: Path) -> None:
    store, _ = await SqliteSnapshot.open(tmp_path)
    await store.close()
    with pytest.raises(SnapshotError, match="made by SqliteSnapshot"):
        await AppendLogSnapshot.open(tmp_path)
    await (await SqliteSnapshot.open(tmp_path))[0].close()


async def test_a_forked_child_does_not_keep_the_folder(tmp_path: Path) -> None:
    store, _ = await AppendLogSnapshot.open(tmp_path)
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(ready[1], b".")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        # As after its death: without unlocking by name.
        fd = store._folder._fd
        assert fd is not None
        os.close(fd)
        store._folder._fd = None
        again, _ = await AppendLogSnapshot.open(tmp_path)
        await again.close()
    finally:
        os.write(done[1], b".")
        await asyncio.to_thread(os.waitpid, pid, 0)
        for end in (*ready, *done):
            os.close(end)
    await store.close()
