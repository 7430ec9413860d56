"""A copy of a store in a folder of this machine: replica follow, inspect, verify."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from slipstream.cli.commands.diff import difference_line, difference_record
from slipstream.cli.commands.differences import differences
from slipstream.cli.connecting import open_store
from slipstream.cli.exits import Exit, FalseError, UsageError
from slipstream.cli.options import DEFAULTS, Options, Prefix, StoreName
from slipstream.cli.render import entry_record, shown_in_line
from slipstream.cli.running import until_stopped
from slipstream.interfaces import KvStore
from slipstream.model import VersionToken
from slipstream.replica import AppendLogSnapshot, Replica, SnapshotStore, SqliteSnapshot
from slipstream.replica.folder import CONTENTS

Kind = Literal["log", "sqlite", "rocks"]
Folder = Annotated[Path, Parameter(help="The folder of the copy.")]
_REDRAW_SECONDS = 0.1
_NEVER = VersionToken.from_u64(2**64 - 1)
"""A revision that no store reaches: to wait for it is to wait for the end."""
_KINDS: dict[str, str] = {"AppendLogSnapshot": "log", "SqliteSnapshot": "sqlite", "RocksSnapshot": "rocks"}


@until_stopped
async def follow(
    store: StoreName,
    folder: Folder,
    /,
    *,
    prefix: Annotated[
        tuple[str, ...], Parameter(help="Only keys that begin with it; may be repeated.", consume_multiple=False)
    ] = (),
    kind: Annotated[
        Kind | None, Parameter(help="How a new copy is kept: log (in memory and a log), sqlite, rocks.")
    ] = None,
    once: Annotated[bool, Parameter(help="End when the copy is level with the store.", show_default=False)] = False,
    options: Options = DEFAULTS,
) -> int:
    """Keep a copy of a store in a folder until SIGINT or SIGTERM: exit code 0.

    A later run reads only what has changed since. The copy is of the store and the prefixes that it was begun with.
    """
    out = options.output()
    async with (
        open_store(options, store) as opened,
        await _open(folder, kind) as snapshot,
        Replica(opened, prefix or "", snapshot=snapshot) as replica,
    ):
        await _until_ready(options, replica, store)
        out.record(
            {"store": store, "folder": str(folder), "keys": len(replica), "cursor": str(replica.cursor), "ready": True},
            f"{len(replica)} keys of {store} in {folder}, cursor {replica.cursor}",
        )
        if not once:
            out.note("(following; Ctrl-C ends it)")
            await _until_it_fails(replica)
    return Exit.OK


async def inspect(
    folder: Folder,
    /,
    *,
    prefix: Prefix = "",
    values: Annotated[bool, Parameter(help="The keys and their values, too.", show_default=False)] = False,
    options: Options = DEFAULTS,
) -> int:
    """Print what a copy holds and how far it has come. No server is asked; nobody may follow into it meanwhile."""
    out = options.output()
    async with await open_existing(folder) as snapshot:
        if values:
            for entry in snapshot.range(prefix):
                out.record(entry_record(entry), [(entry.key, "bold"), (f"\t{shown_in_line(entry.value)}", "")])
            return Exit.OK
        count = sum(1 for _ in snapshot.range(prefix))
        kind = _KINDS[type(snapshot).__name__]
        record = {"folder": str(folder), "kind": kind, "keys": count, "cursor": str(snapshot.cursor)}
    out.record(record, f"{count} keys, cursor {record['cursor']}, kept as {kind}")
    return Exit.OK


async def verify(store: StoreName, folder: Folder, /, *, prefix: Prefix = "", options: Options = DEFAULTS) -> int:
    """Compare a copy with the store as it was at the copy's cursor; exit code 1 if they differ.

    Nothing is changed. Keys that were written after the cursor are left out: of them the copy cannot know.
    """
    out = options.output()
    async with open_store(options, store) as opened, await open_existing(folder) as snapshot:
        cursor = snapshot.cursor
        status = await opened.status()
        if cursor.incarnation is not None and cursor.incarnation != status.incarnation:
            raise FalseError(f"the store {store!r} was deleted and made again: the copy is of another one")
        there = {entry.key: entry for entry in await opened.scan(prefix)}
        copy = {entry.key: entry for entry in snapshot.range(prefix)}
        limit = cursor.revision or 0
        newer = {key for key, entry in there.items() if (entry.revision or 0) > limit}
        newer |= {key for key in copy if key not in there and await _moved_on(opened, key, limit)}
        found = differences(
            {key: entry.value for key, entry in there.items() if key not in newer},
            {key: entry.value for key, entry in copy.items() if key not in newer},
        )
    for difference in found:
        out.record(difference_record(difference), difference_line(difference))
    verdict = "differs" if found else "is right"
    out.record(
        {"right": not found, "differences": len(found), "compared": len({*there, *copy} - newer), "newer": len(newer)},
        f"the copy {verdict} at {cursor}: {len({*there, *copy} - newer)} keys compared, {len(newer)} written since",
    )
    return Exit.FALSE if found else Exit.OK


async def _until_ready(options: Options, replica: Replica, store: str) -> None:
    ready = asyncio.ensure_future(replica.ready())
    try:
        with options.output().progress(f"follow {store}") as advance:
            while not ready.done():
                await asyncio.wait({ready}, timeout=_REDRAW_SECONDS)
                progress = replica.progress()
                advance(progress.done, progress.expected)
        ready.result()
    finally:
        ready.cancel()


async def _until_it_fails(replica: Replica) -> None:
    """Raises: what following failed with."""
    await replica.wait_for(_NEVER, timeout=None)


async def _moved_on(store: KvStore, key: str, revision: int) -> bool:
    """The key was written after this revision."""
    history = await store.history(key)
    return bool(history) and (history[-1].revision or 0) > revision


async def _open(folder: Path, kind: Kind | None) -> SnapshotStore:
    """The copy in the folder, or a new one. Raises: UsageError where it is of another kind; SnapshotError."""
    there = _kind_in(folder)
    if there is not None and kind is not None and there != kind:
        raise UsageError(f"{folder} holds a copy of the kind {there}, not {kind}: leave --kind out")
    snapshot, _ = await _class(there or kind or "log").open(folder)
    return snapshot


async def open_existing(folder: Path) -> SnapshotStore:
    """Raises: FalseError where there is none."""
    if _kind_in(folder) is None:
        raise FalseError(f"{folder} holds no copy: make one with `slipstream replica follow STORE {folder}`")
    return await _open(folder, None)


def _kind_in(folder: Path) -> str | None:
    return next((_KINDS[name] for content, name in CONTENTS.items() if (folder / content).exists()), None)


def snapshot_class(backend: str) -> type[SnapshotStore] | None:
    """The kind of store that calls itself so, None if there is none here."""
    kind = _KINDS.get(backend)
    return None if kind is None else _class(kind)


def _class(kind: str) -> type[SnapshotStore]:
    match kind:
        case "log":
            return AppendLogSnapshot
        case "sqlite":
            return SqliteSnapshot
        case _:
            from slipstream.replica import RocksSnapshot

            return RocksSnapshot
