"""At a terminal: colour, and questions before what cannot be undone."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from slipstream.interfaces import KvStore
from tests.cli.conftest import SECONDS, Cli

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A command whose stdin, stdout and stderr are a terminal."""

    def __init__(self, process: asyncio.subprocess.Process, side: int) -> None:
        self.process = process
        self._side = side
        self._seen = ""
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(side, self._read)

    async def until(self, text: str) -> str:
        """What was shown, once it has this text in it."""
        async with asyncio.timeout(SECONDS):
            while text not in ESCAPE.sub("", self._seen):
                self._more.clear()
                await self._more.wait()
        return self._seen

    def type(self, text: str) -> None:
        os.write(self._side, text.encode())

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._side)
        os.close(self._side)

    def _read(self) -> None:
        try:
            self._seen += os.read(self._side, 65536).decode(errors="replace")
        except OSError:  # the other side is closed
            asyncio.get_running_loop().remove_reader(self._side)
        self._more.set()


@asynccontextmanager
async def terminal(cli: Cli, *arguments: str | Path) -> AsyncIterator[Terminal]:
    side, other = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "slipstream.cli"),
            *arguments,
            stdin=other,
            stdout=other,
            stderr=other,
            env=cli.environment | {"TERM": "xterm-256color"},
            start_new_session=True,
        )
    finally:
        os.close(other)
    shown = Terminal(process, side)
    try:
        yield shown
        async with asyncio.timeout(SECONDS):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        shown.close()


async def test_watching_in_colour(cli: Cli, store: KvStore) -> None:
    await store.put("k", b"[bold]not markup[/bold] :smile:")
    async with terminal(cli, "watch", store.name, "--count", "2") as shown:
        text = await shown.until("not markup")
        assert "\x1b[32mPUT" in text
        assert "[bold]not markup[/bold] :smile:" in ESCAPE.sub("", text)
        await store.delete("k")
        assert "\x1b[31mDELETE" in await shown.until("DELETE")
    assert shown.process.returncode == 0


async def test_no_colour_where_none_is_wanted(cli: Cli, store: KvStore) -> None:
    cli.environment["NO_COLOR"] = "1"
    await store.put("k", b"value")
    async with terminal(cli, "watch", store.name, "--count", "1") as shown:
        assert re.search(r"\x1b\[[0-9;]*3[0-9]m", await shown.until("value")) is None


async def test_deleting_a_store_asks(cli: Cli, store: KvStore) -> None:
    await store.put("k", b"v")
    async with terminal(cli, "stores", "delete", store.name) as shown:
        await shown.until(f"Delete the store '{store.name}' with its 1 keys? [y/N]")
        shown.type("n\n")
        await shown.until("nothing was changed")
    assert shown.process.returncode == 2
    assert await store.get("k") is not None
    async with terminal(cli, "stores", "delete", store.name) as shown:
        await shown.until("[y/N]")
        shown.type("y\n")
        await shown.until(f"deleted {store.name}")
    assert shown.process.returncode == 0


async def test_applying_asks_after_the_plan(cli: Cli, store: KvStore, tmp_path: Path) -> None:
    tree = tmp_path / "tree.json"
    tree.write_text('{"k": "v"}')
    async with terminal(cli, "apply", store.name, tree) as shown:
        assert "1 to create" in ESCAPE.sub("", await shown.until("[y/N]"))
        shown.type("\n")
        await shown.until("nothing was changed")
    assert await store.keys() == []
    async with terminal(cli, "apply", store.name, tree, "--yes") as shown:
        await shown.until("applied to")
    assert await store.keys() == ["k"]


async def test_bars_and_tables(cli: Cli, store: KvStore, tmp_path: Path) -> None:
    await store.put_many({f"k{number}": b"v" for number in range(3)})
    async with terminal(cli, "dump", store.name, tmp_path / "dump") as shown:
        await shown.until("3 writes of")
    assert shown.process.returncode == 0
    async with terminal(cli, "restore", store.name, tmp_path / "dump", "--overwrite") as shown:
        assert "3/3" in ESCAPE.sub("", await shown.until("3 writes into"))
    assert shown.process.returncode == 0
    async with terminal(cli, "replica", "follow", store.name, tmp_path / "copy", "--once") as shown:
        await shown.until("3 keys of")
    assert shown.process.returncode == 0
    async with terminal(cli, "stores", "list") as shown:
        assert "3 keys" in ESCAPE.sub("", await shown.until(store.name + "  "))
    assert shown.process.returncode == 0
