"""The gates of PROTOCOL.md: what a server can do, from its API level and its version."""

from __future__ import annotations

import pytest

from slipstream.stores.nats.features import MINIMUM, ServerFeatures


@pytest.mark.parametrize(
    ("version", "api_level", "metadata", "markers", "atomic_batches"),
    [
        ((2, 9, 10), 0, False, False, False),
        ((2, 10, 0), 0, True, False, False),
        ((2, 10, 26), 0, True, False, False),
        ((2, 11, 0), 1, True, False, False),  # the fields exist, but no marker is placed for a ttl
        ((2, 11, 1), 1, True, False, False),
        ((2, 11, 2), 1, True, True, False),
        ((2, 11, 11), 1, True, True, False),
        ((2, 12, 0), 2, True, True, False),  # takes a batch over a concurrent put
        ((2, 12, 1), 2, True, True, True),
        ((2, 12, 8), 3, True, True, True),
        ((2, 14, 0), 4, True, True, True),
        ((2, 15, 1), 5, True, True, True),
        # A server that names no level is taken for one that has none of it, whatever it calls itself.
        ((2, 15, 1), 0, True, False, False),
        ((3, 0, 0), 9, True, True, True),
    ],
)
def test_gates(
    version: tuple[int, int, int], api_level: int, metadata: bool, markers: bool, atomic_batches: bool
) -> None:
    features = ServerFeatures(version=version, api_level=api_level)
    assert (features.metadata, features.markers, features.atomic_batches) == (metadata, markers, atomic_batches)


def test_the_oldest_server_that_is_used() -> None:
    assert (2, 9, 25) < MINIMUM <= (2, 10, 0)
