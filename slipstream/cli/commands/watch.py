"""Changes as they happen."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from slipstream.cli.commands.reading import update_line
from slipstream.cli.connecting import open_store
from slipstream.cli.exits import Exit, UsageError
from slipstream.cli.options import DEFAULTS, Options, StoreName
from slipstream.cli.render import update_record
from slipstream.cli.running import until_stopped
from slipstream.interfaces import Watch
from slipstream.model import KvUpdate, WatchCursor


@until_stopped
async def watch(
    store: StoreName,
    /,
    *,
    prefix: Annotated[
        tuple[str, ...], Parameter(help="Only keys that begin with it; may be repeated.", consume_multiple=False)
    ] = (),
    cursor_file: Annotated[
        Path | None, Parameter(help="Go on after the cursor in this file, and keep it there.")
    ] = None,
    count: Annotated[int | None, Parameter(help="End after so many changes.")] = None,
    options: Options = DEFAULTS,
) -> int:
    """Print the current state, then every change, until SIGINT or SIGTERM: exit code 0.

    With --cursor-file, a later run prints only what came after what the runs before it have printed. The file is
    replaced in one step after every batch: a crash may repeat changes, and loses none.
    """
    out = options.output()
    if count is not None and count < 1:
        raise UsageError("--count is at least 1")
    cursor = None if cursor_file is None else load_cursor(cursor_file)
    async with (
        open_store(options, store) as opened,
        opened.watch(prefix or "", cursor=cursor) as watching,
    ):
        out.note(f"(watching {store}; Ctrl-C ends it)")
        async for batch in watching.batches() if count is None else _one_by_one(watching, count):
            for update in batch:
                out.record(update_record(update), update_line(update))
            if cursor_file is not None:
                save_cursor(cursor_file, watching.cursor)  # not before it has been printed
    return Exit.OK


async def _one_by_one(watching: Watch, count: int) -> AsyncIterator[list[KvUpdate]]:
    for _ in range(count):
        yield [await anext(watching)]


def load_cursor(file: Path) -> WatchCursor | None:
    """The cursor in the file, None where there is no file yet. Raises: UsageError for something else."""
    try:
        text = file.read_text().strip()
    except FileNotFoundError:
        return None
    try:
        return WatchCursor.parse(text)
    except ValueError:
        raise UsageError(f"{file} holds no cursor: name another file, or remove it") from None


def save_cursor(file: Path, cursor: WatchCursor) -> None:
    """Replace the cursor in the file: whoever reads it finds the old one or the new one, after a crash, too."""
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.", delete=False) as written:
        try:
            written.write(f"{cursor}\n")
            written.flush()
            os.fsync(written.fileno())
            Path(written.name).replace(file)
        except BaseException:
            Path(written.name).unlink(missing_ok=True)
            raise
