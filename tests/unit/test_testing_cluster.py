"""Whom a cluster follows: decided from what its nodes say."""

from __future__ import annotations

import pytest

from slipstream.testing.cluster import agreed_leader


@pytest.mark.parametrize(
    ("named", "of", "expected"),
    [
        ({"n1": "n2", "n2": "n2", "n3": "n2"}, 3, "n2"),
        ({"n1": "n2", "n2": "n2"}, 3, "n2"),
        ({"n2": "n2"}, 3, None),
        ({"n2": "n2"}, 1, "n2"),
        ({"n1": "n2", "n3": "n2"}, 3, None),
        ({"n1": "n2", "n2": None, "n3": "n2"}, 3, None),
        ({"n1": "n1", "n2": "n2", "n3": "n2"}, 3, "n2"),
        ({"n1": "n1", "n2": None, "n3": None}, 3, None),
        ({}, 3, None),
        ({}, 0, None),
    ],
    ids=[
        "all follow",
        "most follow",
        "alone",
        "alone is enough for one copy",
        "it does not answer",
        "it has stepped down",
        "another one was cut off",
        "nobody follows yet",
        "nobody answers",
        "nobody has heard of it",
    ],
)
def test_the_leader_is_followed_by_most_and_knows_it(
    named: dict[str, str | None], of: int, expected: str | None
) -> None:
    assert agreed_leader({name: {"leader": leader} for name, leader in named.items()}, of=of) == expected
