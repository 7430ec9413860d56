"""What the consumers of this process are called, so that whoever looks at a server can tell whose they are."""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
from pathlib import PurePath

_LONGEST = 24
"""Of the parts that somebody else chose: every delivery carries the name of its consumer in its reply subject."""
_ILLEGAL = re.compile(r"[^-_a-zA-Z0-9]+")
_ANY_PROGRAM = "python"


def consumer_name(application: str | None, purpose: str) -> str:
    """A name that no other consumer has, of letters, digits, `-` and `_` only: application, host, pid and purpose.

    nats-server takes no blank, `.`, `*`, `>`, `/` or `\\` in one, and up to 255 characters (server/jetstream.go:
    isValidAssetName, server/jetstream_api.go: JSMaxNameLen).
    """
    parts = (_token(application or program()), _token(socket.gethostname()), str(os.getpid()), purpose)
    return "-".join([*filter(None, parts), secrets.token_hex(8)])


def consumer_metadata(application: str | None, purpose: str) -> dict[str, str]:
    """The same in full, for `nats consumer info`."""
    return {
        "slipstream.application": application or program(),
        "slipstream.host": socket.gethostname(),
        "slipstream.pid": str(os.getpid()),
        "slipstream.purpose": purpose,
    }


def program() -> str:
    """What this process runs, by its file or package."""
    path = PurePath(sys.argv[0] if sys.argv else "")
    name = path.parent.name if path.name == "__main__.py" else path.stem
    # Without a file argv[0] is empty or "-c".
    return name if _token(name) and not name.startswith("-") else _ANY_PROGRAM


def _token(text: str) -> str:
    return _ILLEGAL.sub("-", text).strip("-")[:_LONGEST].rstrip("-")
