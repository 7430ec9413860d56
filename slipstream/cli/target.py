"""Which server a command means. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from slipstream.cli.contexts import NatsContext
from slipstream.cli.options import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server, and who said that it is meant.

    Attributes:
        source: for people: `--url`, `context 'prod'`, ...
        context: what a context adds to the URL.
        is_own: nobody named a server: the private one of this user.
    """

    url: str = field(repr=False)
    source: str
    context: NatsContext = field(default_factory=NatsContext)
    is_own: bool = False


def own_folder(environment: Mapping[str, str]) -> Path:
    """Where the private server of this user keeps its data: of `slipstream server`, and of who names no server."""
    base = environment.get("XDG_DATA_HOME")
    home = Path(environment.get("HOME") or "~").expanduser()
    return (Path(base) if base else home / ".local" / "share") / "slipstream" / "server"


def embedded_url(folder: Path) -> str:
    """That of the private server of a folder."""
    return f"embedded://{quote(str(folder.absolute()))}"


def choose_target(
    options: Options,
    environment: Mapping[str, str],
    *,
    selected: str | None,
    load: Callable[[str], NatsContext],
) -> Target:
    """The first that is there: --url, --context, $SLIPSTREAM_URL, $NATS_URL, $NATS_CONTEXT, the context that
    `nats context select` chose, the private server of this user.

    Args:
        selected: the name of the chosen context.
        load: the context of a name. Raises: UsageError.
    """
    if options.url is not None:
        # A context given beside it says how to log in there.
        context = NatsContext() if options.context is None else load(options.context)
        return Target(url=options.url, source="--url", context=context)
    if options.context is not None:
        return _of_context(options.context, load)
    for variable in ("SLIPSTREAM_URL", "NATS_URL"):
        if environment.get(variable):
            return Target(url=environment[variable], source=f"${variable}")
    name = environment.get("NATS_CONTEXT") or selected
    if name:
        return _of_context(name, load)
    return Target(url=embedded_url(own_folder(environment)), source="your private server", is_own=True)


def _of_context(name: str, load: Callable[[str], NatsContext]) -> Target:
    context = load(name)
    return Target(url=context.url, source=f"nats context {name!r}", context=context)
