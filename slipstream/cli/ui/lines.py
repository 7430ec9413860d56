"""What the state of a connection and of a store looks like in a line. Pure."""

from __future__ import annotations

from slipstream.cli.render import size
from slipstream.model import ConnectionEvent, ConnectionState, StoreStatus

Styled = tuple[str, str]
"""A text and its style, as rich names styles."""


def connection_line(event: ConnectionEvent) -> Styled:
    """The state of the connection; the address carries no secret."""
    where = f" {event.server}" if event.server else ""
    match event.state:
        case ConnectionState.CONNECTED:
            return f"● connected{where}", "bold green"
        case ConnectionState.RECONNECTING:
            return f"● reconnecting, attempt {event.attempt}", "bold yellow"
        case ConnectionState.LAME_DUCK:
            return f"● the server goes{where}", "bold yellow"
        case _:
            reason = f": {event.reason}" if event.reason else ""
            return f"● {event.state.value}{reason}", "bold red"


def store_line(status: StoreStatus) -> str:
    """How a store is."""
    history = status.config.max_history
    return (
        f"{status.config.name}: {status.keys:,} records, {size(status.bytes)}, revisions {status.first_revision:,} to "
        f"{status.last_revision:,}, history {history}, replicas {status.replicas}"
    )
