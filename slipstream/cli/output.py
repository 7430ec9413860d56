"""Text for people, JSON lines for programs. The only module that writes to stdout and stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from slipstream.cli.exits import Failure
from slipstream.cli.render import json_line

if TYPE_CHECKING:
    from rich.console import Console

Styled = tuple[str, str]
"""A piece of a line and its style, as rich names styles."""


class Advance(Protocol):
    """Tells how far it is, and how far it is to go in all where that is known."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


class Output:
    """Where a command's results go. Everything is flushed as it is written: a reader may follow it live."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self._console: Console | None = None

    def record(self, record: Mapping[str, Any], text: str | Iterable[Styled]) -> None:
        """One result: the record as a line of JSON, else the text as a line, coloured on a terminal."""
        if self.json:
            self._write(json_line(dict(record)) + "\n")
        elif isinstance(text, str):
            self._write(text + "\n")
        elif sys.stdout.isatty():
            from rich.text import Text

            self._rich().print(Text.assemble(*text), soft_wrap=True)
        else:
            self._write("".join(piece for piece, _ in text) + "\n")

    def say(self, text: str) -> None:
        """A line for people, among the results; nothing with `--json`."""
        if not self.json:
            self._write(text + "\n")

    def raw(self, value: bytes) -> None:
        """The bytes themselves."""
        sys.stdout.flush()
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()

    def table(self, rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> None:
        """Rows in columns, for people; nothing with `--json`."""
        if self.json or not rows:
            return
        if sys.stdout.isatty():
            from rich.table import Table
            from rich.text import Text

            table = Table(*(head or [""] * len(rows[0])), box=None, pad_edge=False, show_header=bool(head))
            for row in rows:
                table.add_row(*map(Text, row))
            self._rich().print(table)
            return
        lines = [head, *rows] if head else rows
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            self._write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")

    def note(self, text: str) -> None:
        """Beside the results, for a person who looks on; nothing where nobody does."""
        if not self.json and sys.stderr.isatty():
            sys.stderr.write(f"{text}\n")

    def warn(self, text: str) -> None:
        """Beside the results, for whoever runs it."""
        sys.stderr.write((json_line({"warning": text}) if self.json else f"warning: {text}") + "\n")

    @contextmanager
    def progress(self, what: str) -> Iterator[Advance]:
        """A bar on stderr while the block runs, where a person looks on."""
        if self.json or not sys.stderr.isatty():
            yield lambda done, total=None: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total=None: bar.update(task, completed=done, total=total)

    def _rich(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(highlight=False, emoji=False)
        return self._console

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def tell(failure: Failure, *, json: bool) -> None:
    """The error on stderr: for people, or as one JSON object."""
    sys.stderr.write((json_line(failure.record) if json else failure.text) + "\n")


class LogHandler(logging.Handler):
    """What the library warns of, as warnings of the command."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.warn(record.getMessage())
