"""Every test that docs/guarantees.md names is there, and every line that promises a test leads to one."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guarantees.md").read_text()
PROMISES, _, TESTS = PAGE.partition("## Which test holds what")


def held(table: str) -> dict[str, list[str]]:
    """For each code the tests that it stands for."""
    rows = re.findall(r"^\| ([A-Z]\d+) \| (.*) \|$", table, re.MULTILINE)
    return {code: re.findall(r"`([^`]+)`", cell) for code, cell in rows}


def used(text: str) -> set[str]:
    """The codes in the last cell of a row, or in parentheses."""
    return set(re.findall(r"(?:\| |\()([A-Z]\d+)(?: \|$|\))", text, re.MULTILINE))


def why_missing(test: str) -> str | None:
    """What is wrong with `file::name`, None if it is there."""
    file, _, name = test.partition("::")
    path = next((path for path in (ROOT / "slipstream/testing" / file, ROOT / "tests" / file) if path.is_file()), None)
    if path is None:
        return f"{test}: there is no such file"
    return None if name in _tests_of(path) else f"{test}: {path.relative_to(ROOT)} has no such test"


@functools.cache
def _tests_of(path: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions)}
    return {name for name in names if name.startswith("test_")}


@pytest.mark.parametrize("test", sorted({test for tests in held(TESTS).values() for test in tests}))
def test_a_test_that_the_page_names(test: str) -> None:
    assert why_missing(test) is None


def test_codes_lead_to_tests_and_back() -> None:
    rows = re.findall(r"^\| [A-Z]\d+ ", TESTS, re.MULTILINE)
    assert len(rows) == len(held(TESTS)) > 50
    assert used(PROMISES) == held(TESTS).keys()
    assert all(held(TESTS).values())


@pytest.mark.parametrize(
    ("test", "why"),
    [
        ("contract/writes.py::test_delete_leaves_a_marker", None),
        ("contract/writes.py::test_that_nobody_wrote", "has no such test"),
        ("contract/writes.py::WritesContract", "has no such test"),
        ("contract/nowhere.py::test_delete_leaves_a_marker", "no such file"),
        ("contract/writes.py", "has no such test"),
    ],
)
def test_what_is_missing_is_noticed(test: str, why: str | None) -> None:
    found = why_missing(test)
    assert found is None if why is None else why in (found or "")


def test_a_code_without_a_row_is_noticed() -> None:
    assert used("| promised | X7 |\nas it is (Y1).") == {"X7", "Y1"}
    assert held("| X7 | `a.py::test_b`, `c.py::test_d` |") == {"X7": ["a.py::test_b", "c.py::test_d"]}
