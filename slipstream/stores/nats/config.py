"""How to reach and enter a NATS server. Secrets are `SecretStr` and reach no repr, log or error."""

from __future__ import annotations

import base64
import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import nats.errors
from nats.aio.client import RawCredentials
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

DEFAULT_URL = "nats://127.0.0.1:4222"
SCHEMES = ("nats", "tls", "ws", "wss")
_SECRETS = ("url", "creds", "nkey_seed")
_SEED = re.compile(r"SU[A-Z2-7]{56}")
_CREDS = re.compile(
    r"-BEGIN NATS USER JWT-+\s+(?P<jwt>[-_.=a-zA-Z0-9]+)\s+-+END NATS USER JWT-"
    r".*-BEGIN USER NKEY SEED-+\s+(?P<seed>SU[A-Z2-7]{56})\s+-+END USER NKEY SEED-",
    re.DOTALL,
)

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NatsConnectionConfig(BaseModel):
    """Every option of a NATS connection. Raises: pydantic's ValidationError, a ValueError, without the input in it.

    Credentials, the first that is there: `creds`, `creds_file`, `nkey_seed`, `nkey_file`, `user:password@` or `token@`
    in the URL, none.

    Attributes:
        url: one server or several, separated by commas: `nats://`, `tls://`, `ws://` or `wss://`. The user and password
            of one hold for all, and for the servers that a cluster names. `@ / ? # , %` in them are percent-encoded.
        creds: the content of a `.creds` file, base64-encoded.
        creds_file: the path of a `.creds` file, read again for every attempt to connect.
        nkey_seed: the seed of a user's nkey, `SU` and 56 more characters, for servers that list public nkeys.
        nkey_file: the path of a file that holds nothing but such a seed.
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
        lane: `data` reads and writes close to the wire, `slow` goes through nats-py's public API. WebSockets, borrowed
            clients and versions of nats-py that the data lane was not tested with always take the slow one.
        domain: JetStream domain, None for the default one.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True, validate_default=True
    )

    url: SecretStr = SecretStr(DEFAULT_URL)
    creds: SecretStr | None = None
    creds_file: Path | None = None
    nkey_seed: SecretStr | None = None
    nkey_file: Path | None = None
    op_timeout: Seconds = 30.0
    name: str | None = None
    tls: ssl.SSLContext | None = None
    tls_hostname: str | None = None
    tls_handshake_first: bool = False
    connect_timeout: Seconds = 2.0
    ping_interval: Seconds = 2.0
    max_pings_out: Annotated[int, Field(ge=1)] = 2
    reconnect_max_wait: Seconds = 1.0
    heartbeat: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = 2.0
    inbox_prefix: Annotated[str, Field(pattern=r"^[-_a-zA-Z0-9$]+(\.[-_a-zA-Z0-9$]+)*$")] = "_INBOX"
    retry_writes: bool = True
    lane: Literal["data", "slow"] = "data"
    domain: Annotated[str, Field(pattern=r"^[-_a-zA-Z0-9]+$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _hide_secrets(cls, values: Any) -> Any:
        # Before anything can fail: an error keeps its input, even where its text does not show it.
        if not isinstance(values, dict):
            return values
        return {
            name: SecretStr(value) if name in _SECRETS and isinstance(value, str) else value
            for name, value in values.items()
        }

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        servers = [_parsed(server) for server in split_servers(url.get_secret_value())]
        if not servers:
            raise ValueError("the URL names no server")
        if len({server.scheme in ("ws", "wss") for server in servers}) > 1:
            raise ValueError("WebSocket servers and others cannot be mixed")
        if len(set(filter(None, map(_login, servers)))) > 1:
            raise ValueError("the servers of one URL share one user and password, or one token")
        return url

    @field_validator("creds")
    @classmethod
    def _check_creds(cls, creds: SecretStr | None) -> SecretStr | None:
        if creds is not None:
            decode_creds(creds.get_secret_value())
        return creds

    @field_validator("nkey_seed")
    @classmethod
    def _check_nkey_seed(cls, seed: SecretStr | None) -> SecretStr | None:
        if seed is not None and _SEED.fullmatch(seed.get_secret_value()) is None:
            raise ValueError("nkey_seed is the seed of a user's nkey: SU and 56 more of A-Z and 2-7")
        return seed

    @property
    def servers(self) -> list[str]:
        """The URL of each server, without its secrets."""
        return [_without_login(_parsed(server)).geturl() for server in split_servers(self.url.get_secret_value())]

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
    return ",".join(
        _without_login(urlsplit(server))._replace(query="", fragment="").geturl() for server in split_servers(url)
    )


def decode_creds(encoded: str) -> str:
    """The text of base64-encoded `.creds` content. Raises: ValueError where it is none."""
    try:
        text = base64.b64decode("".join(encoded.split()), validate=True).decode()
    except ValueError:
        raise ValueError("creds is the content of a .creds file, base64-encoded") from None
    return _checked_creds(text)


def auth_options(config: NatsConnectionConfig) -> dict[str, Any]:
    """nats-py's options for the first credentials that are there."""
    if config.creds is not None:
        return {"user_credentials": RawCredentials(decode_creds(config.creds.get_secret_value()))}
    if config.creds_file is not None:
        return {"user_credentials": _CredentialsFile(config.creds_file)}
    if config.nkey_seed is not None:
        return {"nkeys_seed_str": config.nkey_seed.get_secret_value()}
    if config.nkey_file is not None:
        return {"nkeys_seed": str(config.nkey_file)}
    for server in split_servers(config.url.get_secret_value()):
        login = _login(_parsed(server))
        if login is not None:
            user, password = login
            return {"token": user} if password is None else {"user": user, "password": password}
    return {}


class _CredentialsFile(RawCredentials):
    """The content of a file at the moment when it is asked for, so that renewed credentials are taken up.

    nats-py could read the file itself, but never returns from one without a user JWT (2.16.0).
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def data(self) -> str:  # type: ignore[override] # UserString's own is an attribute
        try:
            return _checked_creds(self._path.read_text())
        except ValueError:
            # One of the errors after which nats-py tries again.
            raise nats.errors.InvalidUserCredentialsError from None


def _checked_creds(text: str) -> str:
    """The credentials in a text, laid out as nats-py reads them: line by line, without carriage returns."""
    found = _CREDS.search(text)
    if found is None:
        raise ValueError("creds holds no user JWT and seed: encode the whole .creds file")
    return (
        f"-----BEGIN NATS USER JWT-----\n{found['jwt']}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{found['seed']}\n------END USER NKEY SEED------\n"
    )


def _parsed(server: str) -> SplitResult:
    """The parts of a server's URL. Raises: ValueError, whose text repeats nothing of it."""
    try:
        parts = urlsplit(server)
        # An @ behind the host: what looks like a host and port is the beginning of a login with a / in it.
        misread = "@" in parts.path + parts.query + parts.fragment
        if parts.scheme in SCHEMES and parts.hostname and parts.port != 0 and not misread:
            return parts
    except ValueError:
        pass
    raise ValueError(
        f"a server is {', '.join(f'{scheme}://host:port' for scheme in SCHEMES)}, "
        "with the special characters of a user or password percent-encoded"
    )


def _login(server: SplitResult) -> tuple[str, str | None] | None:
    """User and password, a token and None, or None."""
    if not server.username and not server.password:
        return None
    return unquote(server.username or ""), None if server.password is None else unquote(server.password)


def _without_login(server: SplitResult) -> SplitResult:
    return server._replace(netloc=server.netloc.rpartition("@")[2])
