"""Many requests under way at once: order, bound, first error, cancellation."""

from __future__ import annotations

import asyncio

import pytest

from slipstream.errors import StoreFullError
from slipstream.stores.nats.pipeline import pipelined


class Work:
    """Requests that end when they are told to, and what became of them."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.running: set[int] = set()
        self.most = 0
        self.gates: dict[int, asyncio.Event] = {}
        self.started = asyncio.Condition()

    async def __call__(self, item: int) -> str:
        self.begun.append(item)
        self.running.add(item)
        self.most = max(self.most, len(self.running))
        gate = self.gates.setdefault(item, asyncio.Event())
        try:
            async with self.started:
                self.started.notify_all()
            await gate.wait()
            return f"result {item}"
        finally:
            self.running.discard(item)

    def finish(self, item: int) -> None:
        self.gates.setdefault(item, asyncio.Event()).set()

    async def until_running(self, *items: int) -> None:
        async with asyncio.timeout(5), self.started:
            await self.started.wait_for(lambda: self.running >= set(items))


async def test_results_come_in_the_order_of_the_items() -> None:
    work = Work()
    results = asyncio.create_task(pipelined([1, 2, 3], work, window=3))
    for item in (3, 1, 2):
        await work.until_running(item)
        work.finish(item)
    async with asyncio.timeout(5):
        assert await results == ["result 1", "result 2", "result 3"]
    assert work.begun == [1, 2, 3]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("window", [1, 3, 100])
async def test_no_more_than_the_window_are_under_way(count: int, window: int) -> None:
    work = Work()
    items = list(range(count))
    for item in items:
        work.finish(item)
    async with asyncio.timeout(5):
        assert await pipelined(items, work, window=window) == [f"result {item}" for item in items]
    assert work.begun == items
    assert work.most <= window


async def test_the_window_is_used_and_kept() -> None:
    work = Work()
    results = asyncio.create_task(pipelined(list(range(5)), work, window=2))
    await work.until_running(0, 1)
    assert work.begun == [0, 1]
    work.finish(0)
    await work.until_running(1, 2)
    assert work.begun == [0, 1, 2]
    for item in range(5):
        work.finish(item)
    async with asyncio.timeout(5):
        await results
    assert work.most == 2


async def test_the_first_error_ends_the_rest_and_comes_out_as_it_is() -> None:
    work = Work()
    failure = StoreFullError(store="b", key="k")

    async def one(item: int) -> str:
        if item == 2:
            await work.until_running(0, 1)
            raise failure
        return await work(item)

    async with asyncio.timeout(5):
        with pytest.raises(StoreFullError) as caught:
            await pipelined(list(range(10)), one, window=3)
    assert caught.value is failure
    assert work.begun == [0, 1]
    assert work.running == set()


async def test_the_cause_of_an_error_is_kept() -> None:
    async def one(item: int) -> None:
        if item:
            raise StoreFullError(store="b") from OSError("disk")
        await asyncio.Event().wait()

    with pytest.raises(StoreFullError) as caught:
        await pipelined([0, 1], one, window=2)
    assert isinstance(caught.value.__cause__, OSError)


async def test_cancelled_it_leaves_nothing_running() -> None:
    work = Work()
    before = asyncio.all_tasks()
    results = asyncio.create_task(pipelined(list(range(10)), work, window=4))
    await work.until_running(0, 1, 2, 3)
    results.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await results
    assert work.running == set()
    assert asyncio.all_tasks() == before
    assert work.begun == [0, 1, 2, 3]


async def test_a_timeout_around_it_ends_it() -> None:
    work = Work()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await pipelined(list(range(10)), work, window=4)
    assert work.running == set()
