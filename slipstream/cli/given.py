"""Values as they are given to a command: as an argument, `-` for stdin, `@file`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from slipstream.cli.exits import UsageError


def given_value(text: str) -> bytes:
    """The value that an argument means. `@@text` is the text `@text`. Raises: OSError; UsageError for an empty one."""
    value = _read(text)
    if not value:
        raise UsageError("an empty value reads as absent: delete the key instead")
    return value


def _read(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    if text.startswith("--"):
        # Rather than write what was mistyped.
        raise UsageError(f"{text} looks like an option: a value that begins so is given by - (stdin) or @FILE")
    if text.startswith("@@"):
        return text[1:].encode()
    if text.startswith("@"):
        return Path(text[1:]).read_bytes()
    return text.encode()


def confirmed(question: str, *, yes: bool, ask: Callable[[str], str] = input) -> None:
    """Return if it was agreed to, by `--yes` or at the terminal. Raises: UsageError."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Say so with --yes")
    if ask(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was changed")
