"""The lines of a dump: a head that says of what, and one for each write. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from slipstream.cli.exits import UsageError
from slipstream.cli.render import json_line, moment, update_record, value_of
from slipstream.keys import check_key
from slipstream.model import KvUpdate, Operation, StoreStatus, parse_time

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpedWrite:
    """A write as a dump holds it.

    Attributes:
        value: empty for a deletion.
        revision: the one that it had.
        expires: when the ttl that it was written with ends.
    """

    operation: Operation
    key: str
    value: bytes
    revision: int
    expires: datetime | None


def head_line(status: StoreStatus, *, prefix: str, history: bool) -> str:
    """The first line of a dump."""
    head = {
        "slipstream_dump": FORMAT,
        "store": status.config.name,
        "prefix": prefix,
        "history": history,
        "last_revision": status.last_revision,
        "incarnation": moment(status.incarnation),
    }
    return json_line(head)


def write_line(update: KvUpdate) -> str:
    """A line for one write."""
    return json_line(update_record(update))


def check_head(line: str) -> None:
    """Raises: UsageError for what is not the head of a dump that this version reads."""
    fields = _fields(line, 1)
    found = fields.get("slipstream_dump")
    if found != FORMAT:
        why = "it is no dump" if found is None else f"it has the format {found}, this version reads {FORMAT}"
        raise UsageError(f"line 1: {why}")


def parse_write(line: str, number: int) -> DumpedWrite:
    """The write in a line. Raises: UsageError, which names the line."""
    fields = _fields(line, number)
    try:
        expires = fields.get("expires")
        return DumpedWrite(
            operation=Operation(fields["operation"]),
            key=check_key(fields["key"]),
            value=value_of(fields),
            revision=int(fields["revision"]),
            expires=None if expires is None else parse_time(expires),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"line {number}: not a write of a dump: {error}") from None


def _fields(line: str, number: int) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        raise UsageError(f"line {number}: no JSON") from None
    if not isinstance(fields, dict):
        raise UsageError(f"line {number}: no JSON object")
    return fields
