"""Many keys, and what one was: keys, scan, history."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from slipstream.cli.commands.values import Key
from slipstream.cli.connecting import open_store
from slipstream.cli.exits import Exit, FalseError
from slipstream.cli.options import DEFAULTS, Options, Prefix, StoreName
from slipstream.cli.render import entry_record, moment, shown_in_line, update_record
from slipstream.model import KvUpdate, Operation

STYLES = {Operation.PUT: "green", Operation.DELETE: "red", Operation.PURGE: "magenta"}


async def keys(store: StoreName, /, *, prefix: Prefix = "", options: Options = DEFAULTS) -> int:
    """Print the keys, sorted; exit code 1 if there are none."""
    out = options.output()
    async with open_store(options, store) as opened:
        found = await opened.keys(prefix)
    for key in found:
        out.record({"key": key}, key)
    return Exit.OK if found else Exit.FALSE


async def scan(
    store: StoreName,
    /,
    *,
    prefix: Prefix = "",
    unsorted: Annotated[
        bool, Parameter(help="In the order of their writes, as they arrive; for what memory does not hold.")
    ] = False,
    options: Options = DEFAULTS,
) -> int:
    """Print keys and values, sorted by key; exit code 1 if there are none. Binary values are printed as hex."""
    out = options.output()
    count = 0
    async with open_store(options, store) as opened:
        if unsorted:
            async for entry in opened.iter_scan(prefix):
                out.record(entry_record(entry), [(entry.key, "bold"), (f"\t{shown_in_line(entry.value)}", "")])
                count += 1
        else:
            for entry in await opened.scan(prefix):
                out.record(entry_record(entry), [(entry.key, "bold"), (f"\t{shown_in_line(entry.value)}", "")])
                count += 1
    return Exit.OK if count else Exit.FALSE


async def history(store: StoreName, key: Key, /, *, options: Options = DEFAULTS) -> int:
    """Print what the store still holds of a key, oldest first, deletions too; exit code 1 if nothing."""
    out = options.output()
    async with open_store(options, store) as opened:
        updates = await opened.history(key)
    if not updates:
        raise FalseError(f"store {store!r}, key {key!r}: the store holds nothing of it")
    for update in updates:
        out.record(update_record(update), update_line(update))
    return Exit.OK


def update_line(update: KvUpdate) -> list[tuple[str, str]]:
    """One change for people: what, which revision, when, key and value."""
    operation = "EXPIRED" if update.expired else update.operation.value
    return [
        (f"{operation:<7}", STYLES[update.operation]),
        (f" {update.revision or '?':>8} ", "cyan"),
        (f" {moment(update.created) or '':<27} ", "dim"),
        (update.key, "bold"),
        (f"\t{shown_in_line(update.value)}" if update.operation is Operation.PUT else "", ""),
    ]
