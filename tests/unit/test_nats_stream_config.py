"""StoreConfig to a stream and back, for every kind of server: what is sent, what comes back, what counts as drift."""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.api import StreamConfig

from slipstream.checks import drift
from slipstream.errors import UnsupportedError
from slipstream.model import Drift, Placement, StoreConfig
from slipstream.resume import Retention
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.stream_config import (
    HEADER_ROOM,
    VALUE_SIZE,
    from_stream,
    retention,
    to_stream,
    with_byte_limit,
)

OLD = ServerFeatures(version=(2, 10, 26), api_level=0)
NO_MARKERS = ServerFeatures(version=(2, 11, 1), api_level=1)
MARKERS = ServerFeatures(version=(2, 11, 11), api_level=1)
BROKEN_BATCHES = ServerFeatures(version=(2, 12, 0), api_level=2)
BATCHES = ServerFeatures(version=(2, 12, 8), api_level=3)
NEWEST = ServerFeatures(version=(2, 15, 1), api_level=5)
ALL = [OLD, NO_MARKERS, MARKERS, BROKEN_BATCHES, BATCHES, NEWEST]

BASE_FIELDS = {
    "name",
    "subjects",
    "retention",
    "max_consumers",
    "max_msgs",
    "max_bytes",
    "max_age",
    "max_msgs_per_subject",
    "max_msg_size",
    "storage",
    "discard",
    "num_replicas",
    "duplicate_window",
    "deny_delete",
    "allow_rollup_hdrs",
    "allow_direct",
}
OPTIONAL_FIELDS = {"description", "placement", "compression", "metadata", "mirror", "mirror_direct"}
MARKER_FIELDS = {"allow_msg_ttl", "subject_delete_marker_ttl"}
BATCH_FIELDS = {"allow_atomic"}

names = st.from_regex(r"[-_a-zA-Z0-9]{1,10}", fullmatch=True)
texts = st.text(max_size=10)
labels = texts.filter(lambda name: not name.startswith("_nats."))  # those are the server's
nonempty = st.text(min_size=1, max_size=10)
microseconds = st.integers(100_000, 10**15).map(lambda count: timedelta(microseconds=count))


@st.composite
def configs(draw: st.DrawFn, *, markers: bool = True) -> StoreConfig:
    fields: dict[str, st.SearchStrategy[Any]] = {
        "storage": st.sampled_from(["persistent", "memory"]),
        "max_history": st.integers(1, 64),
        "max_age": st.none() | microseconds,
        "max_bytes": st.none() | st.integers(1, 2**60),
        "max_value_size": st.none() | st.integers(1, 2**30),
        "num_replicas": st.integers(1, 5),
        "discard": st.sampled_from(["new", "old"]),
        "description": st.none() | texts,
        "compression": st.booleans(),
        "placement": st.none() | st.builds(Placement, cluster=st.none() | nonempty, tags=st.lists(nonempty).map(tuple)),
        "metadata": st.dictionaries(labels, texts, max_size=3),
    }
    if markers:
        fields["marker_ttl"] = st.none() | st.integers(10**6, 10**15).map(lambda count: timedelta(microseconds=count))
    chosen = draw(st.lists(st.sampled_from(sorted(fields)), unique=True))
    return StoreConfig(name=draw(names), **{field: draw(fields[field]) for field in chosen})


def echoed(body: dict[str, Any]) -> dict[str, Any]:
    """As the server gives it back: through JSON, with metadata of its own."""
    echo: dict[str, Any] = json.loads(json.dumps(body))
    echo["metadata"] = {**echo.get("metadata", {}), "_nats.ver": "2.15.1", "_nats.level": "5", "_nats.req.level": "0"}
    return echo


class TestWhatIsSent:
    def test_the_defaults(self) -> None:
        assert to_stream(StoreConfig(name="b"), NEWEST) == {
            "name": "KV_b",
            "subjects": ["$KV.b.>"],
            "retention": "limits",
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msgs_per_subject": 1,
            "max_msg_size": -1,
            "storage": "file",
            "discard": "new",
            "num_replicas": 1,
            "duplicate_window": 120_000_000_000,
            "deny_delete": True,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "allow_msg_ttl": True,
            "subject_delete_marker_ttl": 3_600_000_000_000,
            "allow_atomic": True,
        }

    @pytest.mark.parametrize(
        ("features", "extra"),
        [
            (OLD, set()),
            (NO_MARKERS, set()),
            (MARKERS, MARKER_FIELDS),
            (BROKEN_BATCHES, MARKER_FIELDS),
            (BATCHES, MARKER_FIELDS | BATCH_FIELDS),
            (NEWEST, MARKER_FIELDS | BATCH_FIELDS),
        ],
    )
    def test_nothing_that_the_server_does_not_know(self, features: ServerFeatures, extra: set[str]) -> None:
        assert to_stream(StoreConfig(name="b"), features).keys() == BASE_FIELDS | extra

    @given(config=configs(markers=False), features=st.sampled_from(ALL))
    def test_nothing_that_no_option_asks_for(self, config: StoreConfig, features: ServerFeatures) -> None:
        body = to_stream(config, features)
        assert body.keys() <= BASE_FIELDS | OPTIONAL_FIELDS | MARKER_FIELDS | BATCH_FIELDS
        assert json.loads(json.dumps(body)) == body
        assert ("subject_delete_marker_ttl" in body) == features.markers
        assert ("allow_atomic" in body) == features.atomic_batches

    @pytest.mark.parametrize(
        ("max_age", "window"),
        [
            (None, 120_000_000_000),
            (timedelta(hours=1), 120_000_000_000),
            (timedelta(seconds=120), 120_000_000_000),
            (timedelta(seconds=5), 5_000_000_000),
            (timedelta(milliseconds=100), 100_000_000),
        ],
    )
    def test_the_duplicate_window_is_never_longer_than_the_age(self, max_age: timedelta | None, window: int) -> None:
        assert to_stream(StoreConfig(name="b", max_age=max_age), NEWEST)["duplicate_window"] == window

    def test_the_limit_of_a_value_leaves_room_for_headers(self) -> None:
        body = to_stream(StoreConfig(name="b", max_value_size=1000), NEWEST)
        assert body["max_msg_size"] == 1000 + HEADER_ROOM
        assert body["metadata"] == {VALUE_SIZE: "1000"}

    def test_a_mirror_has_no_subjects_and_no_markers(self) -> None:
        body = to_stream(StoreConfig(name="b", mirror="source"), NEWEST)
        assert body["mirror"] == {"name": "KV_source"}
        assert body["mirror_direct"] is True
        assert not body.keys() & ({"subjects"} | MARKER_FIELDS | BATCH_FIELDS)

    def test_markers_can_be_left_out(self) -> None:
        assert not to_stream(StoreConfig(name="b", marker_ttl=None), NEWEST).keys() & MARKER_FIELDS

    @pytest.mark.parametrize("features", [OLD, NO_MARKERS])
    def test_markers_that_were_asked_for_are_refused_where_there_are_none(self, features: ServerFeatures) -> None:
        with pytest.raises(UnsupportedError, match=r"marker_ttl needs nats-server 2\.11\.2"):
            to_stream(StoreConfig(name="b", marker_ttl=timedelta(minutes=1)), features)
        to_stream(StoreConfig(name="b", marker_ttl=None), features)

    def test_a_mirror_with_markers_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match="a mirror cannot have marker_ttl"):
            to_stream(StoreConfig(name="b", mirror="source", marker_ttl=timedelta(minutes=1)), NEWEST)

    @pytest.mark.parametrize("options", [{"compression": True}, {"metadata": {"a": "b"}}])
    def test_what_2_9_lacks_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(UnsupportedError, match=r"2\.10"):
            to_stream(StoreConfig(name="b", **options), ServerFeatures(version=(2, 9, 25), api_level=0))

    def test_the_limit_for_accounts_that_demand_one(self) -> None:
        body = to_stream(StoreConfig(name="b"), NEWEST)
        assert with_byte_limit(body) == {**body, "max_bytes": 10 * 1024 * 1024}
        assert body["max_bytes"] == -1


class TestRoundTrip:
    @given(config=configs(), features=st.sampled_from([MARKERS, BATCHES, NEWEST]))
    def test_what_was_asked_for_comes_back(self, config: StoreConfig, features: ServerFeatures) -> None:
        actual = from_stream(echoed(to_stream(config, features)))
        assert drift(config, actual) == []
        assert actual.metadata == config.metadata

    @given(config=configs(markers=False), features=st.sampled_from([OLD, NO_MARKERS]))
    def test_also_from_servers_without_markers(self, config: StoreConfig, features: ServerFeatures) -> None:
        actual = from_stream(echoed(to_stream(config, features)))
        assert drift(config, actual) == []
        assert actual.marker_ttl is None

    @given(config=configs(), features=st.sampled_from([MARKERS, BATCHES, NEWEST]))
    def test_also_when_nats_py_makes_it(self, config: StoreConfig, features: ServerFeatures) -> None:
        # It computes durations as float seconds and knows its own set of fields.
        body = to_stream(config, features)
        through = StreamConfig.from_response(copy.deepcopy(body)).as_dict()
        assert {field for field, value in body.items() if value and not through.get(field)} == set()
        assert {field for field, value in through.items() if value and field not in body} == set()
        assert drift(config, from_stream(echoed(through))) == []

    def test_a_mirror(self) -> None:
        config = StoreConfig(name="b", mirror="source", max_history=3)
        assert drift(config, from_stream(echoed(to_stream(config, NEWEST)))) == []

    def test_a_bucket_that_somebody_else_made(self) -> None:
        # Values that StoreConfig itself refuses: history above 64, and no limits in the answer at all.
        actual = from_stream({"name": "KV_b", "max_msgs_per_subject": 100, "discard": "old", "storage": "file"})
        assert (actual.name, actual.max_history, actual.discard) == ("b", 100, "old")
        assert (actual.max_age, actual.max_bytes, actual.max_value_size, actual.marker_ttl) == (None, None, None, None)
        assert (actual.num_replicas, actual.description, actual.compression, actual.mirror) == (1, None, False, None)
        assert (actual.placement, actual.metadata) == (None, {})

    def test_a_value_limit_of_another_client_is_the_message_limit(self) -> None:
        assert from_stream({"name": "KV_b", "max_msg_size": 1000}).max_value_size == 1000
        assert from_stream({"name": "KV_b", "max_msg_size": 1000, "metadata": {VALUE_SIZE: "²"}}).max_value_size == 1000
        assert from_stream({"name": "KV_b", "max_msg_size": 1000, "metadata": {VALUE_SIZE: "5"}}).max_value_size == 5

    def test_a_mirror_of_a_stream_that_is_no_bucket(self) -> None:
        assert from_stream({"name": "KV_b", "mirror": {"name": "ORDERS"}}).mirror == "ORDERS"


class TestDrift:
    actual = from_stream(echoed(to_stream(StoreConfig(name="b", max_history=5, max_bytes=1000), NEWEST)))

    def test_only_what_was_asked_for_counts(self) -> None:
        assert drift(StoreConfig(name="b"), self.actual) == []
        assert drift(StoreConfig(name="b", max_history=5), self.actual) == []

    def test_every_difference_is_listed(self) -> None:
        wanted = StoreConfig(name="b", max_history=1, max_bytes=None, compression=True)
        assert drift(wanted, self.actual) == [
            Drift(field="max_history", wanted=1, actual=5),
            Drift(field="max_bytes", wanted=None, actual=1000),
            Drift(field="compression", wanted=True, actual=False),
        ]


class TestRetention:
    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            (StoreConfig(name="b"), Retention(evicts=False, marker_seconds=3600)),
            (StoreConfig(name="b", marker_ttl=None), Retention(evicts=False, marker_seconds=None)),
            (StoreConfig(name="b", max_bytes=1000), Retention(evicts=False, marker_seconds=3600)),
            (StoreConfig(name="b", discard="old"), Retention(evicts=False, marker_seconds=3600)),
            (StoreConfig(name="b", discard="old", max_bytes=1000), Retention(evicts=True, marker_seconds=3600)),
            (StoreConfig(name="b", max_age=timedelta(seconds=5)), Retention(evicts=False, marker_seconds=3600)),
            (
                StoreConfig(name="b", max_age=timedelta(seconds=5), marker_ttl=None),
                Retention(evicts=True, marker_seconds=None),
            ),
            (
                StoreConfig(name="b", mirror="source", max_age=timedelta(seconds=5)),
                Retention(evicts=True, marker_seconds=None),
            ),
        ],
    )
    def test_of_our_own_buckets(self, config: StoreConfig, expected: Retention) -> None:
        assert retention(echoed(to_stream(config, NEWEST))) == expected

    @pytest.mark.parametrize(
        ("body", "evicts"),
        [
            ({}, False),  # no discard means old, but nothing limits it
            ({"max_msgs": 10}, True),
            ({"max_msgs": 10, "discard": "new"}, False),
            ({"max_bytes": 10, "discard": "old"}, True),
            ({"max_msgs": -1, "max_bytes": -1, "discard": "old"}, False),
            ({"max_age": 1_000_000_000, "discard": "new"}, True),
        ],
    )
    def test_of_buckets_that_somebody_else_made(self, body: dict[str, Any], evicts: bool) -> None:
        assert retention(body).evicts is evicts
