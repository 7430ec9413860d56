"""What mkdocstrings needs to know of this project's docstrings: an extension of griffe, published nowhere.

Two things are written here that griffe would misread. `Raises:` and `Returns:` are sentences that may go on in
indented lines; it takes those lines for a list of exceptions, and loses what stands before them. And several
parameters may share one explanation (`store, ttl: see Lease`).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

import griffe

_LAYER = re.compile(r"\AL\d[^:\n]*: (.)")
_COLUMNS = re.compile(r"(?:\S.*?[ ]{2,}\S.*\n?){2,}")
_SENTENCE = re.compile(r"^((?:Raises|Returns|Cost)\b[^:\n]*:)[ ](.*(?:\n[ ]+.*)*)", re.MULTILINE)
_SHARED = re.compile(r"^([ ]+)(\w+(?:, \w+)+)(: .*(?:\n\1[ ]+.*)*)", re.MULTILINE)
_CODE = re.compile(r"`(\w+)((?:\.\w+)*)`")
_ERROR = re.compile(r"(?<![\w`.\[])([A-Z]\w+Error)(?![\w`\]])")


class Docstrings(griffe.Extension):
    """Sentences become paragraphs, shared explanations are repeated, public names become links."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        # By where they are imported from: what the pages document them as.
        homes = {name: pkg.members[name] for name in map(str, pkg.exports or ())}
        public = {name: home.target_path for name, home in homes.items() if isinstance(home, griffe.Alias)}
        model = pkg.members["model"]
        assert isinstance(model, griffe.Module)
        # Beside its public names it has what backends make them with.
        model.exports = [name for name in model.members if name in public]
        _rewrite(pkg, public)


def unlayered(text: str) -> str:
    """Without the layer that a module belongs to, which is for those who change it."""
    return _LAYER.sub(lambda found: found[1].upper(), text, count=1)


def drawn(text: str) -> str:
    """Paragraphs that are columns, as the blocks of code that keep them apart."""
    parts = text.split("\n\n")
    return "\n\n".join(textwrap.indent(part, "    ") if _COLUMNS.fullmatch(part) else part for part in parts)


def paragraphs(text: str) -> str:
    """Each sentence that griffe would misread as a paragraph of its own."""

    def paragraph(found: re.Match[str]) -> str:
        sentence = re.sub(r"\n[ ]+", "\n", found[2])
        return f"\n**{found[1]}** {sentence}"

    return _SENTENCE.sub(paragraph, text)


def separate(text: str) -> str:
    """An explanation for each of the parameters that share one."""

    def repeated(found: re.Match[str]) -> str:
        return "\n".join(f"{found[1]}{name}{found[3]}" for name in found[2].split(", "))

    return _SHARED.sub(repeated, text)


def links(text: str, public: Mapping[str, str]) -> str:
    """Public names in backticks, and errors without them, as references to where they are documented."""

    def code(found: re.Match[str]) -> str:
        return f"[{found[0]}][{public[found[1]]}{found[2]}]" if found[1] in public else found[0]

    def error(found: re.Match[str]) -> str:
        return f"[{found[0]}][{public[found[0]]}]" if found[0] in public else found[0]

    return _ERROR.sub(error, _CODE.sub(code, text))


def _rewrite(container: griffe.Object, public: Mapping[str, str]) -> None:
    for member in container.members.values():
        if isinstance(member, griffe.Alias):
            continue
        if member.docstring is not None:
            text = member.docstring.value
            # Those of modules hold trees and tables.
            member.docstring.value = (
                drawn(unlayered(text)) if member.is_module else links(paragraphs(separate(text)), public)
            )
        _rewrite(member, public)
