"""The tests in docs/testing.md are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "testing.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.timeout(120)  # one of them waits for an election
@pytest.mark.parametrize(("number", "tests"), [(0, 4), (1, 1)])
def test_the_tests_of_the_guide(pytester: pytest.Pytester, number: int, tests: int) -> None:
    pytester.makepyfile(BLOCKS[number])
    result = pytester.runpytest_subprocess(
        "-p", "slipstream.testing.pytest_plugin", "-o", "asyncio_mode=auto", timeout=110
    )
    result.assert_outcomes(passed=tests)


def test_no_block_is_left_out() -> None:
    assert len(BLOCKS) == 2
