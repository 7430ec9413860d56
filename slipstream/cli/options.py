"""What every command takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from slipstream.cli.output import Output

_GROUP = Group("Connection and output", sort_key=9)


def _positive(_: object, seconds: float | None) -> None:
    if seconds is not None and not 0 < seconds < math.inf:  # NaN too
        raise ValueError("a time in seconds is above 0")


@Parameter(name="*", group=_GROUP)
@dataclass(frozen=True, kw_only=True)
class Options:
    """Which server, how long, and for whom the output is.

    Attributes:
        url: nats://, tls://, ws://, wss:// (several, separated by commas), or embedded:///folder.
        context: a context of the `nats` command, by its name.
        creds: the path of a .creds file.
        timeout: seconds that any single operation may take.
        json: one JSON object a line, errors too.
    """

    url: Annotated[str | None, Parameter(help="Server: nats://, tls://, ws://, wss:// or embedded:///folder.")] = field(
        default=None, repr=False
    )
    context: Annotated[str | None, Parameter(help="A context of the `nats` command, by its name.")] = None
    creds: Annotated[Path | None, Parameter(help="Path of a .creds file.")] = None
    timeout: Annotated[float, Parameter(help="Seconds that any single operation may take.", validator=_positive)] = 10.0
    json: Annotated[bool, Parameter(help="One JSON object a line, errors too.", show_default=False)] = False

    def output(self) -> Output:
        return Output(json=self.json)


DEFAULTS = Options()
"""For the parameters of commands."""

Seconds = Annotated[float, Parameter(validator=_positive)]
"""More than none."""
StoreName = Annotated[str, Parameter(help="Name of the bucket.")]
Prefix = Annotated[str, Parameter(help="Only keys that begin with it.")]
