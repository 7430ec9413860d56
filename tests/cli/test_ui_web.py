"""The live view as a web page: by plain HTTP and websocket, and in a browser where there is one."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, CookieJar, WSMsgType, WSServerHandshakeError

import slipstream
from slipstream.interfaces import KvStore
from slipstream.testing import NatsServer
from tests.cli.conftest import SECONDS, Cli, Running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@asynccontextmanager
async def visiting() -> AsyncIterator[ClientSession]:
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:  # which takes cookies of an address, too
        yield session


async def served(cli: Cli, store: str) -> tuple[Running, str]:
    """The page that runs, and its address with the token."""
    running = await cli.start("ui", store, "--web", "--json")
    return running, (await running.record())["url"]


def base(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def shown(session: ClientSession, url: str, *expected: str, keys: str = "") -> str:
    """What the app draws until all that is expected was among it."""
    drawn = ""
    async with asyncio.timeout(SECONDS), session.ws_connect(f"{url}/ws?width=120&height=30") as websocket:
        await websocket.send_json(["stdin", keys])
        while not all(text in drawn for text in expected):
            message = await websocket.receive()
            assert message.type in (WSMsgType.BINARY, WSMsgType.TEXT), f"it ended after:\n{drawn}"
            if message.type is WSMsgType.BINARY:
                drawn += message.data.decode(errors="replace")
    return drawn


def of_process(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_only_who_has_the_token_sees_anything(cli: Cli, store: KvStore) -> None:
    await store.put("node.a", b"the-value")
    running, url = await served(cli, store.name)
    there = base(url)
    assert there.startswith("http://127.0.0.1:")
    async with visiting() as session:
        for path in ("/", "/ws", "/static/js/textual.js", "/download/x", "/nothing", "/?token=", "/?token=wrong"):
            async with session.get(there + path) as answer:
                assert (path, answer.status) == (path, 403)
        for path in ("/ws", "/ws?token=wrong"):
            with pytest.raises(WSServerHandshakeError) as refused:
                await session.ws_connect(there + path)
            assert refused.value.status == 403
        async with session.get(url) as answer:
            page = await answer.text()
            assert answer.status == 200
            assert "token" not in str(answer.url)
            assert "fonts.googleapis" not in answer.headers["Content-Security-Policy"]
            assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert f"ws://{urlsplit(url).netloc}/ws" in page
        (cookie,) = session.cookie_jar
        assert (cookie["httponly"], cookie["samesite"]) == (True, "Strict")
        # Another site's page in the same browser.
        with pytest.raises(WSServerHandshakeError) as refused:
            await session.ws_connect(f"{there}/ws", origin="http://elsewhere.example")
        assert refused.value.status == 403
        await shown(session, there, "node.a", "the-value")
    ended = await running.end(signal.SIGTERM)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes by /proc")
async def test_the_login_of_the_server_is_nowhere_to_be_read(bare_cli: Cli, tmp_path: Path) -> None:
    password = secrets.token_hex(12)
    config = f"authorization {{ user: someone, password: {password} }}"
    async with NatsServer(tmp_path / "nats", config=config) as server:
        login = server.url.replace("nats://", f"nats://someone:{password}@")
        async with slipstream.connect(login) as connection:
            await (await connection.store("config")).put("k", b"v")
        bare_cli.environment["SLIPSTREAM_URL"] = login
        running, url = await served(bare_cli, "config")
        token = urlsplit(url).query.removeprefix("token=")
        async with visiting() as session:
            async with session.get(url) as answer:
                page = await answer.text()
            async with asyncio.timeout(SECONDS), session.ws_connect(f"{base(url)}/ws") as websocket:
                await websocket.receive()
                (child,) = children(running.process.pid)
                arguments, environment = (of_process(child, name) for name in ("cmdline", "environ"))
            drawn = await shown(session, base(url), "connected")
        ended = await running.end(signal.SIGINT)
    assert ended.code == 0
    for read in (page, arguments, drawn, ended.out, ended.err):
        assert password not in read
    assert token not in page + arguments + environment + drawn + ended.out + ended.err


async def test_the_app_of_a_visitor_ends_with_the_visit(cli: Cli, store: KvStore) -> None:
    running, url = await served(cli, store.name)
    async with visiting() as session:
        async with session.get(url):
            pass
        await shown(session, base(url), "Stores")
        async with asyncio.timeout(SECONDS):
            while children(running.process.pid):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.01)
        # And with the page, while somebody looks on.
        async with session.ws_connect(f"{base(url)}/ws") as websocket:
            await websocket.receive()
            (child,) = children(running.process.pid)
            ended = await running.end(signal.SIGTERM)
        assert (ended.code, ended.err) == (0, "")
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


async def test_what_it_needs_is_said(cli: Cli, store: KvStore) -> None:
    assert "--web" in (await cli("ui", store.name, code=2)).err  # no terminal here
    assert (await cli("ui", "--web", "--host", "192.0.2.1", code=2)).out == ""  # not an address of this machine


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; the page is tested without one above")
async def test_the_page_in_chromium(cli: Cli, store: KvStore, tmp_path: Path) -> None:
    from playwright.async_api import async_playwright

    await store.put("node.eu-1", b'{"zone": "eu", "up": true}')
    running, url = await served(cli, store.name)
    asked: list[str] = []
    failed: list[str] = []
    drawn: list[str] = []
    complete = asyncio.Event()

    def draws(frame: str | bytes) -> None:
        drawn.append(frame if isinstance(frame, str) else frame.decode(errors="replace"))
        if all(text in "".join(drawn) for text in ("connected", "node.eu-1", "zone")):
            complete.set()

    async with asyncio.timeout(2 * SECONDS), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": 1400, "height": 800})
        page.on("response", lambda response: asked.append(response.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("websocket", lambda websocket: websocket.on("framereceived", draws))
        await page.goto(url)
        assert page.url == f"{base(url)}/"
        await complete.wait()
        await page.wait_for_selector("body.-first-byte")
        await page.screenshot(path=tmp_path / "page.png")
        # What is typed arrives.
        await page.locator("#terminal").click(position={"x": 900, "y": 500})
        await page.keyboard.press("q")
        await page.wait_for_selector("body.-closed")
        await browser.close()
    assert not failed
    assert {urlsplit(one).netloc for one in asked} == {urlsplit(url).netloc}
    ended = await running.end(signal.SIGINT)
    assert (ended.code, ended.err) == (0, "")
