"""When the watchdog's patience is over."""

from __future__ import annotations

import pytest

from slipstream.stores.nats.watchdog import Patience, Phase

LIMITS = {Phase.UP: 4, Phase.REDIALLING: 6, Phase.IDLE: 2}


@pytest.mark.parametrize("phase", list(Phase))
def test_it_ends_after_so_many_looks_without_progress(phase: Phase) -> None:
    patience = Patience(LIMITS)
    assert not patience.is_over(phase, 7)
    looks = [patience.is_over(phase, 7) for _ in range(LIMITS[phase])]
    assert looks == [False] * (LIMITS[phase] - 1) + [True]


@pytest.mark.parametrize("phase", list(Phase))
def test_progress_begins_it_anew(phase: Phase) -> None:
    patience = Patience(LIMITS)
    for progress in range(50):
        for _ in range(LIMITS[phase]):
            assert not patience.is_over(phase, progress)


def test_another_phase_begins_it_anew() -> None:
    patience = Patience(LIMITS)
    for _ in range(20):
        for phase in Phase:
            for _ in range(LIMITS[phase]):
                assert not patience.is_over(phase, 1)
