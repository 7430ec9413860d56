"""Two revisions, two stores, or a store and a folder beside each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from slipstream.cli.commands.backlog import backlog
from slipstream.cli.commands.differences import Difference, Kind, Value, differences, value_at
from slipstream.cli.commands.tree import read_source
from slipstream.cli.connecting import find_store, open_connection
from slipstream.cli.exits import Exit, UsageError
from slipstream.cli.options import DEFAULTS, Options, Prefix
from slipstream.cli.render import shown_in_line, value_fields
from slipstream.interfaces import Connection, KvStore
from slipstream.keys import check_prefix
from slipstream.model import KvUpdate

_SIDE = re.compile(r"(?P<store>[-_a-zA-Z0-9]+)(?:@(?P<revision>[0-9]+))?")
_SIGNS = {Kind.ADDED: ("+", "green"), Kind.REMOVED: ("-", "red"), Kind.CHANGED: ("~", "yellow")}
_WIDTH = 60
Side = Annotated[
    str, Parameter(help="STORE, STORE@REVISION, or the path of a folder or document (with a / or a dot in it).")
]


async def diff(left: Side, right: Side, /, *, prefix: Prefix = "", options: Options = DEFAULTS) -> int:
    """Print what differs from the left side to the right; exit code 1 if something does.

    A store at a revision is what its history still holds of it: keys of which it holds too little are printed as
    unknown. The keys of a folder or document stand behind the prefix.
    """
    out = options.output()
    check_prefix(prefix)
    if _is_path(left) and _is_path(right):
        found = differences(read_source(Path(left), prefix), read_source(Path(right), prefix))
    else:
        async with open_connection(options) as connection:
            found = differences(
                await _read(connection, left, prefix),
                await _read(connection, right, prefix),
            )
    for difference in found:
        out.record(difference_record(difference), difference_line(difference))
    return Exit.FALSE if found else Exit.OK


def difference_line(difference: Difference) -> list[tuple[str, str]]:
    """One difference for people."""
    if difference.kind is Kind.UNKNOWN:
        return [("? ", "magenta"), (difference.key, "bold"), ("\tno longer in the history", "dim")]
    sign, style = _SIGNS[difference.kind]
    sides = [shown_in_line(value, width=_WIDTH) for value in (difference.left, difference.right) if value is not None]
    return [(f"{sign} ", style), (difference.key, "bold"), (f"\t{' -> '.join(sides)}", style)]


def difference_record(difference: Difference) -> dict[str, object]:
    """One difference for programs."""
    record: dict[str, object] = {"difference": difference.kind.value, "key": difference.key}
    for name, value in (("left", difference.left), ("right", difference.right)):
        if value is not None:
            record[name] = value_fields(value)
    return record


def _is_path(side: str) -> bool:
    return _SIDE.fullmatch(side) is None


async def _read(connection: Connection, side: str, prefix: str) -> dict[str, Value]:
    found = _SIDE.fullmatch(side)
    if found is None:
        return dict(read_source(Path(side), prefix))
    store = await find_store(connection, found["store"])
    if found["revision"] is None:
        return {entry.key: entry.value for entry in await store.scan(prefix)}
    return await _read_at(store, int(found["revision"]), prefix)


async def _read_at(store: KvStore, revision: int, prefix: str) -> dict[str, Value]:
    status = await store.status()
    if revision > status.last_revision:
        raise UsageError(f"the store {store.name!r} has come to revision {status.last_revision}, not to {revision}")
    last: dict[str, KvUpdate] = {}
    async with store.watch(prefix) as watching:
        async for batch in backlog(watching):
            last.update((update.key, update) for update in batch)
    found: dict[str, Value] = {}
    for key, update in last.items():
        # One that was not written since is what it was; of the others the history tells.
        history = [update] if (update.revision or 0) <= revision else await store.history(key)
        value = value_at(history, revision, max_history=status.config.max_history)
        if value is not None:
            found[key] = value
    return found
