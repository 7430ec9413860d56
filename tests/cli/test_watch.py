"""watch: live, resumed from a file, ended by a signal."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from slipstream.cli.commands.watch import load_cursor, save_cursor
from slipstream.cli.exits import UsageError
from slipstream.interfaces import KvStore
from slipstream.model import WatchCursor
from slipstream.testing._raw import raw_client
from tests.cli.conftest import Cli


async def test_the_state_then_every_change(cli: Cli, store: KvStore, nats_url: str) -> None:
    await store.put("node.a", b"1")
    await store.put("other", b"x")
    await store.put("job.b", b"2")
    running = await cli.start("watch", store.name, "--prefix", "node.", "--prefix", "job.")
    assert [(await running.line()).split()[0::3] for _ in range(2)] == [["PUT", "node.a"], ["PUT", "job.b"]]
    await store.put("other", b"y")
    await store.delete("node.a")
    line = (await running.line()).split()
    assert (line[0], line[1], line[3]) == ("DELETE", "5", "node.a")
    ended = await running.end(signal.SIGINT)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    async with raw_client(nats_url) as raw:
        await raw.no_consumers(store.name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_cursor_file_goes_on_where_the_last_run_ended(
    cli: Cli, store: KvStore, tmp_path: Path, number: int
) -> None:
    file = tmp_path / "cursor"
    await store.put("a", b"1")
    running = await cli.start("watch", store.name, "--json", "--cursor-file", file)
    assert (await running.record())["key"] == "a"
    assert (await running.end(number)).code == 0
    assert WatchCursor.parse(file.read_text().strip()).revision == 1
    await store.put("b", b"2")
    await store.put("c", b"3")
    ended = await cli("watch", store.name, "--json", "--cursor-file", file, "--count", "2")
    assert [record["key"] for record in ended.records] == ["b", "c"]
    assert len(list(tmp_path.glob("*cursor*"))) == 1  # noqa: ASYNC240 - a test may look


async def test_an_expired_cursor_says_what_to_do(cli: Cli, store: KvStore, tmp_path: Path) -> None:
    await store.put("a", b"1")
    save_cursor(tmp_path / "cursor", WatchCursor(revision=1, incarnation=None))
    for value in (b"2", b"3", b"4"):
        await store.put("a", value)
    ended = await cli("watch", store.name, "--cursor-file", tmp_path / "cursor", "--json", code=3)
    assert (ended.error["error"], ended.error["reason"]) == ("CursorExpiredError", "compacted")
    assert "remove the cursor" in ended.error["advice"]


async def test_a_deleted_store_ends_it(cli: Cli, store: KvStore) -> None:
    await store.put("a", b"1")
    running = await cli.start("watch", store.name, "--json")
    await running.record()
    await cli("stores", "delete", store.name, "--yes")
    ended = await running.end()
    assert (ended.code, ended.error["error"]) == (1, "StoreNotFoundError")


async def test_a_reader_that_has_seen_enough(cli: Cli, store: KvStore) -> None:
    await store.put_many((f"k{number}", b"v" * 1000) for number in range(500))
    running = await cli.start("scan", store.name)
    assert running.process.stdout is not None
    running.process.stdout._transport.close()  # type: ignore[attr-defined] # as `| head -1` does
    await running.process.wait()
    assert running.process.stderr is not None
    assert (running.process.returncode, await running.process.stderr.read()) == (141, b"")


def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    assert load_cursor(tmp_path / "none") is None
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="holds no cursor"):
        load_cursor(tmp_path / "file")
    save_cursor(tmp_path / "c", WatchCursor.from_u64(7))
    assert load_cursor(tmp_path / "c") == WatchCursor.from_u64(7)


def test_a_cursor_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cursor"
    save_cursor(file, WatchCursor.from_u64(1))

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_cursor(file, WatchCursor.from_u64(2))
    assert load_cursor(file) == WatchCursor.from_u64(1)
    assert list(tmp_path.iterdir()) == [file]
