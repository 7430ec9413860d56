"""Contexts of the `nats` command: what one says about a connection. Pure.

Files and fields: github.com/nats-io/jsm.go, natscontext/context.go, and ADR-21 of NATS.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from slipstream.cli.exits import UsageError

DEFAULT_URL = "nats://127.0.0.1:4222"
_CANNOT = ("nsc", "user_jwt")
"""Ways to log in that slipstream does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsContext:
    """What a context says. Its URL may hold a login, and shows in no repr.

    Attributes:
        creds: path of a .creds file.
        nkey: path of a file with the seed of a user's nkey.
        cert, key, ca: paths of files for TLS.
        domain: of JetStream.
    """

    url: str = field(default=DEFAULT_URL, repr=False)
    creds: Path | None = None
    nkey: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    domain: str | None = None
    inbox_prefix: str | None = None
    tls_first: bool = False


def contexts_folder(environment: Mapping[str, str]) -> Path:
    """Where the `nats` command keeps its files: `context.txt`, and `context/<name>.json`."""
    base = environment.get("XDG_CONFIG_HOME")
    home = Path(environment.get("HOME") or "~").expanduser()
    return (Path(base) if base else home / ".config") / "nats"


def context_file(folder: Path, name: str) -> Path:
    """Raises: UsageError for what is no name of a context."""
    if not name or ".." in name or os.sep in name:
        raise UsageError(f"not the name of a nats context: {name!r}")
    return folder / "context" / f"{name}.json"


def parse_context(text: str, name: str, environment: Mapping[str, str]) -> NatsContext:
    """The context in the text of its file. Raises: UsageError, which repeats no value of it."""
    try:
        fields = json.loads(text)
    except ValueError:
        raise UsageError(f"the nats context {name!r} is no JSON: repair it with `nats context edit {name}`") from None
    if not isinstance(fields, dict):
        raise UsageError(f"the nats context {name!r} is no JSON object: repair it with `nats context edit {name}`")

    def said(*names: str) -> str | None:
        found = next((fields[one] for one in names if fields.get(one)), None)
        if found is not None and not isinstance(found, str):
            raise UsageError(f"the nats context {name!r}: {names[0]} is no text")
        return found

    def path(field_name: str) -> Path | None:
        value = said(field_name)
        return None if value is None else _expanded(value, environment)

    user, token, creds, nkey = said("user"), said("token"), path("creds"), path("nkey")
    if not (user or token or creds or nkey):
        for cannot in _CANNOT:
            if fields.get(cannot):
                raise UsageError(
                    f"the nats context {name!r} logs in by {cannot}, which slipstream cannot: "
                    "use creds, an nkey, user and password, or a token"
                )
    if fields.get("socks_proxy"):
        raise UsageError(f"the nats context {name!r} goes through a socks_proxy, which slipstream cannot")
    return NatsContext(
        url=_with_login(said("url") or DEFAULT_URL, user, said("password"), token),
        # The nats command's order: user and password first, then creds, then the nkey.
        creds=None if user else creds,
        nkey=None if user or creds else nkey,
        cert=path("cert"),
        key=path("key"),
        ca=path("ca"),
        domain=_domain(said("jetstream_domain", "js_domain"), said("jetstream_api_prefix"), name),
        inbox_prefix=said("inbox_prefix"),
        tls_first=bool(fields.get("tls_first")),
    )


def _with_login(url: str, user: str | None, password: str | None, token: str | None) -> str:
    """The servers with the login in each of them that has none of its own."""
    if user:
        login = f"{quote(user, safe='')}:{quote(password or '', safe='')}"
    elif token:
        login = quote(token, safe="")
    else:
        return url
    servers = []
    for server in filter(None, map(str.strip, url.split(","))):
        scheme, there, rest = server.rpartition("://")
        servers.append(server if "@" in rest else f"{scheme if there else 'nats'}://{login}@{rest}")
    return ",".join(servers)


def _domain(domain: str | None, api_prefix: str | None, name: str) -> str | None:
    if domain or not api_prefix or api_prefix == "$JS.API":
        return domain
    parts = api_prefix.rstrip(".").split(".")
    if len(parts) == 3 and (parts[0], parts[2]) == ("$JS", "API"):
        return parts[1]
    raise UsageError(f"the nats context {name!r}: slipstream knows jetstream_domain, not a jetstream_api_prefix")


def _expanded(text: str, environment: Mapping[str, Any]) -> Path:
    """With `~` and `$NAME`, as the nats command reads paths."""
    for variable in sorted(environment, key=len, reverse=True):
        text = text.replace(f"${{{variable}}}", environment[variable]).replace(f"${variable}", environment[variable])
    home = environment.get("HOME", "~")
    return Path(home + text[1:]) if text.startswith("~/") else Path(text)
