"""A value for people, and what differs between two. Pure; bounded, whatever somebody has stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import unified_diff
from enum import Enum

from slipstream.cli.render import as_text, size

SHOWN_BYTES = 64 * 1024
"""Of a value: a terminal shows no more that anybody reads."""
_DIFF_LINES = 2000
"""Of each side: the time that difflib takes grows with their product."""
_ROW = 16


class View(Enum):
    """How a value is shown."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"
    HEX = "hex"

    @property
    def next(self) -> View:
        views = list(View)
        return views[(views.index(self) + 1) % len(views)]


def view_value(value: bytes, view: View = View.AUTO) -> tuple[View, str]:
    """How it is shown in the end, and the text, in which nothing is left that a terminal would obey.

    AUTO is JSON for objects and arrays, else text, else hex. What a value is not it is not shown as: text that is none
    is hex, JSON that is none is text. Of a long value the beginning is shown.
    """
    if view in (View.AUTO, View.JSON):
        pretty = _pretty(value, anything=view is View.JSON)
        if pretty is not None:
            return View.JSON, pretty
    if view is not View.HEX:
        text = _text(value)
        if text is not None:
            return View.TEXT, text
    return View.HEX, "\n".join(_dump(value[: SHOWN_BYTES // 4])) + _rest(value, SHOWN_BYTES // 4)


def value_difference(left: bytes | None, right: bytes | None) -> list[str]:
    """The lines of a unified diff, without heads; empty if nothing differs. JSON is compared as it is shown.

    Args:
        left, right: None where the key is absent, which differs from every value.
    """
    if left == right:
        return []
    before, after = _lines(left), _lines(right)
    if before == after:
        return ["(they differ only where it is not shown: in white space of JSON, or behind what is shown)"]
    return [line.rstrip("\n") for line in unified_diff(before, after, lineterm="", n=3)][2:]


def _lines(value: bytes | None) -> list[str]:
    return [] if value is None else view_value(value)[1].splitlines()[:_DIFF_LINES]


def _pretty(value: bytes, *, anything: bool) -> str | None:
    if len(value) > SHOWN_BYTES:
        return None
    try:
        found = json.loads(value)
        if not anything and not isinstance(found, (dict, list)):
            return None
        pretty = json.dumps(found, indent=2, ensure_ascii=False)
        # What was escaped in the value is not: a control character in a string has to stay escaped.
        return pretty if as_text(pretty.encode()) is not None else json.dumps(found, indent=2)
    except (ValueError, RecursionError):
        return None


def _text(value: bytes) -> str | None:
    beginning = value[:SHOWN_BYTES]
    for cut in range(4):  # the cut may go through a letter
        text = as_text(beginning[: len(beginning) - cut])
        if text is not None:
            return text.replace("\r", "␍").expandtabs(4) + _rest(value, SHOWN_BYTES)
        if len(value) <= SHOWN_BYTES:
            return None
    return None


def _dump(value: bytes) -> Iterator[str]:
    for at in range(0, len(value), _ROW):
        row = value[at : at + _ROW]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{at:08x}  {row.hex(' '):<{3 * _ROW}} {letters}"


def _rest(value: bytes, shown: int) -> str:
    return f"\n… {size(len(value) - shown)} more" if len(value) > shown else ""
