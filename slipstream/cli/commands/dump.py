"""A store into JSON lines, and back."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Protocol

from cyclopts import Parameter

from slipstream.cli.commands.backlog import backlog
from slipstream.cli.commands.records import DumpedWrite, check_head, head_line, parse_write, write_line
from slipstream.cli.connecting import find_store, open_connection, open_store
from slipstream.cli.exits import ConflictingStateError, Exit, UsageError
from slipstream.cli.options import DEFAULTS, Options, Prefix, StoreName
from slipstream.interfaces import KvStore
from slipstream.model import Operation, WatchCursor

_BATCH = 1000
File = Annotated[str, Parameter(help="Path of the file, - for stdin or stdout.", allow_leading_hyphen=True)]


async def dump(
    store: StoreName,
    file: File = "-",
    /,
    *,
    prefix: Prefix = "",
    history: Annotated[bool, Parameter(help="All that the store holds of each key, deletions too.")] = False,
    options: Options = DEFAULTS,
) -> int:
    """Write the keys of a store as JSON lines, in the order of their revisions.

    A file appears under its name only when it is whole. What others write meanwhile may be in it or not.
    """
    out = options.output()
    count = 0
    async with open_store(options, store) as opened:
        status = await opened.status()
        before_all = WatchCursor(revision=max(status.first_revision - 1, 0), incarnation=status.incarnation)
        with writing(file) as write, out.progress(f"dump {store}") as advance:
            write(head_line(status, prefix=prefix, history=history))
            async with (
                opened.watch(prefix, cursor=before_all if history else None) as watching,
                aclosing(backlog(watching)) as batches,
            ):
                async for batch in batches:
                    for update in batch:
                        if history or update.operation is Operation.PUT:
                            write(write_line(update))
                            count += 1
                    advance(count, count + watching.statistics().pending)
    if file != "-":
        out.record({"store": store, "file": file, "writes": count}, f"{count} writes of {store} in {file}")
    return Exit.OK


async def restore(
    store: StoreName,
    file: File,
    /,
    *,
    overwrite: Annotated[bool, Parameter(help="Also into a store that has keys already.")] = False,
    options: Options = DEFAULTS,
) -> int:
    """Write the keys of a dump into a store, in the order that they had; the store is made if there is none.

    The server gives every write a new revision: their order is kept, not their numbers. Keys whose ttl has ended since
    are left out; the others get what is left of it. It is no transaction: interrupted, do it again with --overwrite.
    """
    out = options.output()
    writes = _read(file)
    now = datetime.now(UTC)
    due = [write for write in writes if write.expires is None or write.expires > now]
    async with open_connection(options) as connection:
        opened = await find_store(connection, store, make=True)
        if not overwrite and await opened.keys():
            raise ConflictingStateError(f"the store {store!r} has keys already: --overwrite writes over them")
        with out.progress(f"restore {store}") as advance:
            await _write_all(opened, due, now, lambda done: advance(done, len(due)))
    left_out = len(writes) - len(due)
    record = {"store": store, "writes": len(due), "expired": left_out}
    out.record(record, f"{len(due)} writes into {store}" + (f", {left_out} have expired" if left_out else ""))
    return Exit.OK


async def _write_all(store: KvStore, writes: list[DumpedWrite], now: datetime, advance: Callable[[int], None]) -> None:
    waiting: dict[str, bytes] = {}

    async def flush() -> None:
        if waiting:
            await store.put_many(waiting)
            waiting.clear()

    for done, write in enumerate(writes, 1):
        # Pipelined writes have an order between keys, but none that outlives a lost connection within one.
        if write.key in waiting or len(waiting) >= _BATCH:
            await flush()
        if write.operation is Operation.PUT and write.expires is None:
            waiting[write.key] = write.value
        else:
            await flush()
            await _write_one(store, write, now)
        advance(done)
    await flush()


async def _write_one(store: KvStore, write: DumpedWrite, now: datetime) -> None:
    if write.operation is Operation.PUT:
        assert write.expires is not None
        await store.put(write.key, write.value, ttl=max((write.expires - now).total_seconds(), 1.0))
    elif write.operation is Operation.DELETE:
        await store.delete(write.key)
    else:
        await store.purge(write.key)


@contextmanager
def writing(file: str) -> Iterator[Callable[[str], None]]:
    """Takes lines; a file appears when the block has come to its end."""
    if file == "-":
        yield lambda line: _line(sys.stdout, line)
        sys.stdout.flush()
        return
    path = Path(file)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as written:
        try:
            yield lambda line: _line(written, line)
            written.flush()
            os.fsync(written.fileno())
            Path(written.name).replace(path)
        except BaseException:
            Path(written.name).unlink(missing_ok=True)
            raise


class _Writes(Protocol):
    def write(self, text: str, /) -> object: ...


def _line(target: _Writes, line: str) -> None:
    target.write(line + "\n")


def _read(file: str) -> list[DumpedWrite]:
    """Every write, before the first of them is carried out. Raises: UsageError, OSError."""
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    lines = text.split("\n")
    if not lines[0]:
        raise UsageError(f"{file} is empty: it is no dump")
    check_head(lines[0])
    return [parse_write(line, number) for number, line in enumerate(lines[1:], 2) if line.strip()]
