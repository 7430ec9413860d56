"""A live view, in the terminal or in a browser."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from typing import Annotated

from cyclopts import Parameter

from slipstream.cli.connecting import find_target
from slipstream.cli.exits import Exit, UsageError
from slipstream.cli.options import DEFAULTS, Options, Prefix
from slipstream.cli.running import until_stopped
from slipstream.cli.ui.visitor import Visit, look
from slipstream.keys import check_prefix

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@until_stopped
async def ui(
    store: Annotated[str | None, Parameter(help="The store to begin with; else the first one.")] = None,
    /,
    *,
    prefix: Prefix = "",
    web: Annotated[
        bool, Parameter(help="Serve it as a web page, until SIGINT or SIGTERM.", show_default=False)
    ] = False,
    host: Annotated[str, Parameter(help="Address that the web page is served on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Its port; 0 takes a free one.")] = 0,
    options: Options = DEFAULTS,
) -> int:
    """Look at stores, keys, values, histories, watchers and leases, live. Nothing is written.

    With --web the address is printed once; it has a token, without which nothing is shown.
    """
    check_prefix(prefix)
    visit = Visit(options=options, store=store, prefix=prefix)
    _need("textual_serve.server" if web else "textual.app")
    if web:
        return await _serve(visit, host=host, port=port)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the view needs a terminal: or serve it as a page with --web")
    return await look(visit)


async def _serve(visit: Visit, *, host: str, port: int) -> int:
    from slipstream.cli.ui.web import serving

    find_target(visit.options)  # what is wrong with the options is told here, not to a visitor
    out = visit.options.output()
    if host not in _LOOPBACK:
        out.warn("the page is served without TLS: whoever reads along has the token and sees the stores")
    async with serving(visit, host=host, port=port) as url:
        out.record({"url": url, "ready": True}, url)
        out.note("(open it in a browser; Ctrl-C ends it)")
        await asyncio.get_running_loop().create_future()  # until it is cancelled
    return Exit.OK


def _need(module: str) -> None:
    try:
        import_module(module)
    except ModuleNotFoundError:
        raise UsageError("the view needs: pip install 'slipstream-kv[ui]'") from None
