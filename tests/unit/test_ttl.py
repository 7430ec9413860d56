"""The pure parts of per-key ttl: durations on the wire, whose clock counts, and which buckets refuse."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.checks import to_ttl
from slipstream.errors import UnsupportedError
from slipstream.model import Operation, StoreConfig, VersionToken
from slipstream.stores.nats import clock as clock_module
from slipstream.stores.nats.abilities import abilities
from slipstream.stores.nats.clock import ServerClock
from slipstream.stores.nats.decode import expiry_of, make_update, parse_ttl
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.stream_config import to_stream

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
OLD = ServerFeatures(version=(2, 10, 26), api_level=0)
NO_MARKERS = ServerFeatures(version=(2, 11, 1), api_level=1)
MARKERS = ServerFeatures(version=(2, 11, 2), api_level=1)
NEWEST = ServerFeatures(version=(2, 15, 1), api_level=5)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("5s", 5),
        ("1m", 60),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("1500ms", 1.5),
        ("2h0m1s", 7201),
        ("never", None),
        ("", None),
        ("-1", None),
        ("5 s", None),
        ("5d", None),
        ("٣", None),
        ("9" * 30, None),
        ("s", None),
    ],
)
def test_a_ttl_header_is_read_as_the_server_reads_it(text: str, seconds: float | None) -> None:
    assert parse_ttl(text) == (None if seconds is None else timedelta(seconds=seconds))


@given(st.text(max_size=20))
def test_any_ttl_header_can_be_read(text: str) -> None:
    assert expiry_of({"Nats-TTL": text}, NOON) is None or parse_ttl(text) is not None


@given(st.floats(1, 9e9) | st.integers(1, 9_000_000_000))
def test_a_ttl_is_rounded_up_to_whole_seconds(ttl: float) -> None:
    seconds = to_ttl(ttl, refusal=None, store="s", key="k")
    assert seconds == math.ceil(ttl)


@given(st.integers(10**6, 9 * 10**15))
def test_a_span_of_time_is_rounded_up_exactly(microseconds: int) -> None:
    seconds = to_ttl(timedelta(microseconds=microseconds), refusal=None, store="s", key="k")
    assert seconds == -(-microseconds // 10**6)


def test_a_ttl_that_is_none_comes_before_a_refusal() -> None:
    with pytest.raises(ValueError, match="at least one second"):
        to_ttl(0.5, refusal="no ttl here", store="s", key="k")
    with pytest.raises(UnsupportedError, match="no ttl here"):
        to_ttl(5, refusal="no ttl here", store="s", key="k")
    assert to_ttl(None, refusal="no ttl here", store="s", key="k") is None


def test_only_a_value_has_an_end() -> None:
    def update(**headers: str) -> Any:
        return make_update(
            key="k",
            headers={"Nats-TTL": "5s", **{name.replace("_", "-"): value for name, value in headers.items()}},
            data=b"" if headers else b"value",
            version=VersionToken.from_u64(1),
            created=NOON,
        )

    assert update().expires == NOON + timedelta(seconds=5)
    marker = update(Nats_Marker_Reason="MaxAge")  # its header tells how long the mark stays
    assert (marker.operation, marker.expired, marker.expires) == (Operation.PURGE, True, None)


class TestServerClock:
    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1000.0]
        monkeypatch.setattr(clock_module, "monotonic", lambda: now[0])
        return now

    def test_nothing_is_known_before_an_answer(self, now: list[float]) -> None:
        clock = ServerClock()
        clock.observe(None, asked=now[0])
        assert not clock.has_passed(NOON)
        assert not clock.lies_ahead(NOON)

    def test_it_counts_on_from_the_answer(self, now: list[float]) -> None:
        clock = ServerClock()
        clock.observe(NOON, asked=1000.0)
        assert clock.has_passed(NOON)
        assert not clock.has_passed(NOON + timedelta(seconds=1))
        now[0] += 1
        assert clock.has_passed(NOON + timedelta(seconds=1))

    def test_what_is_near_is_neither_ahead_nor_passed(self, now: list[float]) -> None:
        clock = ServerClock()
        clock.observe(NOON, asked=998.0)  # the answer took two seconds: it may be two seconds old
        end = NOON + timedelta(seconds=1)
        assert not clock.has_passed(end)
        assert not clock.lies_ahead(end)
        assert clock.lies_ahead(NOON + timedelta(seconds=3))
        now[0] += 10_000  # and the clocks may have parted
        assert not clock.lies_ahead(NOON + timedelta(seconds=10_003))
        assert clock.lies_ahead(NOON + timedelta(seconds=10_100))

    @given(st.floats(0, 1e6), st.floats(0, 10), st.floats(-1e6, 2e6))
    def test_nothing_is_both_ahead_and_passed(self, later: float, took: float, end: float) -> None:
        clock = ServerClock()
        asked = monotonic() - later - took
        clock._seen = NOON, asked + took, asked
        moment = NOON + timedelta(seconds=end)
        assert not (clock.has_passed(moment) and clock.lies_ahead(moment))


@pytest.mark.parametrize(
    ("features", "fields", "named"),
    [
        (OLD, {}, "2.11.2, this is 2.10.26"),
        (NO_MARKERS, {}, "2.11.2"),
        (MARKERS, {}, None),
        (NEWEST, {}, None),
        (NEWEST, {"max_history": 2}, "max_history"),
        (NEWEST, {"marker_ttl": None}, "marker_ttl"),
        (NEWEST, {"mirror": "source"}, "marker_ttl"),
    ],
)
def test_a_bucket_takes_a_ttl_or_says_what_is_missing(
    features: ServerFeatures, fields: dict[str, Any], named: str | None
) -> None:
    refusal = abilities(features, to_stream(StoreConfig(name="b", **fields), features)).ttl
    assert refusal is None if named is None else named in (refusal or "")


def test_a_bucket_with_markers_and_without_ttls_refuses() -> None:
    body = {**to_stream(StoreConfig(name="b"), NEWEST), "allow_msg_ttl": False}
    assert "allow_msg_ttl" in (abilities(NEWEST, body).ttl or "")
