"""LeaderElection: one leader at a time, whose block ends before another one leads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

import pytest

from slipstream import FencingToken, Leader, LeaderElection, Term
from slipstream.errors import FencedError, OperationTimeoutError, UnsupportedError
from slipstream.interfaces import Connection, KvStore
from slipstream.testing._waiting import bounded, eventually

OpenStore = Callable[[], Awaitable[tuple[Connection, KvStore]]]
TTL = 2.0  # of those who shall die soon; the others have ten seconds, so that no stall of the machine ends a term


def election(store: KvStore, candidate: str, *, ttl: float = 10) -> LeaderElection:
    return LeaderElection(store, "leader", ttl=ttl, candidate=candidate)


@asynccontextmanager
async def observing(election: LeaderElection) -> AsyncIterator[list[Leader | None]]:
    """What an observer has seen so far; it has seen the present when the block begins."""
    seen: list[Leader | None] = []
    first = asyncio.Event()

    async def observe() -> None:
        async for leader in election.observe():
            seen.append(leader)
            first.set()

    task = asyncio.create_task(observe())
    try:
        async with bounded():
            await first.wait()
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_term_begins_and_ends_with_its_block(store: KvStore) -> None:
    anna, berta = election(store, "anna"), election(store, "berta")
    assert await berta.leader() is None
    async with anna.campaign() as term:
        assert term.is_leading
        assert await berta.leader() == Leader(candidate="anna", fencing_token=term.fencing_token)
        with pytest.raises(OperationTimeoutError):
            async with berta.campaign(timeout=0.3):
                pytest.fail("two lead")
    assert not term.is_leading
    assert await berta.leader() is None
    async with bounded(), berta.campaign() as next_term:
        assert next_term.fencing_token > term.fencing_token


async def test_what_the_block_raises_comes_out_and_ends_the_term(store: KvStore) -> None:
    anna = election(store, "anna")
    with pytest.raises(ZeroDivisionError):
        async with anna.campaign():
            _ = 1 / 0
    assert await anna.leader() is None


async def test_the_name_of_a_candidate_is_made_up_if_it_has_none(store: KvStore) -> None:
    assert LeaderElection(store, "leader").candidate


async def test_observers_see_every_leader_and_who_leads_already(store: KvStore) -> None:
    anna, berta = election(store, "anna"), election(store, "berta")
    async with observing(anna) as early:
        expected: list[Leader | None] = [None]

        async def seen() -> bool:
            return early == expected

        # One by one: a short term need not be seen.
        for candidate in (anna, berta):
            async with candidate.campaign() as term:
                leader = Leader(candidate=candidate.candidate, fencing_token=term.fencing_token)
                expected.append(leader)
                await eventually(seen)
                async with observing(berta) as late:
                    assert late == [leader]
            expected.append(None)
            await eventually(seen)


async def test_observers_notice_that_a_leader_died(store: KvStore, open_store: OpenStore) -> None:
    connection, other = await open_store()
    term_of = asyncio.create_task(_lead_until_lost(election(other, "anna", ttl=TTL)))
    async with observing(election(store, "berta")) as seen:

        async def leads() -> bool:
            return bool(seen) and seen[-1] is not None

        async def is_gone() -> bool:
            return seen[-1] is None

        await eventually(leads)
        await connection.shutdown()
        await eventually(is_gone)
    await term_of


async def test_a_leader_that_is_cut_off_ends_before_the_next_begins(store: KvStore, open_store: OpenStore) -> None:
    connection, other = await open_store()
    events: list[str] = []

    async def first() -> None:
        async with election(other, "anna", ttl=TTL).campaign():
            events.append("anna leads")
            try:
                await asyncio.Event().wait()
            finally:
                events.append("anna ends")

    async def second() -> None:
        async with election(store, "berta").campaign():
            events.append("berta leads")

    async with bounded(), asyncio.TaskGroup() as group:
        leading = group.create_task(_fenced_off(first()))

        async def leads() -> bool:
            return events == ["anna leads"]

        await eventually(leads)
        group.create_task(second())
        await connection.shutdown()
    assert leading.done()
    assert events == ["anna leads", "anna ends", "berta leads"]


async def test_run_returns_what_the_work_returned(store: KvStore) -> None:
    async def work(term: Term) -> FencingToken:
        return term.fencing_token

    anna = election(store, "anna")
    assert await anna.run(work) < await anna.run(work)
    assert await anna.leader() is None


async def test_run_campaigns_again_when_a_term_was_lost(store: KvStore) -> None:
    terms: list[Term] = []

    async def work(term: Term) -> str:
        terms.append(term)
        if len(terms) == 3:
            return "done"
        for key in await store.keys("leader.queue."):
            await store.purge(key)
        await asyncio.Event().wait()
        return "never"

    async with asyncio.timeout(20):
        assert await election(store, "anna", ttl=3).run(work) == "done"
    tokens = [term.fencing_token for term in terms]
    assert tokens == sorted(set(tokens))
    assert [term.lost.is_set() for term in terms] == [True, True, False]


async def test_run_raises_what_the_work_raises(store: KvStore) -> None:
    async def work(term: Term) -> None:
        raise FencedError(key="of another fence")

    with pytest.raises(FencedError, match="another fence"):
        await election(store, "anna").run(work)


async def test_who_resigns_lets_the_next_one_lead_and_campaigns_again(store: KvStore) -> None:
    order: list[str] = []
    anna, berta = election(store, "anna"), election(store, "berta")

    async def lead_anna(term: Term) -> None:
        order.append("anna")
        if len(order) == 1:
            await asyncio.Event().wait()

    async def lead_berta(term: Term) -> None:
        order.append("berta")

    async with bounded(), asyncio.TaskGroup() as group:
        group.create_task(anna.run(lead_anna))

        async def leads() -> bool:
            return order == ["anna"]

        async def both_are_there() -> bool:
            return len(await store.keys("leader.queue.")) == 2

        await eventually(leads)
        group.create_task(berta.run(lead_berta))
        await eventually(both_are_there)
        await anna.resign()
    assert order == ["anna", "berta", "anna"]


async def test_to_resign_from_inside_lets_the_block_go_on(store: KvStore) -> None:
    anna = election(store, "anna")
    async with anna.campaign() as term:
        await term.resign()
        await term.resign()
        assert not term.is_leading
        assert await anna.leader() is None
        with pytest.raises((FencedError, UnsupportedError)):
            await term.fenced(store).put("k", b"1")
    assert await store.get("k") is None


async def test_no_two_terms_of_many_candidates_overlap(store: KvStore, open_store: OpenStore) -> None:
    connection, _ = await open_store()
    fencing = connection.capabilities.fencing
    leading: list[str] = []
    tokens: list[FencingToken] = []

    async def one(name: str) -> None:
        async with election(store, name, ttl=10).campaign() as term:
            leading.append(name)
            tokens.append(term.fencing_token)
            if fencing:
                writer = term.fenced(store)
                for number in range(3):
                    await writer.put(f"log.{len(tokens)}.{number}", str(term.fencing_token).encode())
            assert leading == [name]
            leading.remove(name)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(one(f"c{number}"))
    assert len(tokens) == 20
    assert tokens == sorted(set(tokens))
    entries = sorted(await store.scan("log."), key=lambda entry: entry.revision or 0)
    written = [FencingToken.parse(entry.value.decode()) for entry in entries]
    assert len(written) == (60 if fencing else 0)
    assert written == sorted(written)


async def _fenced_off(work: Coroutine[None, None, None]) -> None:
    with pytest.raises(FencedError):
        await work


async def _lead_until_lost(candidate: LeaderElection) -> None:
    with pytest.raises(FencedError):
        async with bounded(), candidate.campaign():
            await asyncio.Event().wait()
