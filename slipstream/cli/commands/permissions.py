"""The least that a role needs of a server."""

from __future__ import annotations

from typing import Annotated, cast

from cyclopts import Parameter

from slipstream.cli.commands.grants import Role, grants
from slipstream.cli.exits import Exit
from slipstream.cli.options import DEFAULTS, Options, StoreName


async def permissions(
    role: Annotated[str, Parameter(help="reader, writer, watcher or admin; several joined by commas.")],
    store: StoreName,
    /,
    *,
    prefix: Annotated[str, Parameter(help="The keys that may be written: whole tokens, with a dot at the end.")] = "",
    inbox_prefix: Annotated[str, Parameter(help="Where the user receives answers; best one of its own.")] = "_INBOX",
    domain: Annotated[str | None, Parameter(help="The domain of JetStream.")] = None,
    options: Options = DEFAULTS,
) -> int:
    """Print the permissions that a user of NATS needs for a role on a store, and no more. No server is asked.

    For a user in the server's configuration file; with --json for tools. reader: get, keys, scan, history, diff, dump.
    watcher: watch. writer: put and all other writes, transactions too. admin: all of that, and the store itself.
    """
    roles = [cast("Role", name.strip()) for name in role.split(",")]
    found = grants(roles, store, prefix=prefix, inbox_prefix=inbox_prefix, domain=domain)
    record: dict[str, object] = {"publish": {"allow": found.publish}, "subscribe": {"allow": found.subscribe}}
    if found.note:
        record["note"] = found.note
    options.output().record(record, found.as_config())
    return Exit.OK
