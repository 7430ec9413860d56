"""The private server, in the foreground."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from slipstream.cli.options import DEFAULTS, Options
from slipstream.cli.running import until_stopped
from slipstream.cli.target import embedded_url, own_folder
from slipstream.errors import ConnectionFailedError


@until_stopped
async def server(
    folder: Annotated[Path | None, Parameter(help="Where its data is; made if it is missing.")] = None,
    /,
    *,
    options: Options = DEFAULTS,
) -> int:
    """Run the private server of a folder until SIGINT or SIGTERM, for development: exit code 0.

    Without a folder it is the one that commands use where no server is named. It listens on this machine alone, on a
    port that it picks; programs reach it by the URL that is printed. While others use the folder it outlives this
    command.
    """
    from slipstream.stores.embedded import EmbeddedServer

    out = options.output()
    is_own = folder is None
    where = own_folder(os.environ) if folder is None else folder.absolute()
    seat = EmbeddedServer(where, start_timeout=max(options.timeout, 1.0))
    await seat.join()
    try:
        url = embedded_url(where)
        out.record({"url": url, "folder": str(where), "ready": True}, f"serving {url}")
        out.note(
            "(commands find it by themselves; Ctrl-C ends it)"
            if is_own
            else f"(export SLIPSTREAM_URL={url} makes commands and programs find it; Ctrl-C ends it)"
        )
        await seat.keep()
        raise ConnectionFailedError(message=f"the server of {where} has ended: see its server.log there")
    finally:
        await asyncio.shield(seat.leave())
