"""The app of one visitor of the web page: a process of its own, started by `web`.

What server is meant comes in the environment, which other users of the machine cannot read, as they can arguments.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from slipstream.cli.connecting import open_connection
from slipstream.cli.exits import Exit, failure_of
from slipstream.cli.options import Options
from slipstream.cli.output import LogHandler, Output, tell
from slipstream.cli.running import run_command

VARIABLE = "SLIPSTREAM_UI"


class Visit(NamedTuple):
    """What is looked at."""

    options: Options
    store: str | None
    prefix: str

    def pack(self) -> str:
        return json.dumps({"options": asdict(self.options), "store": self.store, "prefix": self.prefix}, default=str)

    @classmethod
    def unpack(cls, text: str) -> Visit:
        """What `pack` made."""
        fields = json.loads(text)
        creds = fields["options"].pop("creds")
        options = Options(**fields["options"], creds=None if creds is None else Path(creds))
        return cls(options=options, store=fields["store"], prefix=fields["prefix"])


async def look(visit: Visit) -> int:
    """Show it in the terminal, or in the browser that the environment tells textual of, until it is left."""
    from slipstream.cli.ui.app import LiveView

    async with open_connection(visit.options) as connection:
        app = LiveView(connection, store=visit.store, prefix=visit.prefix)
        await app.run_async()
    return app.return_code or Exit.OK


def main() -> int:
    """Run the app that the environment describes; its exit code."""
    logging.getLogger().addHandler(LogHandler(Output(json=False)))
    try:
        return run_command(look, look(Visit.unpack(os.environ[VARIABLE])))
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        tell(failure, json=False)
        return failure.exit
