"""One key: get, put, create, update, delete, purge."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from slipstream.cli.connecting import open_store
from slipstream.cli.exits import Exit, FalseError, UsageError
from slipstream.cli.given import given_value
from slipstream.cli.options import DEFAULTS, Options, Seconds, StoreName
from slipstream.cli.render import entry_record, shown, update_record
from slipstream.model import Operation, VersionToken

Key = Annotated[str, Parameter(help="Tokens of letters, digits and - / _ =, joined by dots.")]
Value = Annotated[str, Parameter(help="The text itself, - for stdin, @FILE for a file.", allow_leading_hyphen=True)]
Ttl = Annotated[Seconds | None, Parameter(help="Seconds after which the key expires, at least 1.")]
Version = Annotated[int, Parameter(help="The revision that the key must be at.")]


async def get(
    store: StoreName,
    key: Key,
    /,
    *,
    revision: Annotated[int | None, Parameter(help="This write of the key instead of the last.")] = None,
    raw: Annotated[bool, Parameter(help="The bytes as they are: no hex, no newline.", show_default=False)] = False,
    options: Options = DEFAULTS,
) -> int:
    """Print the value of a key; exit code 1 if it has none."""
    out = options.output()
    if raw and options.json:
        raise UsageError("--raw and --json: choose one")
    async with open_store(options, store) as opened:
        if revision is None:
            entry = await opened.get(key)
            record = None if entry is None else entry_record(entry)
            value = b"" if entry is None else entry.value
        else:
            update = await opened.revision(key, _token(revision))
            put = update is not None and update.operation is Operation.PUT
            record = update_record(update) if update is not None and put else None
            value = update.value if update is not None else b""
    if record is None:
        what = "" if revision is None else f" at revision {revision} (or it is not held any more)"
        raise FalseError(f"store {store!r}, key {key!r}: no value{what}")
    if raw:
        out.raw(value)
    else:
        out.record(record, shown(value))
    return Exit.OK


async def put(store: StoreName, key: Key, value: Value, /, *, ttl: Ttl = None, options: Options = DEFAULTS) -> int:
    """Write a key, whatever it holds; the store is made if there is none. Prints the revision."""
    data = given_value(value)
    async with open_store(options, store, make=True) as opened:
        return _written(options, key, await opened.put(key, data, ttl=ttl))


async def create(store: StoreName, key: Key, value: Value, /, *, ttl: Ttl = None, options: Options = DEFAULTS) -> int:
    """Write a key only if it is absent; exit code 3 if it is not. The store is made if there is none."""
    data = given_value(value)
    async with open_store(options, store, make=True) as opened:
        return _written(options, key, await opened.create(key, data, ttl=ttl))


async def update(
    store: StoreName,
    key: Key,
    value: Value,
    /,
    *,
    version: Version,
    ttl: Ttl = None,
    options: Options = DEFAULTS,
) -> int:
    """Write a key only if it is at this version; exit code 3 if it is not."""
    data = given_value(value)
    async with open_store(options, store) as opened:
        return _written(options, key, await opened.update(key, data, _token(version), ttl=ttl))


async def delete(store: StoreName, key: Key, /, *, version: Version | None = None, options: Options = DEFAULTS) -> int:
    """Delete a key, whether or not it is there; with --version, only if it is at that version."""
    async with open_store(options, store) as opened:
        if version is None:
            await opened.delete(key)
        else:
            await opened.delete_with_version(key, _token(version))
    options.output().record({"key": key, "deleted": True}, f"deleted {key}")
    return Exit.OK


async def purge(store: StoreName, key: Key, /, *, version: Version | None = None, options: Options = DEFAULTS) -> int:
    """Delete a key and its history; with --version, only if it is at that version."""
    async with open_store(options, store) as opened:
        await opened.purge(key, expected=None if version is None else _token(version))
    options.output().record({"key": key, "purged": True}, f"purged {key}")
    return Exit.OK


def _token(revision: int) -> VersionToken:
    return VersionToken.from_u64(revision)


def _written(options: Options, key: str, version: VersionToken) -> int:
    options.output().record({"key": key, "revision": version.as_u64()}, str(version))
    return Exit.OK
