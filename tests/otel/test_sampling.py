"""Objects that are asked when metrics are collected: in their own loop, held weakly, added up."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider

from slipstream.otel import sampling
from slipstream.otel.instruments import instruments
from slipstream.otel.names import Sampled
from slipstream.otel.sampling import Point, Sampler, call_in
from slipstream.testing._waiting import bounded
from tests.otel.recorded import Recorded

COUNT = Sampled(name="count", unit="", description="", kind="counter")
HIGHEST = Sampled(name="highest", unit="", description="", kind="gauge", combine=max)
TOTAL = Sampled(name="total", unit="", description="", kind="gauge")


class Thing:
    """Something that counts, and that can be read in one thread only."""

    def __init__(self, value: float = 0) -> None:
        self.value = value
        self.reads = 0
        self.thread = threading.get_ident()

    def read(self) -> Iterator[Point]:
        self.reads += 1
        if threading.get_ident() != self.thread:
            raise AssertionError("read in another thread")
        yield Point(COUNT, self.value)
        yield Point(HIGHEST, self.value)
        yield Point(TOTAL, self.value)


@pytest.fixture
def sampler(recorded: Recorded) -> Sampler:
    return Sampler(recorded.meters.get_meter("test"), (COUNT, HIGHEST, TOTAL))


async def test_values_of_things_with_the_same_attributes_are_combined(sampler: Sampler, recorded: Recorded) -> None:
    one, two, other = Thing(1), Thing(2), Thing(10)
    with sampler.add(one, Thing.read, {"of": "a"}), sampler.add(two, Thing.read, {"of": "a"}):
        with sampler.add(other, Thing.read, {"of": "b"}):
            assert recorded.value("count", of="a") == 3
            assert recorded.value("highest", of="a") == 2
            assert recorded.value("total", of="a") == 3
            assert recorded.value("count", of="b") == 10
        assert recorded.value("total", of="b") is None


async def test_one_collection_asks_once(sampler: Sampler, recorded: Recorded) -> None:
    thing = Thing(1)
    with sampler.add(thing, Thing.read, {}):
        for collections in (1, 2, 3):
            thing.value = collections
            found = {name: points[0].value for name, points in recorded.collect().items()}
            assert found == {"count": collections, "highest": collections, "total": collections}
            assert thing.reads == collections


async def test_what_was_counted_stays_counted(sampler: Sampler, recorded: Recorded) -> None:
    first = Thing(1)
    observation = sampler.add(first, Thing.read, {})
    assert recorded.value("count") == 1
    first.value = 5  # since the last collection
    observation.close()
    observation.close()
    first.value = 100
    with sampler.add(Thing(3), Thing.read, {}):
        assert recorded.value("count") == 5  # nothing holds the second one
    second = Thing(3)
    with sampler.add(second, Thing.read, {}):
        assert recorded.value("count") == 8
    assert recorded.value("count") == 8
    assert recorded.value("total") is None


async def test_a_thing_that_is_dropped_is_forgotten(sampler: Sampler, recorded: Recorded) -> None:
    thing = Thing(1)
    observation = sampler.add(thing, Thing.read, {})
    assert recorded.value("total") == 1
    del thing
    gc.collect()
    assert recorded.value("total") is None
    assert not sampler._sources
    observation.close()


async def test_what_is_not_known_yet_is_left_out(
    sampler: Sampler, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    thing = Thing(2)

    def read(thing: Thing) -> list[Point]:
        return [Point(HIGHEST, math.inf), Point(TOTAL, thing.value)]

    with sampler.add(thing, read, {}):
        assert (recorded.value("highest"), recorded.value("total")) == (None, 2)
    assert caplog.text == ""


async def test_one_that_fails_does_not_cost_the_others(
    sampler: Sampler, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(thing: Thing) -> list[Point]:
        raise LookupError

    bad, good = Thing(1), Thing(2)
    with sampler.add(bad, fail, {}), sampler.add(good, Thing.read, {}):
        assert recorded.value("total") == 2
    assert "a Thing could not be observed" in caplog.text


async def test_a_collecting_thread_has_them_read_in_their_loop(sampler: Sampler, recorded: Recorded) -> None:
    thing = Thing(4)
    with sampler.add(thing, Thing.read, {}):
        async with bounded():
            assert await asyncio.to_thread(recorded.value, "total") == 4
    assert thing.reads == 2  # the second when it was closed


async def test_a_blocked_loop_is_waited_for_once_and_what_was_known_is_told(
    sampler: Sampler, recorded: Recorded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sampling, "PATIENCE", 0.05)
    caplog.set_level(logging.DEBUG)
    thing = Thing(1)
    found: list[float | None] = []

    def collect_twice() -> None:
        found.extend([recorded.value("total"), recorded.value("total")])

    with sampler.add(thing, Thing.read, {}):
        assert recorded.value("total") == 1
        thing.value = 2
        thread = threading.Thread(target=collect_twice)
        thread.start()
        thread.join(10)  # this is the loop: it stands still meanwhile
        assert not thread.is_alive()
        assert found == [1, 1]
        assert caplog.text.count("did not answer") == 1
        assert thing.reads == 1
        await asyncio.sleep(0)  # now it comes to what it was asked
        assert await asyncio.to_thread(recorded.value, "total") == 2


def test_a_loop_that_has_ended_is_not_waited_for() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    called: list[bool] = []
    call_in(loop, lambda: called.append(True))
    assert called == [True]


def test_there_is_one_set_of_instruments_for_a_provider() -> None:
    provider, other = (MeterProvider(shutdown_on_exit=False) for _ in range(2))
    assert instruments(provider) is instruments(provider)
    assert instruments(provider) is not instruments(other)
    assert instruments(None) is instruments(None) is not instruments(provider)
    other.shutdown()
    provider.shutdown()


def test_outside_of_a_loop_nothing_can_be_observed(sampler: Sampler) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        sampler.add(Thing(), Thing.read, {})
