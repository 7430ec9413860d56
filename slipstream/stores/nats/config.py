"""How to reach and enter a NATS server. Secrets are `SecretStr` and reach no repr, log or error."""

from __future__ import annotations

import base64
import binascii
import ssl
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

DEFAULT_URL = "nats://127.0.0.1:4222"
SCHEMES = ("nats", "tls", "ws", "wss")

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NatsConnectionConfig(BaseModel):
    """Every option of a NATS connection. Raises: pydantic's ValidationError, a ValueError, without the input in it.

    Credentials, the first that is there: `creds`, `creds_file`, `user:password@` or `token@` in the URL, none.

    Attributes:
        url: one server or several, separated by commas: `nats://`, `tls://`, `ws://` or `wss://`.
        creds: the content of a `.creds` file, base64-encoded.
        creds_file: the path of a `.creds` file.
        op_timeout: seconds that any single operation may take, retries included.
        name: what the server's monitoring shows for this connection.
        tls: context for `tls://` and `wss://`; None is the system's defaults.
        tls_hostname: name to check the certificate against, where it is not the URL's.
        tls_handshake_first: the server expects TLS before it says anything.
        connect_timeout: seconds for one attempt to reach one server.
        ping_interval: seconds between pings; a connection that misses `max_pings_out` of them is given up.
        max_pings_out: how many pings may be unanswered.
        reconnect_max_wait: seconds, upper end of the wait between attempts to reconnect, which go on for ever.
        heartbeat: seconds between the server's signs of life on a quiet watch, which is set up anew after three
            missed; at least 0.1.
        inbox_prefix: where answers are received; the credentials must permit to subscribe below it.
        retry_writes: writes carry a message id, and one whose answer was lost is sent again under it within its
            timeout. Without, such a write fails with `outcome_unknown`.
        domain: JetStream domain, None for the default one.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True, validate_default=True
    )

    url: SecretStr = SecretStr(DEFAULT_URL)
    creds: SecretStr | None = None
    creds_file: Path | None = None
    op_timeout: Seconds = 30.0
    name: str | None = None
    tls: ssl.SSLContext | None = None
    tls_hostname: str | None = None
    tls_handshake_first: bool = False
    connect_timeout: Seconds = 2.0
    ping_interval: Seconds = 2.0
    max_pings_out: Annotated[int, Field(ge=1)] = 2
    reconnect_max_wait: Seconds = 2.0
    heartbeat: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = 2.0
    inbox_prefix: Annotated[str, Field(pattern=r"^[-_a-zA-Z0-9$]+(\.[-_a-zA-Z0-9$]+)*$")] = "_INBOX"
    retry_writes: bool = True
    domain: Annotated[str, Field(pattern=r"^[-_a-zA-Z0-9]+$")] | None = None

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        servers = split_servers(url.get_secret_value())
        if not servers:
            raise ValueError("the URL names no server")
        for server in servers:
            parts = urlsplit(server)
            if parts.scheme not in SCHEMES or not parts.hostname:
                raise ValueError(f"a server is {', '.join(f'{scheme}://host' for scheme in SCHEMES)}")
            try:
                _ = parts.port
            except ValueError:
                raise ValueError("the port of a server is a number up to 65535") from None
        if len({urlsplit(server).scheme in ("ws", "wss") for server in servers}) > 1:
            raise ValueError("WebSocket servers and others cannot be mixed")
        return url

    @field_validator("creds")
    @classmethod
    def _check_creds(cls, creds: SecretStr | None) -> SecretStr | None:
        if creds is not None:
            decode_creds(creds.get_secret_value())
        return creds

    @property
    def servers(self) -> list[str]:
        """The URL of each server, with its secrets."""
        return split_servers(self.url.get_secret_value())

    @property
    def safe_url(self) -> str:
        """The URL without its secrets, for logs and errors."""
        return redact_url(self.url.get_secret_value())


def split_servers(url: str) -> list[str]:
    """The servers of a comma-separated list; the scheme of the first holds for those without one."""
    parts = [part.strip() for part in url.split(",") if part.strip()]
    scheme = parts[0].partition("://")[0] if parts and "://" in parts[0] else "nats"
    return [part if "://" in part else f"{scheme}://{part}" for part in parts]


def redact_url(url: str) -> str:
    """A server list without user names, passwords, tokens, queries and fragments."""
    redacted = []
    for server in split_servers(url):
        parts = urlsplit(server)
        host = parts.netloc.rpartition("@")[2]
        redacted.append(urlunsplit((parts.scheme, host, parts.path, "", "")))
    return ",".join(redacted)


def decode_creds(encoded: str) -> str:
    """The text of base64-encoded `.creds` content. Raises: ValueError where it is none."""
    try:
        text = base64.b64decode("".join(encoded.split()), validate=True).decode()
    except (binascii.Error, ValueError):
        raise ValueError("creds is the content of a .creds file, base64-encoded") from None
    if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
        raise ValueError("creds holds no user JWT and seed: encode the whole .creds file")
    return text


def auth_options(config: NatsConnectionConfig) -> dict[str, Any]:
    """nats-py's options for the first credentials that are there; nats-py itself reads those in the URL."""
    if config.creds is not None:
        from nats.aio.client import RawCredentials

        return {"user_credentials": RawCredentials(decode_creds(config.creds.get_secret_value()))}
    if config.creds_file is not None:
        return {"user_credentials": str(config.creds_file)}
    return {}
