"""A tree into a prefix, as one transaction."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from slipstream.cli.commands.diff import difference_line
from slipstream.cli.commands.differences import Kind
from slipstream.cli.commands.plan import MAX_OPERATIONS, Step, make_plan, queue
from slipstream.cli.commands.tree import read_source
from slipstream.cli.connecting import exists, open_connection
from slipstream.cli.exits import Exit, UsageError
from slipstream.cli.given import confirmed
from slipstream.cli.options import DEFAULTS, Options, StoreName
from slipstream.cli.output import Output
from slipstream.cli.render import value_fields
from slipstream.keys import check_prefix


async def apply(
    store: StoreName,
    source: Annotated[Path, Parameter(help="A YAML, JSON or TOML document, or a folder with a file for each key.")],
    /,
    *,
    prefix: Annotated[str, Parameter(help="Stands before every key of the tree.")] = "",
    prune: Annotated[bool, Parameter(help="Delete the keys behind the prefix that the tree does not have.")] = False,
    dry_run: Annotated[bool, Parameter(help="Only print the plan; exit code 1 if there is something to do.")] = False,
    yes: Annotated[bool, Parameter(help="Do not ask at a terminal.", show_default=False)] = False,
    options: Options = DEFAULTS,
) -> int:
    """Print what is to be written and deleted, then do it as one transaction: all of it, or nothing.

    The plan holds only as long as nobody writes these keys: exit code 3 if somebody did, and nothing was changed. At a
    terminal it asks first. The store is made if there is none.
    """
    out = options.output()
    check_prefix(prefix)
    wanted = read_source(source, prefix)
    async with open_connection(options) as connection:
        there = await exists(connection, store)
        opened = await connection.store(store) if there or not dry_run else None
        steps = make_plan(wanted, [] if opened is None else await opened.scan(prefix), prune=prune)
        for step in steps:
            _tell(out, step)
        _sum_up(out, steps)
        if not steps:
            return Exit.OK
        if len(steps) > MAX_OPERATIONS:
            raise UsageError(
                f"{len(steps)} operations are more than the {MAX_OPERATIONS} of one transaction: "
                "apply parts of the tree, each with a --prefix of its own"
            )
        if opened is None or dry_run:
            return Exit.FALSE
        if sys.stdin.isatty() and not yes:
            confirmed(f"Apply this to the store {store!r}?", yes=False)
        async with opened.transaction() as transaction:
            for step in steps:
                queue(step, transaction)
    revisions = {key: version.as_u64() for key, version in transaction.versions.items()}
    out.record({"store": store, "applied": len(steps), "revisions": revisions}, f"applied to {store}")
    return Exit.OK


def _tell(out: Output, step: Step) -> None:
    difference = step.difference
    record: dict[str, object] = {"plan": _VERBS[difference.kind], "key": difference.key}
    if difference.right is not None:
        record |= value_fields(difference.right)
    out.record(record, difference_line(difference))


def _sum_up(out: Output, steps: list[Step]) -> None:
    counts = Counter(step.difference.kind for step in steps)
    parts = [f"{counts[kind]} to {verb}" for kind, verb in _VERBS.items() if counts[kind]]
    out.say(", ".join(parts) or "nothing to do")


_VERBS = {Kind.ADDED: "create", Kind.CHANGED: "update", Kind.REMOVED: "delete"}
