"""What is wrong with a server or a store, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Literal

from slipstream.cli.exits import Exit, failure_of
from slipstream.cli.render import plain, seconds, size
from slipstream.errors import (
    AuthenticationError,
    ConnectionFailedError,
    KvError,
    NotConnectedError,
    OperationTimeoutError,
    PermissionDeniedError,
    StoreNotFoundError,
    UnsupportedError,
)
from slipstream.model import ConnectionCapabilities, Drift, StoreStatus

Fault = Literal[
    "server_down",
    "wrong_credentials",
    "no_jetstream",
    "bucket_full",
    "old_server",
    "no_permission",
    "no_answer",
    "no_store",
    "account_full",
    "drift",
    "slow",
    "clock",
    "other",
]
Version = tuple[int, int, int]
OLDEST: Version = (2, 10, 0)
NEWEST_NEEDED: Version = (2, 12, 1)
"""From here on nothing is missing."""
_SLOW_SECONDS = 0.1
_CLOCK_SECONDS = 1.0
_NEARLY = 0.8
_UNREACHED: frozenset[Fault] = frozenset({"server_down", "wrong_credentials"})


class Level(Enum):
    """How bad it is."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        fault: the name of what is wrong, None for green.
        advice: what to do about it.
    """

    name: str
    level: Level
    finding: str
    fault: Fault | None = None
    advice: str = ""


def exit_of(checks: Iterable[Check]) -> Exit:
    """Ok unless something is red."""
    red = [check for check in checks if check.level is Level.RED]
    if not red:
        return Exit.OK
    return Exit.CONNECTION if any(check.fault in _UNREACHED for check in red) else Exit.FALSE


def green(name: str, finding: str) -> Check:
    return Check(name=name, level=Level.GREEN, finding=finding)


_FAULTS: tuple[tuple[type[KvError], Fault, str], ...] = (
    (
        ConnectionFailedError,
        "server_down",
        "start the server (for development: slipstream server), or correct the address and the firewall before it",
    ),
    (
        AuthenticationError,
        "wrong_credentials",
        "pass the right ones: --creds FILE, --context NAME, or user:password@ or token@ in the URL",
    ),
    (
        PermissionDeniedError,
        "no_permission",
        "give this user what it needs: slipstream permissions reader|writer|watcher|admin STORE",
    ),
    (StoreNotFoundError, "no_store", "make it: slipstream stores create NAME; what is there: slipstream stores list"),
    (
        OperationTimeoutError,
        "no_answer",
        "the server is reached, but does not answer: is it overloaded or without a leader?",
    ),
    (NotConnectedError, "server_down", "the connection was lost meanwhile: is the server stable?"),
)


def trouble(name: str, error: KvError) -> Check:
    """What an error says about what was looked at."""
    for kind, fault, advice in _FAULTS:
        if isinstance(error, kind):
            return Check(name=name, level=Level.RED, finding=str(error), fault=fault, advice=advice)
    if isinstance(error, UnsupportedError) and "JetStream" in str(error):
        advice = (
            "give the account a jetstream {} block"
            if "account" in str(error)
            else "start the server with -js, or put jetstream {} into its configuration"
        )
        return Check(name=name, level=Level.RED, finding=str(error), fault="no_jetstream", advice=advice)
    told = failure_of(error)
    return Check(
        name=name, level=Level.RED, finding=str(error), fault="other", advice="" if told is None else told.advice
    )


def server_check(version: Version, capabilities: ConnectionCapabilities) -> Check:
    """Old servers cannot do all; very old ones nothing."""
    text = f"nats-server {_dotted(version)}"
    if version < OLDEST:
        return Check(
            name="server",
            level=Level.RED,
            finding=f"{text} is older than {_dotted(OLDEST)}",
            fault="old_server",
            advice=f"upgrade it to {_dotted(NEWEST_NEEDED)} or newer",
        )
    missing = [
        what
        for what, there in (
            ("ttl (2.11.2)", capabilities.ttl),
            ("fencing (2.11)", capabilities.fencing),
            ("transactions (2.12.1)", capabilities.transactions),
        )
        if not there
    ]
    if missing and version < NEWEST_NEEDED:
        return Check(
            name="server",
            level=Level.YELLOW,
            finding=f"{text} is too old for {', '.join(missing)}",
            fault="old_server",
            advice=f"upgrade it to {_dotted(NEWEST_NEEDED)} or newer; all else works",
        )
    return green("server", text)


def round_trip_check(measured: float) -> Check:
    if measured <= _SLOW_SECONDS:
        return green("round trip", seconds(measured))
    return Check(
        name="round trip",
        level=Level.YELLOW,
        finding=seconds(measured),
        fault="slow",
        advice="every operation takes at least this: use a server nearby, or a mirror or replica here",
    )


def clock_check(offset: timedelta, uncertainty: timedelta) -> Check:
    """By the server's clock keys expire."""
    away = abs(offset.total_seconds())
    finding = f"the server's is {seconds(away)} {'ahead' if offset > timedelta(0) else 'behind'}"
    if away <= _CLOCK_SECONDS + uncertainty.total_seconds():
        return green("clock", finding)
    return Check(
        name="clock",
        level=Level.YELLOW,
        finding=finding,
        fault="clock",
        advice="keys expire by the server's clock: run NTP on both machines",
    )


def room_check(name: str, used: int, limit: int | None, *, unit: Literal["bytes", "stores"]) -> Check:
    """Of the account."""
    shown = size if unit == "bytes" else str
    if limit is None:
        return green(name, f"{shown(used)} used, no limit")
    finding = f"{shown(used)} of {shown(limit)} used"
    if used < _NEARLY * limit:
        return green(name, finding)
    return Check(
        name=name,
        level=Level.RED if used >= limit else Level.YELLOW,
        finding=finding,
        fault="account_full",
        advice="delete what is not needed, or have the account's limit raised",
    )


def fill_check(name: str, status: StoreStatus) -> Check:
    """Whether a store still takes writes."""
    limit = status.config.max_bytes
    finding = f"{status.keys} keys, {size(status.bytes)}"
    if limit is None:
        return green(name, f"{finding}, no limit")
    finding = f"{finding} of {size(limit)}"
    if status.config.discard == "old":
        return green(name, f"{finding}; what is old gives way")
    # Full is it for a record like those that are there; the server counts each with its subject and headers.
    typical = status.bytes / status.keys if status.keys else 0
    if limit - status.bytes < max(typical, 1):
        return Check(
            name=name,
            level=Level.RED,
            finding=f"{finding}: full, writes are refused",
            fault="bucket_full",
            advice="delete keys and `purge` their history, or: slipstream stores ensure NAME --max-bytes N",
        )
    if status.bytes >= _NEARLY * limit:
        return Check(
            name=name,
            level=Level.YELLOW,
            finding=f"{finding}: nearly full",
            fault="bucket_full",
            advice="raise it in time: slipstream stores ensure NAME --max-bytes N",
        )
    return green(name, finding)


def abilities_check(name: str, missing: Mapping[str, str | None], capabilities: ConnectionCapabilities) -> Check:
    """What this store lacks though the server has it: what the server lacks was told of the server."""
    lacking = [why for ability, why in missing.items() if why is not None and getattr(capabilities, ability)]
    if not lacking:
        return green(name, "as able as the server")
    return Check(
        name=name,
        level=Level.YELLOW,
        finding="; ".join(lacking),
        fault="drift",
        advice="slipstream stores ensure NAME changes what can be changed in place",
    )


def drift_check(name: str, differences: Iterable[Drift]) -> Check:
    """How the store differs from a specification."""
    listed = [f"{each.field} is {plain(each.actual)}, not {plain(each.wanted)}" for each in differences]
    if not listed:
        return green(name, "as specified")
    return Check(
        name=name,
        level=Level.YELLOW,
        finding="; ".join(listed),
        fault="drift",
        advice="slipstream stores ensure NAME --spec FILE",
    )


def write_check(name: str, error: KvError | None) -> Check:
    """Whether these credentials may write."""
    if error is None:
        return green(name, "these credentials may write")
    check = trouble(name, error)
    if check.fault != "no_permission":
        return check
    # For who only reads that is as it should be.
    return Check(
        name=name,
        level=Level.YELLOW,
        finding=f"no permission to write: {error}",
        fault="no_permission",
        advice="if this user is to write: slipstream permissions writer STORE",
    )


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
