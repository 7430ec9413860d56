"""The least that a role needs of a NATS server, as subjects. Pure.

What each role sends was found by running it on a server that permits nothing else: tests/cli/test_permissions.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from slipstream.cli.exits import UsageError
from slipstream.keys import check_bucket, check_prefix

Role = Literal["reader", "writer", "watcher", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
_API = "$JS.API"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """Subjects that may be published to and subscribed to.

    Attributes:
        note: what the server cannot limit, empty if nothing.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    note: str = ""

    def as_config(self) -> str:
        """A block for a user in the server's configuration file."""
        lines = [f"# {self.note}"] if self.note else []
        lines += ["permissions {"]
        for name, subjects in (("publish", self.publish), ("subscribe", self.subscribe)):
            lines += [f"  {name} {{", "    allow: ["]
            lines += [f"      {json.dumps(subject)}" for subject in subjects]
            lines += ["    ]", "  }"]
        return "\n".join([*lines, "}"])


def grants(
    roles: Iterable[Role], store: str, *, prefix: str = "", inbox_prefix: str = "_INBOX", domain: str | None = None
) -> Grants:
    """What these roles together need on a store that is there.

    Args:
        prefix: the keys that may be written, whole tokens: "" or with a dot at its end. Reading cannot be limited.
        inbox_prefix: where answers are received; one that others share lets this user hear their answers.
    Raises: UsageError, InvalidKeyError.
    """
    wanted = set(roles)
    if not wanted or wanted - set(ROLES):
        raise UsageError(f"a role is one of {', '.join(ROLES)}; several are joined by commas")
    stream = f"KV_{check_bucket(store)}"
    if check_prefix(prefix) and not prefix.endswith("."):
        raise UsageError(f"the server permits whole tokens: the prefix {prefix!r} needs a dot at its end")
    if "admin" in wanted:
        wanted = set(ROLES)
        prefix = ""
    # What opens a store, and how its last word on a key is asked for: every role does both.
    publish = {f"{_API}.INFO", f"{_API}.STREAM.INFO.{stream}", f"{_API}.STREAM.MSG.GET.{stream}"}
    if wanted & {"reader", "watcher"}:
        publish |= {
            f"{_API}.CONSUMER.CREATE.{stream}.*",
            f"{_API}.CONSUMER.DELETE.{stream}.*",
            f"$JS.FC.{stream}.>",
        }
    if "reader" in wanted:
        publish |= {f"{_API}.DIRECT.GET.{stream}", f"{_API}.DIRECT.GET.{stream}.>"}
    if "writer" in wanted:
        # Guards of transactions ride on messages to the second; see stores/nats/subjects.py.
        publish |= {f"$KV.{store}.{prefix}>", f"$KV.$guard.{store}"}
    if "admin" in wanted:
        publish |= {f"{_API}.STREAM.NAMES"}
        publish |= {f"{_API}.STREAM.{verb}.{stream}" for verb in ("CREATE", "UPDATE", "DELETE", "PURGE")}
    if domain is not None:
        publish = {subject.replace(_API, f"$JS.{domain}.API", 1) for subject in publish}
    readable = prefix and wanted & {"reader", "watcher", "writer"}
    return Grants(
        publish=tuple(sorted(publish)),
        subscribe=(f"{inbox_prefix}.>",),
        note="the prefix limits what is written; what is read a server limits to whole stores only" if readable else "",
    )
