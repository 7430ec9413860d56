"""What is wrong, and what to do about it."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from slipstream.cli.commands.diagnosis import (
    Check,
    Level,
    abilities_check,
    clock_check,
    drift_check,
    exit_of,
    fill_check,
    green,
    room_check,
    round_trip_check,
    server_check,
    trouble,
    write_check,
)
from slipstream.cli.commands.stores import StoreFields
from slipstream.cli.connecting import find_target, make_connection, need_admin
from slipstream.cli.exits import UsageError
from slipstream.cli.options import DEFAULTS, Options
from slipstream.cli.output import Output
from slipstream.cli.target import Target
from slipstream.errors import KvError, PermissionDeniedError
from slipstream.interfaces import Connection
from slipstream.keys import check_bucket, check_prefix

if TYPE_CHECKING:
    from slipstream.stores.nats.admin import NatsAdmin

_PINGS = 5
_PROBE = "slipstream-doctor"
_STYLES = {Level.GREEN: "green", Level.YELLOW: "yellow", Level.RED: "bold red"}


async def doctor(
    *stores: Annotated[str, Parameter(help="The stores to look at; all of them unless named.")],
    spec: Annotated[Path | None, Parameter(help="What the store is to be like: a file as for `stores ensure`.")] = None,
    prefix: Annotated[str, Parameter(help="Where these credentials are to write, to see whether they may.")] = "",
    options: Options = DEFAULTS,
) -> int:
    """Look at the connection, the server, the account and the stores: green, yellow or red, with what to do.

    Exit code 1 if something is red, 4 if the server cannot be reached or entered. Nothing is changed or written.
    """
    out = options.output()
    check_prefix(prefix)
    for name in stores:
        check_bucket(name)
    if spec is not None and len(stores) != 1:
        raise UsageError("--spec is about one store: name it")
    target = find_target(options)
    checks = []
    async for check in _examine(options, target, stores, spec=spec, prefix=prefix):
        _tell(out, check)
        checks.append(check)
    return exit_of(checks)


async def _examine(
    options: Options, target: Target, stores: tuple[str, ...], *, spec: Path | None, prefix: str
) -> AsyncIterator[Check]:
    connection = make_connection(options, target)
    try:
        try:
            await connection.connect()
        except KvError as error:
            yield trouble("connection", error)
            return
        admin = need_admin(connection)
        server = await admin.server()
        yield green("connection", f"{server.address} ({target.source})")
        version = server_check(server.version, connection.capabilities)
        yield version
        if version.level is Level.RED:
            return
        yield await _looked_at("round trip", lambda: _round_trip(admin))
        identity = await _clock(admin)
        if identity is not None:
            yield identity
        try:
            account = await admin.account()
        except KvError as error:
            yield trouble("JetStream", error)
            return
        yield green(
            "JetStream", f"API level {account.api_level}, values up to {connection.capabilities.max_value_size} bytes"
        )
        yield room_check("storage", account.storage_used, account.storage_limit, unit="bytes")
        yield room_check("stores", account.streams, account.streams_limit, unit="stores")
        async for check in _stores(connection, admin, stores, spec=spec, prefix=prefix):
            yield check
    finally:
        await connection.shutdown()


async def _stores(
    connection: Connection, admin: NatsAdmin, names: tuple[str, ...], *, spec: Path | None, prefix: str
) -> AsyncIterator[Check]:
    if not names:
        try:
            names = tuple(await connection.stores())
        except PermissionDeniedError:
            yield green("stores", "these credentials may not list them: name those to look at")
    for name in names:
        label = f"store {name}"
        try:
            # Looked up first: to open a store that is not there makes it.
            abilities = await admin.abilities(name)
            status = await (await connection.store(name)).status()
        except KvError as error:
            yield trouble(label, error)
            continue
        yield fill_check(label, status)
        missing = {"ttl": abilities.ttl, "transactions": abilities.transactions, "fencing": abilities.fencing}
        if status.config.mirror is None:
            yield abilities_check(label, missing, connection.capabilities)
            yield await _may_write(admin, name, label, prefix)
        if spec is not None:
            yield drift_check(label, await admin.drift(StoreFields(spec=spec).config(name)))


async def _may_write(admin: NatsAdmin, name: str, label: str, prefix: str) -> Check:
    try:
        await admin.check_write(name, f"{prefix}{_PROBE}")
    except KvError as error:
        return write_check(label, error)
    return write_check(label, None)


async def _round_trip(admin: NatsAdmin) -> Check:
    return round_trip_check(statistics.median([await admin.round_trip() for _ in range(_PINGS)]))


async def _clock(admin: NatsAdmin) -> Check | None:
    """None where these credentials may not ask for the server's time: no role needs it."""
    try:
        identity = await admin.identity()
    except KvError:
        return None
    if identity.clock_offset is None:
        return None
    return clock_check(identity.clock_offset, identity.uncertainty)


async def _looked_at(name: str, look: Callable[[], Awaitable[Check]]) -> Check:
    try:
        return await look()
    except KvError as error:
        return trouble(name, error)


def _tell(out: Output, check: Check) -> None:
    record: dict[str, object] = {"check": check.name, "level": check.level.value, "finding": check.finding}
    if check.fault is not None:
        record["fault"] = check.fault
    if check.advice:
        record["advice"] = check.advice
    pieces = [(f"{check.level.value:<7}", _STYLES[check.level]), (f"{check.name}: ", "bold"), (check.finding, "")]
    if check.advice:
        pieces.append((f"\n        {check.advice}", "dim"))
    out.record(record, pieces)
