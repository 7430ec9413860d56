"""Whom to believe, and when to go elsewhere: the pure part of it."""

from __future__ import annotations

from math import inf

import pytest

from slipstream.stores.nats.api import silence
from slipstream.stores.nats.quorum import is_cut_off

SECOND = 1_000_000_000


def cluster(*active: int | None, leader: str = "n1") -> dict[str, object]:
    return {"leader": leader, "replicas": [{"name": f"n{at}", "active": each} for at, each in enumerate(active, 2)]}


class TestSilence:
    def test_a_single_copy_has_nobody_to_hear_from(self) -> None:
        assert silence({}, copies=1) is None

    @pytest.mark.parametrize(
        ("copies", "active", "expected"),
        [
            (3, (SECOND, 20 * SECOND), 1.0),  # the leader and one other are two of three
            (3, (20 * SECOND, 15 * SECOND), 15.0),
            (2, (3 * SECOND,), 3.0),
            (5, (SECOND, 2 * SECOND, 9 * SECOND, 9 * SECOND), 2.0),
            (5, (SECOND, 7 * SECOND, 9 * SECOND, 9 * SECOND), 7.0),
        ],
    )
    def test_it_is_of_the_last_one_needed_for_a_majority(
        self, copies: int, active: tuple[int, ...], expected: float
    ) -> None:
        assert silence(cluster(*active), copies=copies) == expected

    @pytest.mark.parametrize("active", [(0, 0), (None, None), (), (0, None)])
    def test_who_was_never_heard_of_does_not_count(self, active: tuple[int | None, ...]) -> None:
        assert silence(cluster(*active), copies=3) == inf

    def test_without_a_leader_nobody_vouches(self) -> None:
        assert silence(cluster(SECOND, SECOND, leader=""), copies=3) == inf


class TestCutOff:
    @pytest.mark.parametrize(
        ("heard", "answered", "patience", "expected"),
        [
            (3.0, True, 1.0, False),  # as old as it gets while idle
            (5.0, True, 1.0, True),
            (9.0, False, 1.0, False),  # an election takes as long
            (11.0, False, 1.0, True),
            (5.0, True, 2.0, False),  # the server before was no better
            (61.0, False, 64.0, True),
        ],
    )
    def test_an_answer_without_followers_tells_sooner_than_no_answer(
        self, heard: float, answered: bool, patience: float, expected: bool
    ) -> None:
        assert is_cut_off(heard=heard, answered=answered, patience=patience) is expected
