"""The pages of the documentation, and the fenced blocks in them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {str(file.relative_to(DOCS).with_suffix("")): file.read_text() for file in sorted(DOCS.rglob("*.md"))}
PAGES["README"] = (ROOT / "README.md").read_text()

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        name: its page and its number there.
        language: what stands behind the fence, empty if nothing does.
        output: what a program prints, where the page says it.
    """

    name: str
    page: str
    language: str
    text: str
    output: str | None

    @property
    def is_fragment(self) -> bool:
        """It awaits outside of a function: a piece of a program, which runs with names that it was given."""
        try:
            compile(self.text, self.name, "exec")
        except SyntaxError:
            return True  # one that is wrong in another way fails as a fragment, too
        return False


def blocks_of(page: str, text: str) -> list[Block]:
    """Those of a page, in order. What a program prints belongs to the program."""
    found: list[Block] = []
    for match in _FENCE.finditer(text):
        content = textwrap.dedent(match["text"])
        if match["rest"].strip() == 'title="prints"':
            program = found.pop()
            assert program.language == "python", program.name
            found.append(Block(name=program.name, page=page, language="python", text=program.text, output=content))
            continue
        name = f"{page}-{len(found)}"
        found.append(Block(name=name, page=page, language=match["language"], text=content, output=None))
    return found


BLOCKS = [block for page, text in PAGES.items() for block in blocks_of(page, text)]


def parameters(blocks: Iterable[Block]) -> list[object]:
    return [pytest.param(block, id=block.name) for block in blocks]
