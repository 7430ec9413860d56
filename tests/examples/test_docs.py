"""Every Python program in the guides runs, and every file that they name is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = ["caching", "typed"]  # those whose programs are whole
ALL_GUIDES = sorted(file.stem for file in (ROOT / "docs").glob("*.md"))
PROGRAMS = [
    pytest.param(program, id=f"{guide}-{number}")
    for guide in GUIDES
    for number, program in enumerate(
        re.findall(r"^```python\n(.*?)^```$", (ROOT / f"docs/{guide}.md").read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_a_guide(program: str) -> None:
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("guide", ALL_GUIDES)
def test_the_files_that_a_guide_names(guide: str) -> None:
    text = (ROOT / f"docs/{guide}.md").read_text()
    for file in re.findall(r"\b(?:examples|benchmarks|docs|tests)/[\w/]+\.\w+", text):
        assert (ROOT / file).is_file(), file
