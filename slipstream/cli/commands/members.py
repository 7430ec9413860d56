"""Who is there."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from slipstream.cli.commands.held import STORE, Bucket
from slipstream.cli.connecting import open_store
from slipstream.cli.exits import Exit
from slipstream.cli.options import DEFAULTS, Options
from slipstream.cli.render import shown_in_line, value_fields
from slipstream.cli.running import until_stopped
from slipstream.coordination import MemberEvent, Membership

_STYLES = {MemberEvent.JOINED: "green", MemberEvent.CHANGED: "yellow", MemberEvent.LEFT: "red"}


@until_stopped
async def members(
    name: Annotated[str, Parameter(help="Of the group: that of `Membership`.")],
    /,
    *,
    watch: Annotated[bool, Parameter(help="Then every change, until SIGINT or SIGTERM.", show_default=False)] = False,
    store: Bucket = STORE,
    options: Options = DEFAULTS,
) -> int:
    """Print the members of a group and their values; exit code 1 if there are none."""
    out = options.output()
    async with open_store(options, store) as opened, Membership(opened, name, join=False) as group:
        if not watch:
            for member, value in group.items():
                out.record({"member": member, **value_fields(value)}, f"{member}\t{shown_in_line(value)}")
            return Exit.OK if group else Exit.FALSE
        async for change in group:
            event = change.event
            out.record(
                {"event": event.value, "member": change.member, **value_fields(change.value)},
                [
                    (f"{event.value:<8}", _STYLES[event]),
                    (change.member, "bold"),
                    (f"\t{shown_in_line(change.value)}", ""),
                ],
            )
    return Exit.OK
