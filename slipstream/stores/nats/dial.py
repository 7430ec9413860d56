"""Opening a nats-py client that is set up for a store rather than for messages."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import ParseResult

import nats.errors
import nkeys  # type: ignore[import-untyped]
from nats.aio.client import Client, Server

from slipstream.errors import AuthenticationError, ConnectionFailedError, KvError, UnsupportedError
from slipstream.stores.nats.cleanup import uninterrupted
from slipstream.stores.nats.client import StoreClient, hang_up
from slipstream.stores.nats.config import NatsConnectionConfig, auth_options
from slipstream.stores.nats.failover import FIRST_WAIT, Failover

_log = logging.getLogger(__name__)
_PATIENCE = 0.5
"""Seconds that the other end has to take what is left when a client is closed."""

_DAMAGED_SEED = (nkeys.NkeysError, ValueError)

Event = Callable[[], Awaitable[None]]


async def nats_connect(url: str | None = None, **options: Any) -> Client:
    """A connected nats-py client with slipstream's settings; the caller closes it.

    Pings every 2 s and two may be missing, nothing is buffered while disconnected, reconnects for ever with back-off.

    Args:
        url, options: the fields of `NatsConnectionConfig`.
    Raises: ConnectionFailedError, AuthenticationError, pydantic's ValidationError (a ValueError).
    """
    if url is not None:
        options["url"] = url
    return await dial(NatsConnectionConfig(**options))


async def dial(
    config: NatsConnectionConfig,
    *,
    client: StoreClient | None = None,
    failover: Failover | None = None,
    on_attempt: Callable[[str], None] | None = None,
    on_reconnected: Event | None = None,
    on_lame_duck: Event | None = None,
    on_closed: Event | None = None,
    on_error: Callable[[Exception], None] | None = None,
) -> StoreClient:
    """Try every server once, within `op_timeout`. Cancelled or failed, it leaves nothing behind.

    Args:
        failover: what is known of the servers; None is nothing.
        on_attempt: called with the URL of a server whenever one is tried.
    """
    client = StoreClient() if client is None else client
    servers_known = Failover(config.reconnect_max_wait) if failover is None else failover
    servers = config.servers
    failures: list[Exception] = []
    hopeless: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    connected = False

    async def note_error(error: Exception) -> None:
        if connected:
            _log.debug("%s: %s", config.safe_url, error)
            if on_error is not None:
                on_error(error)
            return
        if error is not client.last_error:
            return  # from the clean-up after a failed attempt, which was counted already
        failures.append(error)
        # nats-py would go round its servers for ever; whoever connects for the first time wants to know.
        if len(failures) >= len(servers) and not hopeless.done():
            hopeless.set_result(None)

    def attempting(server: ParseResult) -> None:
        servers_known.attempt(server.netloc, time.monotonic())
        if on_attempt is not None:
            on_attempt(server.geturl())

    async def reconnected() -> None:
        servers_known.connected(time.monotonic())
        if on_reconnected is not None:
            await on_reconnected()

    if any(server.startswith(("ws://", "wss://")) for server in servers):
        _require_websockets()
    options = {
        "servers": servers,
        "name": config.name,
        "error_cb": note_error,
        "reconnected_cb": reconnected,
        "lame_duck_mode_cb": on_lame_duck,
        "closed_cb": on_closed,
        "connect_timeout": config.connect_timeout,
        "ping_interval": config.ping_interval,
        "max_outstanding_pings": config.max_pings_out,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": FIRST_WAIT,
        "reconnect_to_server_handler": _next_server(servers_known),
        # Nothing is kept for later: a write that waited out a disconnect could overwrite a newer one.
        "pending_size": 0,
        # Unbounded: with a bound, nats-py swallows the cancellation of whoever waits for room (2.16.0).
        "flusher_queue_size": 0,
        "inbox_prefix": config.inbox_prefix,
        "tls_handshake_first": config.tls_handshake_first,
        **auth_options(config),
    }
    if config.tls is not None:
        options["tls"] = config.tls
    if config.tls_hostname is not None:
        options["tls_hostname"] = config.tls_hostname

    client.on_attempt = attempting
    attempt = asyncio.create_task(client.connect(**options), name="slipstream-dial")
    try:
        await asyncio.wait({attempt, hopeless}, timeout=config.op_timeout, return_when=asyncio.FIRST_COMPLETED)
        if attempt.done():
            error = attempt.exception()
            # nats-py takes the end of the connection for the answer that it waits for last.
            connected = error is None and client.is_connected
            if connected:
                servers_known.connected(time.monotonic())
                return client
            failures.append(error if isinstance(error, Exception) else ConnectionResetError("the server hung up"))
        raise _failure(config, failures, wants_certificate=client.wants_certificate)
    finally:
        hopeless.cancel()
        if not connected:
            await uninterrupted(_abandon(client, attempt))


async def _abandon(client: StoreClient, attempt: asyncio.Task[None]) -> None:
    while not attempt.done():
        attempt.cancel()  # again and again: nats-py may swallow it and go on to the next server
        await asyncio.wait({attempt}, timeout=_PATIENCE)
    await hang_up(client)


def _next_server(failover: Failover) -> Callable[[list[Server], dict[str, Any]], tuple[Server, float]]:
    def choose(servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
        by_address = {server.uri.netloc: server for server in servers}
        address, wait = failover.choose(list(by_address), time.monotonic())
        return by_address[address], wait

    return choose


def _refused(error: Exception) -> bool:
    return isinstance(error, nats.errors.AuthorizationError) or "authorization violation" in str(error).lower()


def _hung_up(error: Exception) -> bool:
    """The other end went away; or, in TLS, refused us: its alert may be lost with the connection."""
    return isinstance(error, (ConnectionError, ssl.SSLError, nats.errors.UnexpectedEOF)) and not isinstance(
        error, ssl.SSLCertVerificationError
    )


def _failure(config: NatsConnectionConfig, failures: list[Exception], *, wants_certificate: bool) -> KvError:
    for error in failures:
        if _refused(error):
            return AuthenticationError(
                message=f"{config.safe_url} refused the credentials: check creds, creds_file, nkey_seed, nkey_file or "
                "what the URL holds"
            )
        if (unusable := _unusable_secret(config, error)) is not None:
            return AuthenticationError(message=unusable)
    if wants_certificate and failures and _hung_up(failures[-1]):
        return AuthenticationError(
            message=f"{config.safe_url} asks for a client certificate that it trusts: load one into the context in tls="
        )
    if failures and not isinstance(failures[-1], TimeoutError):
        why = str(failures[-1]) or type(failures[-1]).__name__
    else:
        why = f"no answer within {min(config.connect_timeout, config.op_timeout):g} s"
        if (config.tls is not None or "tls://" in config.safe_url) and not config.tls_handshake_first:
            why += "; a server that expects TLS before it says anything needs tls_handshake_first=True"
    return ConnectionFailedError(message=f"no connection to {config.safe_url}: {why}")


def _unusable_secret(config: NatsConnectionConfig, error: Exception) -> str | None:
    """What is wrong with the credentials themselves, if that is what the error is about."""
    if config.creds is not None:
        return None  # looked into with the configuration
    if config.creds_file is not None:
        option, path = "creds_file", config.creds_file
        if isinstance(error, nats.errors.InvalidUserCredentialsError):
            return f"creds_file {str(path)!r} holds no user JWT and seed"
    elif config.nkey_seed is not None:
        return "nkey_seed is damaged" if isinstance(error, _DAMAGED_SEED) else None
    elif config.nkey_file is not None:
        option, path = "nkey_file", config.nkey_file
        if isinstance(error, _DAMAGED_SEED):
            return f"nkey_file {str(path)!r} holds no seed of a user's nkey"
    else:
        return None
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)):
        return f"{option} {str(path)!r} cannot be read: {error.strerror}"
    return None


def _require_websockets() -> None:
    if importlib.util.find_spec("aiohttp") is None:
        raise UnsupportedError(message="ws:// and wss:// need: pip install 'slipstream-kv[ws]'")
