"""L3: `connect(url)`: the scheme of the URL chooses the backend, which is imported only then."""

from __future__ import annotations

import os
import ssl
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import SecretStr

from slipstream.interfaces import Connection

_SERVER_SIDE = frozenset(
    {"creds", "creds_file", "nkey_seed", "nkey_file", "tls", "tls_hostname", "tls_handshake_first", "domain"}
)


def connect(
    url: str | None = None,
    *,
    creds: str | None = None,
    creds_file: str | os.PathLike[str] | None = None,
    nkey_seed: str | None = None,
    nkey_file: str | os.PathLike[str] | None = None,
    op_timeout: float = 30.0,
    name: str | None = None,
    tls: ssl.SSLContext | None = None,
    tls_hostname: str | None = None,
    tls_handshake_first: bool = False,
    connect_timeout: float = 2.0,
    ping_interval: float = 2.0,
    max_pings_out: int = 2,
    reconnect_max_wait: float = 1.0,
    heartbeat: float = 2.0,
    inbox_prefix: str = "_INBOX",
    retry_writes: bool = True,
    lane: Literal["data", "slow"] = "data",
    domain: str | None = None,
) -> Connection:
    """A connection, opened by `async with` or by `await connection.connect()`. Nothing is sent before that.

    Args:
        url: `nats://`, `tls://`, `ws://` or `wss://` (several servers separated by commas); `embedded://` or
            `embedded:///path/to/dir` for a private server on this machine; `memory://` or `memory://name` for this
            process alone. None: `$SLIPSTREAM_URL`, else `$NATS_URL`, else `embedded://`.
        op_timeout: seconds that any single operation may take, retries included.
    All else is a field of `NatsConnectionConfig` in `slipstream.stores.nats`: what only NATS knows has no effect on
    `memory://`; credentials, TLS and domain have none on `embedded://`.

    Raises: ValueError for a URL or an option that is not understood.
    """
    target = url or os.environ.get("SLIPSTREAM_URL") or os.environ.get("NATS_URL") or "embedded://"
    options: dict[str, Any] = {
        "creds": creds,
        "creds_file": creds_file,
        "nkey_seed": nkey_seed,
        "nkey_file": nkey_file,
        "op_timeout": op_timeout,
        "name": name,
        "tls": tls,
        "tls_hostname": tls_hostname,
        "tls_handshake_first": tls_handshake_first,
        "connect_timeout": connect_timeout,
        "ping_interval": ping_interval,
        "max_pings_out": max_pings_out,
        "reconnect_max_wait": reconnect_max_wait,
        "heartbeat": heartbeat,
        "inbox_prefix": inbox_prefix,
        "retry_writes": retry_writes,
        "lane": lane,
        "domain": domain,
    }
    scheme = target.partition("://")[0] if "://" in target else "nats"
    match scheme:
        case "memory":
            return _memory(target, op_timeout)
        case "embedded":
            return _embedded(target, options)
        case "nats" | "tls" | "ws" | "wss":
            return _nats(target, options)
        case _:
            # The scheme alone: what follows it may be a secret.
            raise ValueError(f"no backend for {scheme}://; there are nats, tls, ws, wss, embedded and memory")


def _nats(url: str, options: dict[str, Any]) -> Connection:
    from slipstream.stores.nats import NatsConnection, NatsConnectionConfig

    return NatsConnection(NatsConnectionConfig(url=SecretStr(url), **options))


def _embedded(url: str, options: dict[str, Any]) -> Connection:
    from slipstream.stores.embedded import EmbeddedConnection

    # By hand: urlsplit would cut a folder at its # or ?.
    folder = unquote(url.removeprefix("embedded://")) or None
    if folder is not None and not folder.startswith("/"):
        raise ValueError("an embedded server's folder is an absolute path: embedded:///path/to/dir")
    # The private server has a token of its own, and neither TLS nor a domain.
    own = {name: value for name, value in options.items() if name not in _SERVER_SIDE}
    return EmbeddedConnection(folder, dial=lambda address: _nats(address, own))


def _memory(url: str, op_timeout: float) -> Connection:
    from slipstream.stores.memory import MemoryConnection

    if not op_timeout > 0:
        raise ValueError("op_timeout is above 0")
    return MemoryConnection(url.removeprefix("memory://") or None, op_timeout=op_timeout)
