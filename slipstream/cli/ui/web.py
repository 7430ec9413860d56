"""The app for browsers: textual-serve behind a token. Every visitor has an app, and so a process, of its own."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import aiohttp_jinja2
from aiohttp import WSCloseCode, web
from aiohttp.typedefs import Middleware
from textual_serve.app_service import AppService
from textual_serve.server import Server, to_int

from slipstream.cli.ui.visitor import VARIABLE, Visit

_PARAMETER = "token"
_END_SECONDS = 5.0
"""Until the app of a visitor who has gone is killed."""
_MOST_VISITORS = 16
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)
"""The page of textual-serve asks Google for a font: a view of somebody's store tells no third party that it is open."""


class _Visitor(AppService):
    """The app of one visitor."""

    def __init__(self, websocket: web.WebSocketResponse, server: _Site, visit: Visit) -> None:
        super().__init__(
            "",
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            close=partial(_close, websocket),
            download_manager=server.download_manager,
        )
        self._visit = visit

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Process:
        # Without a shell, and with nothing in the arguments.
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "slipstream.cli.ui"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=self._build_environment(width=width, height=height) | {VARIABLE: self._visit.pack()},
        )
        self._stdin = process.stdin
        return process

    async def stop(self) -> None:
        """End the app, within seconds; safe to repeat."""
        process, task = self._process, self._task
        if process is None or task is None:
            return
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self.send_meta({"type": "quit"})
                await process.wait()
        except TimeoutError:
            process.kill()
        finally:
            if process.returncode is None:
                process.kill()  # cancelled meanwhile
        await asyncio.wait({task}, timeout=_END_SECONDS)
        await process.wait()
        self._task = None


async def _close(websocket: web.WebSocketResponse) -> None:
    await websocket.close()


class _Site(Server):
    """textual-serve's page, with relative addresses and with the app of `_Visitor`."""

    def __init__(self, visit: Visit) -> None:
        super().__init__("", title="slipstream")
        self._visit = visit
        self._websockets: set[web.WebSocketResponse] = set()

    async def make(self) -> web.Application:
        return await self._make_app()

    async def on_startup(self, app: web.Application) -> None:
        """Without the banner."""

    async def on_shutdown(self, app: web.Application) -> None:
        for websocket in list(self._websockets):
            await websocket.close(code=WSCloseCode.GOING_AWAY)

    async def handle_index(self, request: web.Request) -> web.Response:
        # By the name that the visitor used: behind --host 0.0.0.0 there are many.
        websocket = f"{'wss' if request.secure else 'ws'}://{request.host}/ws"
        context = {
            "font_size": to_int(request.query.get("fontsize", "16"), 16),
            "app_websocket_url": websocket,
            "config": {"static": {"url": "/static/"}},
            "application": {"name": self.title},
        }
        return aiohttp_jinja2.render_template("app_index.html", request, context)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        if len(self._websockets) >= _MOST_VISITORS:
            raise web.HTTPServiceUnavailable(text=f"{_MOST_VISITORS} look on already")
        websocket = web.WebSocketResponse(heartbeat=15)
        self._websockets.add(websocket)
        visitor = _Visitor(websocket, self, self._visit)
        try:
            await websocket.prepare(request)
            await visitor.start(
                to_int(request.query.get("width", "80"), 80), to_int(request.query.get("height", "24"), 24)
            )
            await self._process_messages(websocket, visitor)
        finally:
            self._websockets.discard(websocket)
            await visitor.stop()
        return websocket


def behind_token(token: str) -> Middleware:
    """Lets pass who has the token, in the address or, from then on, in a cookie; all others get a 403.

    Who comes with it in the address is sent on to one without: it would stay in the browser's history. A page of
    another site that opens the websocket has no cookie (SameSite), and is refused by its origin, too.
    """

    @web.middleware
    async def check(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        cookie = f"slipstream-ui-{request.url.port}"  # a cookie is of a host, whichever port
        given = request.query.get(_PARAMETER)
        known = request.cookies.get(cookie, "")
        if not _same(given if given is not None else known, token) or _is_foreign(request):
            return web.Response(status=403, text="the address that slipstream ui --web printed has a token: use that\n")
        if given is not None and request.path == "/":
            passed = web.Response(status=303, headers={"Location": "/"})
            passed.set_cookie(cookie, token, httponly=True, samesite="Strict", secure=request.secure)
            _harden(passed)
            return passed
        response = await handler(request)
        if not response.prepared:
            _harden(response)
        return response

    return check


@asynccontextmanager
async def serving(visit: Visit, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve the app in the block; the address, with its token.

    Args:
        port: 0 takes a free one.
    Raises: OSError where it cannot listen.
    """
    token = secrets.token_urlsafe(32)
    app = await _Site(visit).make()
    app.middlewares.append(behind_token(token))
    # Without an access log: it would hold the token.
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_END_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}/?{_PARAMETER}={token}"
    finally:
        await runner.cleanup()


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _is_foreign(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host


def _harden(response: web.StreamResponse) -> None:
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
