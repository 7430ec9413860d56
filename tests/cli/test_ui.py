"""The live view by textual's pilot, on real servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import DataTable, Footer, Input, OptionList, Static, TabbedContent

import slipstream
from slipstream.cli.commands.grants import grants
from slipstream.cli.connecting import need_admin
from slipstream.cli.ui.app import LiveView
from slipstream.cli.ui.rows import Rows
from slipstream.cli.ui.screens import ChooseStore, Comparison
from slipstream.coordination import Lease, Membership
from slipstream.interfaces import Connection, KvStore
from slipstream.model import StoreConfig
from slipstream.testing import NatsServer
from slipstream.testing._waiting import bounded
from tests.cli.conftest import SECONDS, Cli

SIZE = (150, 40)


@asynccontextmanager
async def viewing(connection: Connection, store: str | None = None, prefix: str = "") -> AsyncIterator[Pilot[None]]:
    app = LiveView(connection, store=store, prefix=prefix)
    async with app.run_test(size=SIZE) as pilot:
        yield pilot


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    """Return once it holds: the view tells nobody what it shows."""
    async with bounded():
        while not condition():
            await pilot.pause(0.01)


def text(pilot: Pilot[None], name: str) -> str:
    shown = pilot.app.screen.query_one(f"#{name}", Static).content
    return shown.plain if isinstance(shown, Text) else str(shown)


def rows(pilot: Pilot[None], name: str = "keys") -> list[str]:
    return list(pilot.app.screen.query_one(f"#{name}", Rows)._rows)


def table(pilot: Pilot[None], name: str) -> list[list[str]]:
    found = pilot.app.screen.query_one(f"#{name}", DataTable)
    return [[str(cell) for cell in found.get_row_at(at)] for at in range(found.row_count)]


def show_tab(pilot: Pilot[None], name: str) -> None:
    pilot.app.screen.query_one(TabbedContent).active = f"{name}-tab"


async def test_keys_and_values_live(connection: Connection, store: KvStore) -> None:
    await store.put("node.a", b'{"zone": "eu", "n": 1}')
    await store.put("node.b", b"\x00\xff")
    async with viewing(connection, store.name) as pilot:
        await until(pilot, lambda: rows(pilot) == ["node.a", "node.b"])
        await until(pilot, lambda: '  "zone": "eu"' in text(pilot, "value"))
        await store.put("node.a", b"plain")
        await until(pilot, lambda: text(pilot, "value").endswith("as text\n\nplain"))
        await pilot.press("down")
        await until(pilot, lambda: "00000000  00 ff" in text(pilot, "value"))
        await store.put("node.aa", b"new")
        await until(pilot, lambda: rows(pilot) == ["node.a", "node.aa", "node.b"])
        assert pilot.app.screen.query_one("#keys", Rows).chosen == "node.b"
        await store.delete("node.a")
        await until(pilot, lambda: rows(pilot) == ["node.aa", "node.b"])
        await pilot.press("up", "v", "v", "v")
        await until(pilot, lambda: "as hex" in text(pilot, "value"))
        assert "6e 65 77" in text(pilot, "value")


async def test_a_store_that_is_empty_made_and_made_again(connection: Connection, bucket: str) -> None:
    store = await connection.store(bucket)
    async with viewing(connection, bucket) as pilot:
        await until(pilot, lambda: bucket in _stores(pilot))
        await store.put("first", b"1")
        await until(pilot, lambda: rows(pilot) == ["first"])
        await connection.delete_store(bucket)
        await until(pilot, lambda: bucket not in _stores(pilot) and rows(pilot) == [])
        assert bucket in text(pilot, "store")
        again = await connection.store(bucket)
        await again.put("second", b"2")
        await until(pilot, lambda: rows(pilot) == ["second"])
    await connection.delete_store(bucket)


def _stores(pilot: Pilot[None]) -> list[str | None]:
    return [option.id for option in pilot.app.screen.query_one("#stores", OptionList).options]


async def test_search_shows_what_begins_with_it(connection: Connection, store: KvStore) -> None:
    await store.put_many({"job.1": b"1", "node.1": b"1", "node.2": b"1", "nodes": b"1"})
    async with viewing(connection, store.name) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 4)
        await pilot.press("slash", *"node.")
        await until(pilot, lambda: rows(pilot) == ["node.1", "node.2"])
        assert pilot.app.screen.query_one("#keys", Rows).border_title == "Keys 2 of 4"
        await store.put("node.3", b"1")
        await until(pilot, lambda: rows(pilot) == ["node.1", "node.2", "node.3"])
        await pilot.press("enter")
        assert pilot.app.focused is not None
        assert pilot.app.focused.id == "keys"
        pilot.app.screen.query_one("#search", Input).value = ""
        await until(pilot, lambda: len(rows(pilot)) == 5)
    async with viewing(connection, store.name, "job") as pilot:
        await until(pilot, lambda: rows(pilot) == ["job.1"])


async def test_history_and_what_differs_between_two_revisions(connection: Connection, bucket: str) -> None:
    store = await connection.store(StoreConfig(name=bucket, max_history=5))
    for number in (1, 2, 3):
        await store.put("k", json.dumps({"n": number, "same": True}).encode())
    await store.delete("k")
    await store.put("k", b'{"n": 5, "same": true}')
    async with viewing(connection, bucket) as pilot:
        await until(pilot, lambda: rows(pilot) == ["k"])
        show_tab(pilot, "history")
        await until(pilot, lambda: len(table(pilot, "history")) == 5)
        assert [row[1:3] for row in table(pilot, "history")] == [
            ["5", "PUT"],
            ["4", "DELETE"],
            ["3", "PUT"],
            ["2", "PUT"],
            ["1", "PUT"],
        ]
        await until(pilot, lambda: '+  "n": 5' in text(pilot, "revision-diff"))
        history = pilot.app.screen.query_one("#history", DataTable)
        history.focus()
        history.move_cursor(row=4)
        await pilot.press("space")
        history.move_cursor(row=2)
        await until(pilot, lambda: text(pilot, "revision-diff").startswith("1 -> 3"))
        assert '-  "n": 1' in text(pilot, "revision-diff")
        assert '+  "n": 3' in text(pilot, "revision-diff")
        assert [row[0] for row in table(pilot, "history")] == ["", "", "", "", "*"]
    await connection.delete_store(bucket)


async def test_watchers_and_how_far_they_are(connection: Connection, nats_url: str, store: KvStore) -> None:
    await store.put("k", b"1")
    async with slipstream.connect(nats_url, name="billing") as other:
        watched = await other.store(store.name)
        async with watched.watch() as watch, viewing(connection, store.name) as pilot:
            await anext(watch)
            show_tab(pilot, "watchers")
            await until(pilot, lambda: any(row[0] == "billing" for row in table(pilot, "watchers")))
            (row,) = [row for row in table(pilot, "watchers") if row[0] == "billing"]
            assert row[2] == str(os.getpid())
            assert row[4:] == ["0", "1"]


async def test_who_holds_and_who_is_there(connection: Connection, store: KvStore) -> None:
    async with (
        Lease(store, "jobs", holder="eu-1"),
        Membership(store, "workers", member="w1", value=b"x"),
        viewing(connection, store.name) as pilot,
    ):
        show_tab(pilot, "leases")
        await until(pilot, lambda: len(table(pilot, "claims")) == 2)
        assert [row[:4] for row in table(pilot, "claims")] == [
            ["lease", "jobs", "eu-1", "10 s"],
            ["member", "workers", "w1", "10 s"],
        ]


async def test_two_stores_beside_each_other(connection: Connection, store: KvStore, bucket: str) -> None:
    other = await connection.store(bucket)
    await store.put_many({"same": b"1", "changed": b"old", "gone": b"1"})
    await other.put_many({"same": b"1", "changed": b"new", "come": b"1"})
    async with viewing(connection, store.name) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == 3)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChooseStore))
        choice = pilot.app.screen.query_one("#choice", OptionList)
        choice.highlighted = [str(option.prompt) for option in choice.options].index(bucket)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Comparison))
        await until(pilot, lambda: rows(pilot, "differing") == ["changed", "come", "gone"])
        await pilot.press("c", "slash")  # of the main view, not of this one
        assert isinstance(pilot.app.screen, Comparison)
        assert text(pilot, "verdict").endswith("1 added, 1 removed, 1 changed")
        await until(pilot, lambda: "-old\n+new" in text(pilot, "difference"))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, Comparison))
    await connection.delete_store(bucket)


async def test_it_outlives_a_restart_of_the_server(nats_server: NatsServer) -> None:
    async with slipstream.connect(nats_server.url) as connection, slipstream.connect(nats_server.url) as writing:
        store = await writing.store("config")
        await store.put("a", b"1")
        async with viewing(connection, "config") as pilot:
            await until(pilot, lambda: rows(pilot) == ["a"])
            await until(pilot, lambda: text(pilot, "connection").startswith("● connected nats://127.0.0.1"))
            await nats_server.kill()
            await until(pilot, lambda: "connected" not in text(pilot, "connection").split()[1:2])
            await nats_server.start()
            await until(pilot, lambda: text(pilot, "connection").startswith("● connected"))
            await store.put("b", b"2")
            await until(pilot, lambda: rows(pilot) == ["a", "b"])


async def test_a_hundred_thousand_keys(connection: Connection, store: KvStore, tmp_path: Path) -> None:
    count = 100_000
    await store.put_many((f"node.{number:06d}", b"v" * 20) for number in range(count))
    async with viewing(connection, store.name) as pilot:
        await until(pilot, lambda: len(rows(pilot)) == count)
        await pilot.press("end")
        await until(pilot, lambda: f"node.{count - 1:06d}" in text(pilot, "value"))
        # Of all these keys the view has their names, and a widget for none.
        assert len(list(pilot.app.screen.walk_children())) < 100
        await pilot.press("slash", *"node.0500")
        await until(pilot, lambda: len(rows(pilot)) == 100)


async def test_nothing_is_taken_for_markup_or_obeyed(connection: Connection, store: KvStore) -> None:
    await store.put("k", b"[red]no[/] [@click=app.quit]x[/]")
    async with viewing(connection, store.name) as pilot:
        await until(pilot, lambda: "[red]no[/] [@click=app.quit]x[/]" in text(pilot, "value"))
        await store.put("k", b'{"a": "\\u001b[2J\\u009b2J"}')
        await until(pilot, lambda: '"\\u001b[2J\\u009b2J"' in text(pilot, "value"))


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_it_ends_and_leaves_no_consumer(connection: Connection, store: KvStore, key: str) -> None:
    await store.put("k", b"1")
    before = asyncio.all_tasks()
    app = LiveView(connection, store=store.name)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: rows(pilot) == ["k"])
        await pilot.press(key)
        await until(pilot, lambda: not app.is_running)
    assert app.return_code == 0
    async with bounded():
        while await need_admin(connection).watchers(store.name):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
    assert not [task for task in asyncio.all_tasks() - before if not task.done() and "request" not in task.get_name()]


async def test_a_picture_of_it(connection: Connection, store: KvStore, tmp_path: Path) -> None:
    await store.put_many({f"node.{name}": json.dumps({"zone": name, "up": True}).encode() for name in ("eu-1", "us-2")})
    async with viewing(connection, store.name) as pilot:
        await until(pilot, lambda: '"zone"' in text(pilot, "value"))
        await until(pilot, lambda: text(pilot, "connection").startswith("● connected"))
        await until(pilot, lambda: "2 records" in text(pilot, "store"))
        await until(pilot, lambda: len(pilot.app.screen.query_one(Footer).children) > 3)
        picture = tmp_path / "ui.svg"
        picture.write_text(pilot.app.export_screenshot())
    drawn = picture.read_text().replace("&#160;", " ")
    for expected in (
        "Stores",
        "Keys 2",
        "node.eu-1",
        "node.us-2",
        "zone",
        "connected",
        "Value",
        "History",
        "Watchers",
        "Leases",
        "Search",
        "Quit",
    ):
        assert expected in drawn


async def test_more_keys_than_are_listed(
    connection: Connection, store: KvStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipstream.cli.ui.following.LIMIT", 3)
    await store.put_many({"a.1": b"1", "a.2": b"1", "b.1": b"1", "b.2": b"1"})
    async with viewing(connection, store.name) as pilot:
        await until(pilot, lambda: "4 keys are more than the 3 that are listed" in text(pilot, "store"))
        assert rows(pilot) == []
    async with viewing(connection, store.name, "a.") as pilot:
        await until(pilot, lambda: rows(pilot) == ["a.1", "a.2"])
        await store.put_many({"a.3": b"1", "a.4": b"1"})
        await until(pilot, lambda: "more than 3 keys have come" in text(pilot, "store"))
        assert rows(pilot) == []


async def test_it_is_left_while_it_shows_something(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    left = asyncio.Event()

    async def shows_late(app: LiveView) -> None:
        try:
            await left.wait()
        finally:
            app._tell("store", "too late")  # there is no such widget any more

    removed = LiveView._close_all

    async def remove(app: LiveView) -> None:
        await removed(app)
        left.set()

    monkeypatch.setattr(LiveView, "_read_stores", shows_late)
    monkeypatch.setattr(LiveView, "_close_all", remove)
    async with viewing(connection) as pilot:
        await pilot.pause()
    assert left.is_set()


async def test_an_error_in_it_shows_no_variables(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fails(_: LiveView) -> None:
        password = "".join(["not-", "to-be-", "shown"])
        raise ZeroDivisionError(len(password))

    monkeypatch.setattr(LiveView, "_read_stores", fails)
    app = LiveView(connection)
    async with bounded():
        await app.run_async(headless=True, size=SIZE)
    assert app.return_code == 1
    told = capfd.readouterr().err
    assert "ZeroDivisionError" in told
    assert "not-to-be-shown" not in told


@pytest.mark.parametrize("end", ["q", "\x03", signal.SIGTERM], ids=["q", "ctrl-c", "sigterm"])
async def test_the_command_gives_the_terminal_back(bare_cli: Cli, url: str, bucket: str, end: str | int) -> None:
    async with slipstream.connect(url) as connection:
        await (await connection.store(bucket)).put("node.a", b"the-value")
    ours, its = os.openpty()
    before = termios.tcgetattr(its)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "slipstream.cli", "ui", bucket, "--url", url),
        stdin=its,
        stdout=its,
        stderr=its,
        env=bare_cli.environment | {"TERM": "xterm-256color", "LINES": "30"},
        start_new_session=True,
    )
    loop = asyncio.get_running_loop()
    drawn = bytearray()
    shown = asyncio.Event()

    def read() -> None:
        drawn.extend(os.read(ours, 65536))
        if b"the-value" in drawn:
            shown.set()

    loop.add_reader(ours, read)
    try:
        async with asyncio.timeout(SECONDS):
            await shown.wait()
            if isinstance(end, str):
                os.write(ours, end.encode())
            else:
                process.send_signal(end)
            assert await process.wait() == 0
            while b"\x1b[?1049l" not in drawn:  # noqa: ASYNC110 - what it wrote last is still on its way
                await asyncio.sleep(0.01)
        assert termios.tcgetattr(its) == before
        assert b"Traceback" not in drawn
        async with slipstream.connect(url) as connection:
            await connection.delete_store(bucket)
    finally:
        loop.remove_reader(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
        os.close(its)


async def test_who_may_only_read_one_store_sees_it(tmp_path: Path) -> None:
    permissions = grants(["reader", "watcher"], "config").as_config()
    users = f"{{user: root, password: r}}, {{user: reader, password: s, {permissions}}}"
    async with NatsServer(tmp_path, config=f"authorization {{ users: [{users}] }}") as server:

        def login(user: str, password: str) -> str:
            return server.url.replace("nats://", f"nats://{user}:{password}@")

        async with (
            slipstream.connect(login("root", "r")) as root,
            slipstream.connect(login("reader", "s"), op_timeout=5.0) as connection,
        ):
            store = await root.store("config")
            await store.put("k", b"the-value")
            async with viewing(connection, "config") as pilot:
                await until(pilot, lambda: "the-value" in text(pilot, "value"))
                await store.put("k", b"another")
                await until(pilot, lambda: "another" in text(pilot, "value"))
                await until(pilot, lambda: "1 records" in text(pilot, "store"))
                show_tab(pilot, "watchers")
                await until(pilot, lambda: "CONSUMER.LIST" in text(pilot, "store"))
