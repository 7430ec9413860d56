"""Connection events: every reader gets them, none can hold up who tells them."""

from __future__ import annotations

import asyncio
import gc

import pytest

from slipstream.events import LIMIT, ConnectionEvents
from slipstream.model import ConnectionEvent, ConnectionState

SECONDS = 5.0


def attempt(number: int) -> ConnectionEvent:
    return ConnectionEvent(state=ConnectionState.RECONNECTING, attempt=number)


async def test_each_reader_begins_with_the_present_and_gets_all_that_follows() -> None:
    events = ConnectionEvents()
    first = events.subscribe()
    events.emit(attempt(1))
    events.emit(attempt(2))
    second = events.subscribe()
    events.emit(attempt(3))
    events.close()
    async with asyncio.timeout(SECONDS):
        assert [event.attempt async for event in first] == [1, 2, 3, 0]
        assert [event.attempt async for event in second] == [2, 3, 0]


async def test_a_slow_reader_keeps_the_latest_and_is_told_once_how_many_it_missed() -> None:
    events = ConnectionEvents()
    reader = events.subscribe()
    for number in range(LIMIT + 7):
        events.emit(attempt(number))
    async with asyncio.timeout(SECONDS):
        kept = [await anext(reader) for _ in range(LIMIT)]
    assert [event.attempt for event in kept] == list(range(7, LIMIT + 7))
    assert [event.missed for event in kept] == [7] + [0] * (LIMIT - 1)


async def test_one_that_waits_is_woken() -> None:
    events = ConnectionEvents()
    reader = events.subscribe()
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    assert not waiting.done()
    events.emit(attempt(1))
    async with asyncio.timeout(SECONDS):
        assert (await waiting).attempt == 1


async def test_several_tasks_may_share_a_reader() -> None:
    events = ConnectionEvents()
    reader = events.subscribe()
    waiting = [asyncio.ensure_future(anext(reader)) for _ in range(3)]
    await asyncio.sleep(0)
    for number in range(3):
        events.emit(attempt(number))
    async with asyncio.timeout(SECONDS):
        assert sorted(event.attempt for event in await asyncio.gather(*waiting)) == [0, 1, 2]


async def test_nothing_follows_the_end() -> None:
    events = ConnectionEvents()
    reader = events.subscribe()
    events.close()
    events.close()
    events.emit(attempt(1))
    async with asyncio.timeout(SECONDS):
        for each in (reader, events.subscribe()):
            assert [event.state async for event in each] == [ConnectionState.CLOSED]
        with pytest.raises(StopAsyncIteration):
            await anext(reader)


def test_one_that_is_dropped_without_a_word_is_forgotten() -> None:
    events = ConnectionEvents()
    kept = events.subscribe()
    events.subscribe()
    gc.collect()
    assert list(events._readers) == [kept]
