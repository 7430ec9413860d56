"""From the options to a connection or a store."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slipstream
from slipstream.cli.contexts import NatsContext, context_file, contexts_folder, parse_context
from slipstream.cli.exits import UsageError
from slipstream.cli.options import Options
from slipstream.cli.target import Target, choose_target
from slipstream.errors import StoreNotFoundError, UnsupportedError
from slipstream.interfaces import Connection, KvStore

if TYPE_CHECKING:
    from slipstream.stores.nats.admin import NatsAdmin


def find_target(options: Options, environment: Mapping[str, str] = os.environ) -> Target:
    """The server that is meant. Reads the contexts of the `nats` command. Raises: UsageError."""
    folder = contexts_folder(environment)

    def load(name: str) -> NatsContext:
        file = context_file(folder, name)
        if not file.is_file():
            raise UsageError(f"there is no nats context {name!r} in {file.parent}: see `nats context ls`")
        return parse_context(file.read_text(), name, environment)

    chosen = folder / "context.txt"
    selected = chosen.read_text().strip() if chosen.is_file() else None
    return choose_target(options, environment, selected=selected, load=load)


def make_connection(options: Options, target: Target) -> Connection:
    """A connection that is not opened yet. Raises: ValueError; OSError for a file of TLS that cannot be read."""
    context = target.context
    return slipstream.connect(
        target.url,
        creds_file=options.creds or context.creds,
        nkey_file=context.nkey,
        op_timeout=options.timeout,
        connect_timeout=min(options.timeout, 5.0),
        name="slipstream-cli",
        tls=_tls(context),
        tls_handshake_first=context.tls_first,
        domain=context.domain,
        **_optional(inbox_prefix=context.inbox_prefix),
    )


@asynccontextmanager
async def open_connection(options: Options) -> AsyncIterator[Connection]:
    """The server that is meant, for the block."""
    target = find_target(options)
    if target.is_own:
        options.output().note("(your private server; another one by --url, --context or $SLIPSTREAM_URL)")
    async with make_connection(options, target) as connection:
        yield connection


@asynccontextmanager
async def open_store(options: Options, name: str, *, make: bool = False) -> AsyncIterator[KvStore]:
    """The store of that name, for the block; never made by the way, unless `make`. Raises: StoreNotFoundError."""
    async with open_connection(options) as connection:
        yield await find_store(connection, name, make=make)


async def find_store(connection: Connection, name: str, *, make: bool = False) -> KvStore:
    """The store of that name. Raises: StoreNotFoundError, unless it is to be made."""
    if not make and not await exists(connection, name):
        raise StoreNotFoundError(store=name)
    return await connection.store(name)


async def exists(connection: Connection, name: str) -> bool:
    """There is such a bucket."""
    admin = find_admin(connection)
    return name in await connection.stores() if admin is None else await admin.exists(name)


def find_admin(connection: Connection) -> NatsAdmin | None:
    """What an operator needs, None where the connection goes to no NATS server."""
    # By what they can do: to import the classes would import a NATS client for memory://.
    inner = getattr(connection, "connection", connection)
    make = getattr(inner, "admin", None)
    return None if make is None else make()


def need_admin(connection: Connection) -> NatsAdmin:
    """Raises: UnsupportedError where there is no NATS server."""
    admin = find_admin(connection)
    if admin is None:
        raise UnsupportedError(message="this needs a NATS server: nats:// or embedded://")
    return admin


def _tls(context: NatsContext) -> ssl.SSLContext | None:
    if not (context.ca or context.cert):
        return None
    tls = ssl.create_default_context(cafile=_checked(context.ca))
    if context.cert is not None:
        tls.load_cert_chain(context.cert, context.key)
    return tls


def _checked(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise UsageError(f"the nats context names {path}, which is not there")
    return path


def _optional(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
