"""The bounded hand-off between one producer and one consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.channel import Channel, ChannelClosed

SECONDS = 5.0
TURNS = range(8)  # more turns of the loop than any await in here takes


def filled(*items: str, max_bytes: int = 100) -> Channel[str]:
    channel: Channel[str] = Channel(max_bytes=max_bytes)
    for item in items:
        assert channel.offer(item, 1)
    return channel


def drain(channel: Channel[str]) -> list[str]:
    items = []
    while (item := channel.get_nowait()) is not None:
        items.append(item)
    return items


async def turn(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


# Order and bounds.


async def test_items_come_out_in_the_order_they_went_in() -> None:
    channel = filled("a", "b", "c")
    assert [await channel.get(), channel.get_nowait(), await channel.get()] == ["a", "b", "c"]
    assert channel.get_nowait() is None


def test_peek_takes_nothing() -> None:
    channel = filled("a", "b")
    assert (channel.peek(), channel.peek(1)) == ("a", "b")
    with pytest.raises(IndexError):
        channel.peek(2)
    assert drain(channel) == ["a", "b"]


def test_the_bound_counts_bytes_and_is_inclusive() -> None:
    channel: Channel[str] = Channel(max_bytes=10)
    assert channel.offer("a", 6)
    assert not channel.offer("b", 5)
    assert channel.offer("c", 4)
    assert not channel.offer("d", 1)
    assert (len(channel), channel.pending_bytes) == (2, 10)
    assert channel.get_nowait() == "a"
    assert channel.pending_bytes == 4
    assert channel.offer("e", 6)


def test_an_item_larger_than_the_bound_passes_an_empty_channel_only() -> None:
    channel: Channel[str] = Channel(max_bytes=10)
    assert channel.offer("large", 1000)
    assert not channel.offer("small", 1)
    assert not channel.offer("empty", 0)
    assert drain(channel) == ["large"]
    assert channel.pending_bytes == 0
    assert channel.offer("small", 1)
    assert not channel.offer("large", 1000)


@pytest.mark.parametrize("max_bytes", [0, -1])
def test_a_bound_below_one_byte_is_refused(max_bytes: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Channel(max_bytes=max_bytes)


@given(
    st.integers(1, 50),
    st.lists(st.one_of(st.integers(0, 60).map(lambda size: ("offer", size)), st.just(("take", 0))), max_size=60),
)
def test_nothing_accepted_is_lost_and_the_bound_holds(max_bytes: int, steps: list[tuple[str, int]]) -> None:
    channel: Channel[int] = Channel(max_bytes=max_bytes)
    inside: list[tuple[int, int]] = []
    for number, (step, size) in enumerate(steps):
        if step == "offer":
            accepted = channel.offer(number, size)
            assert accepted == (not inside or sum(held for _, held in inside) + size <= max_bytes)
            if accepted:
                inside.append((number, size))
        else:
            assert channel.get_nowait() == (inside.pop(0)[0] if inside else None)
        assert len(channel) == len(inside)
        assert channel.pending_bytes == sum(held for _, held in inside)
        assert len(inside) <= 1 or channel.pending_bytes <= max_bytes


# Waiting.


async def test_get_waits_for_an_offer() -> None:
    channel = filled()
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        getting = tasks.create_task(channel.get())
        await turn(3)
        assert not getting.done()
        channel.offer("a", 1)
    assert getting.result() == "a"


async def test_wait_returns_at_once_if_there_is_something_and_takes_nothing() -> None:
    channel = filled("a")
    await channel.wait()
    assert drain(channel) == ["a"]


async def test_wait_for_more_than_so_many() -> None:
    channel = filled("a")
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(channel.wait(more_than=2))
        await turn(2)
        channel.offer("b", 1)
        await turn(3)
        assert not waiting.done()
        channel.offer("c", 1)
    assert drain(channel) == ["a", "b", "c"]


async def test_one_waiter_only() -> None:
    channel = filled()
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(channel.get())
        await turn(1)
        for second in (channel.get, channel.wait):
            with pytest.raises(RuntimeError, match="already waiting"):
                await second()
        channel.offer("a", 1)
    assert first.result() == "a"  # the first was not disturbed


async def test_another_may_wait_once_the_first_has_gone() -> None:
    channel = filled()
    first = asyncio.create_task(channel.get())
    await turn(1)
    first.cancel()
    await asyncio.wait({first})
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        second = tasks.create_task(channel.get())
        await turn(1)
        channel.offer("a", 1)
    assert second.result() == "a"


# Closing.


async def test_what_was_accepted_is_handed_out_before_the_end() -> None:
    channel = filled("a", "b")
    channel.close()
    assert not channel.offer("c", 1)
    assert [await channel.get(), await channel.get()] == ["a", "b"]
    for _ in range(2):  # a latch: it stays closed
        with pytest.raises(ChannelClosed):
            await channel.get()
        with pytest.raises(ChannelClosed):
            channel.get_nowait()


async def test_the_error_comes_after_the_items_each_time() -> None:
    channel = filled("a")
    channel.close(OSError("gone"))
    assert await channel.get() == "a"
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            await channel.get()


def test_the_first_close_wins() -> None:
    channel = filled()
    assert (channel.closed, channel.error) == (False, None)
    error = OSError("first")
    channel.close(error)
    channel.close(ValueError("second"))
    channel.close()
    assert channel.closed
    assert channel.error is error
    silent = filled()
    silent.close()
    silent.close(error)
    assert silent.error is None


def wait_alone(channel: Channel[str]) -> asyncio.Task[None]:
    return asyncio.create_task(channel.wait())


def wait_for_more(channel: Channel[str]) -> asyncio.Task[None]:
    return asyncio.create_task(channel.wait(more_than=10))


@pytest.mark.parametrize("start", [wait_alone, wait_for_more])
async def test_closing_releases_a_wait(start: Callable[[Channel[str]], asyncio.Task[None]]) -> None:
    channel = filled()
    waiting = start(channel)
    await turn(1)
    channel.close()
    async with asyncio.timeout(SECONDS):
        await waiting


@pytest.mark.parametrize("error", [None, OSError("gone")])
async def test_closing_releases_a_get_with_the_error(error: OSError | None) -> None:
    channel = filled()
    getting = asyncio.create_task(channel.get())
    await turn(1)
    channel.close(error)
    with pytest.raises(ChannelClosed if error is None else OSError):
        async with asyncio.timeout(SECONDS):
            await getting


# Cancelling.


async def cancelled_get(channel: Channel[str], feed: Callable[[], None], *, before: int, after: int) -> list[str]:
    """A `get` that is fed after so many turns and cancelled after so many more; what it took all the same."""
    getting = asyncio.create_task(channel.get())
    await turn(before)
    feed()
    await turn(after)
    getting.cancel()
    await asyncio.wait({getting}, timeout=SECONDS)
    return [] if getting.cancelled() else [getting.result()]


@pytest.mark.parametrize("before", TURNS)
@pytest.mark.parametrize("after", TURNS)
async def test_a_get_cancelled_at_any_turn_loses_nothing(before: int, after: int) -> None:
    channel = filled()

    def feed() -> None:
        channel.offer("a", 1)
        channel.offer("b", 1)

    taken = await cancelled_get(channel, feed, before=before, after=after)
    assert taken + drain(channel) == ["a", "b"]


@pytest.mark.parametrize("before", TURNS)
@pytest.mark.parametrize("after", TURNS)
async def test_a_get_cancelled_around_a_close_loses_nothing(before: int, after: int) -> None:
    channel = filled()

    def feed() -> None:
        channel.offer("a", 1)
        channel.close()

    taken = await cancelled_get(channel, feed, before=before, after=after)
    rest = [] if taken else [await channel.get()]
    assert taken + rest == ["a"]
    with pytest.raises(ChannelClosed):
        await channel.get()


@pytest.mark.parametrize("cancel_every", [1, 2, 3, 5])
async def test_a_consumer_cancelled_again_and_again_receives_everything_once(cancel_every: int) -> None:
    channel = filled()
    wanted = [str(number) for number in range(200)]
    taken: list[str] = []

    async def produce() -> None:
        for item in wanted:
            channel.offer(item, 0)
            await turn(1)
        channel.close()

    async def consume() -> bool:
        try:
            while True:
                taken.append(await channel.get())
        except ChannelClosed:
            return True

    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        ended = False
        while not ended:
            consuming = tasks.create_task(consume())
            await turn(cancel_every)
            consuming.cancel()
            await asyncio.wait({consuming})
            ended = not consuming.cancelled() and consuming.result()
    assert taken == wanted
