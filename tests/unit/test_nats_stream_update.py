"""What an update of a stream says, and what it may cost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from slipstream.checks import drift
from slipstream.errors import UnsupportedError
from slipstream.model import Drift, Placement, StoreConfig
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.stream_config import from_stream, to_stream
from slipstream.stores.nats.stream_update import drops_data, is_changeable, updated_stream

OLD = ServerFeatures(version=(2, 10, 26), api_level=0)
NEWEST = ServerFeatures(version=(2, 15, 1), api_level=5)

CHANGES: list[dict[str, Any]] = [
    {"max_history": 5},
    {"max_age": timedelta(seconds=30)},
    {"max_bytes": 1000},
    {"max_value_size": 10},
    {"num_replicas": 3},
    {"discard": "old"},
    {"description": "x"},
    {"compression": True},
    {"marker_ttl": None},
    {"marker_ttl": timedelta(seconds=5)},
    {"placement": Placement(cluster="c")},
    {"metadata": {"team": "payments"}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_change_and_its_way_back_leave_no_drift(change: dict[str, Any]) -> None:
    body = to_stream(StoreConfig(name="b"), NEWEST) | {"sealed": False}
    wanted = StoreConfig(name="b", **change)
    changed = updated_stream(body, wanted, NEWEST)
    assert changed["sealed"] is False
    assert drift(wanted, from_stream(changed)) == []
    (field,) = change
    back = StoreConfig(name="b", **{field: getattr(StoreConfig(name="b"), field)})
    assert drift(back, from_stream(updated_stream(changed, back, NEWEST))) == []


def test_fields_that_nobody_asked_for_stay() -> None:
    body = to_stream(StoreConfig(name="b", max_history=7, metadata={"a": "1"}, max_value_size=9), NEWEST)
    body["metadata"]["_nats.ver"] = "2.15.1"
    changed = updated_stream(body, StoreConfig(name="b", description="x"), NEWEST)
    assert changed == body | {"description": "x"}


def test_metadata_and_the_size_of_values_share_a_field_and_do_not_touch_each_other() -> None:
    body = to_stream(StoreConfig(name="b", metadata={"a": "1"}, max_value_size=9), NEWEST)
    body["metadata"]["_nats.ver"] = "2.15.1"
    other = from_stream(updated_stream(body, StoreConfig(name="b", metadata={"b": "2"}), NEWEST))
    assert (other.metadata, other.max_value_size) == ({"b": "2"}, 9)
    larger = updated_stream(body, StoreConfig(name="b", max_value_size=50), NEWEST)
    assert (from_stream(larger).metadata, from_stream(larger).max_value_size) == ({"a": "1"}, 50)
    assert larger["metadata"]["_nats.ver"] == "2.15.1"


def test_the_window_for_duplicates_never_exceeds_the_age() -> None:
    body = to_stream(StoreConfig(name="b"), NEWEST)
    changed = updated_stream(body, StoreConfig(name="b", max_age=1), NEWEST)
    assert changed["duplicate_window"] == changed["max_age"] == 1_000_000_000


def test_what_the_server_does_not_have_is_refused() -> None:
    body = to_stream(StoreConfig(name="b"), OLD)
    with pytest.raises(UnsupportedError, match="marker_ttl"):
        updated_stream(body, StoreConfig(name="b", marker_ttl=5), OLD)


@pytest.mark.parametrize("field", ["storage", "mirror"])
def test_what_is_for_ever(field: str) -> None:
    assert not is_changeable(Drift(field=field, wanted="x", actual="y"))
    body = to_stream(StoreConfig(name="b"), NEWEST)
    assert updated_stream(body, StoreConfig(name="b", storage="memory"), NEWEST) == body


@pytest.mark.parametrize(
    ("field", "wanted", "actual", "drops"),
    [
        ("max_history", 1, 5, True),
        ("max_history", 5, 1, False),
        ("max_history", 5, -1, True),
        ("max_bytes", 10, None, True),
        ("max_bytes", None, 10, False),
        ("max_bytes", 20, 10, False),
        ("max_age", timedelta(1), timedelta(2), True),
        ("max_age", timedelta(2), timedelta(1), False),
        ("description", "x", None, False),
    ],
)
def test_what_may_drop_data(field: str, wanted: Any, actual: Any, drops: bool) -> None:
    assert drops_data(Drift(field=field, wanted=wanted, actual=actual)) is drops
