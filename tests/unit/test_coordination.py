"""The decisions of coordination, and the presence key when answers are lost."""

from __future__ import annotations

import asyncio
import gc
import secrets
import weakref
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream import Lease
from slipstream.coordination.clock import now
from slipstream.coordination.patience import PatientStore
from slipstream.coordination.presence import PresenceKey
from slipstream.coordination.records import FencingToken, Holder, Presence, TicketView, valid_until
from slipstream.coordination.scope import Scope
from slipstream.coordination.turns import passes
from slipstream.errors import DeserializationError, FencedError, KvError, NotConnectedError, OperationTimeoutError
from slipstream.interfaces import Ttl
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken
from slipstream.stores.memory import MemoryConnection
from slipstream.stores.memory.store import MemoryStore
from slipstream.testing._waiting import LIMIT, bounded, eventually, ticks

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
LIFE = datetime(2026, 1, 1, tzinfo=UTC)
Fate = Literal["done", "stored, answer lost", "lost"]

tokens = st.builds(
    FencingToken,
    incarnation=st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC)),  # noqa: DTZ001
    revision=st.integers(0, 2**64 - 1),
)


class TestRecords:
    @UNHURRIED
    @given(token=tokens)
    def test_a_token_survives_its_text(self, token: FencingToken) -> None:
        assert FencingToken.parse(str(token)) == token
        assert token.version.as_u64() == token.revision

    @UNHURRIED
    @given(first=tokens, second=tokens)
    def test_tokens_are_ordered_by_life_and_then_by_revision(self, first: FencingToken, second: FencingToken) -> None:
        assert (first < second) == ((first.incarnation, first.revision) < (second.incarnation, second.revision))

    @pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-2-3", "1-2\n", "a-1"])
    def test_what_is_no_token_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a fencing token"):
            FencingToken.parse(text)

    @UNHURRIED
    @given(value=st.binary(), ttl=st.floats(1, 1e6), number=st.none() | st.integers(1), won=st.none() | st.integers(1))
    def test_a_presence_survives_its_bytes(self, value: bytes, ttl: float, number: int | None, won: int | None) -> None:
        presence = Presence(id="a", ttl=ttl, number=number, won=won, value=value)
        assert Presence.decode(presence.encode(), key="k") == presence

    @pytest.mark.parametrize(
        "raw", [b"", b"\xff", b"1", b"{}", b'{"id": "a"}', b'{"id": "a", "ttl": "x", "value": ""}']
    )
    def test_what_somebody_else_wrote_is_named(self, raw: bytes) -> None:
        for kind in (Presence, Holder):
            with pytest.raises(DeserializationError, match="prefix of its own") as caught:
                kind.decode(raw, key="job.queue.x")
            assert caught.value.key == "job.queue.x"

    def test_it_is_over_for_its_owner_before_it_is_for_others(self) -> None:
        view = TicketView()
        view.see(put("a", 1, Presence(id="a", ttl=10)), at=100.0)
        assert valid_until(started=100.0, ttl=10) < view.tickets["a"].silent_at == 110.0


class TestTicketView:
    def test_places_are_kept_through_renewals(self) -> None:
        view = TicketView()
        view.see(put("a", 1, Presence(id="a", ttl=10)), at=0.0)
        view.see(put("b", 2, Presence(id="b", ttl=10)), at=0.0)
        view.see(put("a", 3, Presence(id="a", ttl=10, number=1)), at=5.0)
        assert [ticket.key for ticket in view.older_than(9)] == ["a", "b"]
        assert [ticket.key for ticket in view.older_than(2)] == ["a"]
        assert view.tickets["a"].seen == 5.0

    def test_what_is_old_changes_nothing(self) -> None:
        view = TicketView()
        view.see(put("a", 5, Presence(id="a", ttl=10, number=1)), at=0.0)
        view.see(put("a", 5, Presence(id="a", ttl=10, number=1)), at=7.0)
        view.see(KvUpdate(operation=Operation.DELETE, key="a", version=VersionToken.from_u64(4)), at=8.0)
        assert view.tickets["a"].seen == 0.0
        view.see(KvUpdate(operation=Operation.PURGE, key="a", version=VersionToken.from_u64(6)), at=9.0)
        assert view.tickets == {}

    def test_what_a_read_did_not_find_is_gone(self) -> None:
        view = TicketView()
        for number, key in enumerate("abc", 1):
            view.see(put(key, number, Presence(id=key, ttl=10)), at=0.0)
        raw = Presence(id="b", ttl=10).encode()
        view.keep([KvEntry(key="b", value=raw, version=VersionToken.from_u64(2))], at=3.0)
        assert list(view.tickets) == ["b"]
        assert view.tickets["b"].seen == 0.0


def put(key: str, revision: int, presence: Presence) -> KvUpdate:
    return KvUpdate(operation=Operation.PUT, key=key, value=presence.encode(), version=VersionToken.from_u64(revision))


class UnreliableStore(MemoryStore):
    """The store in memory behind a network that loses requests and answers as it is told to."""

    fates: list[Fate]
    asked: asyncio.Event
    answering: asyncio.Event

    async def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> VersionToken:
        self.asked.set()
        await self.answering.wait()
        fate = self.fates.pop(0) if self.fates else "done"
        version = None if fate == "lost" else await super().update(key, value, expected, ttl=ttl)
        if fate != "done" or version is None:
            raise OperationTimeoutError(key=key, outcome_unknown=True)
        return version


@pytest.fixture
async def unreliable() -> AsyncIterator[UnreliableStore]:
    async with MemoryConnection(secrets.token_hex(8), op_timeout=LIMIT) as connection:
        store = await connection.store("coordination")
        assert isinstance(store, MemoryStore)
        again = UnreliableStore(store._ref)
        again.fates = []
        again.asked, again.answering = asyncio.Event(), asyncio.Event()
        again.answering.set()
        yield again


class TestUnknownRenewals:
    @pytest.mark.parametrize("fates", [["stored, answer lost"], ["lost"], ["lost", "stored, answer lost"]])
    async def test_one_is_settled_by_what_the_key_says(self, unreliable: UnreliableStore, fates: list[Fate]) -> None:
        presence = PresenceKey(unreliable, "k", ttl=2)
        await presence.create()
        before, number = presence._version, presence.number
        unreliable.fates = list(fates)
        async with bounded():
            await presence.renew()
        entry = await unreliable.get("k")
        assert entry is not None
        assert (presence._version, presence.number) == (entry.version, number)
        assert presence._version != before
        assert presence.is_valid()
        unreliable.fates = ["stored, answer lost"]
        with pytest.raises(OperationTimeoutError):
            await presence.remove()
        await presence.remove()
        assert await unreliable.get("k") is None

    async def test_it_counts_from_the_first_attempt_that_may_be_the_one(self, unreliable: UnreliableStore) -> None:
        presence = PresenceKey(unreliable, "k", ttl=2)
        await presence.create()
        created_until = presence._valid_until
        unreliable.fates = ["stored, answer lost"]
        begun = now()
        await presence.renew()
        assert created_until <= presence._valid_until <= valid_until(started=now(), ttl=2)
        assert presence._valid_until >= valid_until(started=begun, ttl=2)

    async def test_it_counts_from_the_beginning_of_the_request(self, unreliable: UnreliableStore) -> None:
        presence = PresenceKey(unreliable, "k", ttl=2)
        await presence.create()
        unreliable.answering.clear()
        renewing = asyncio.create_task(presence.renew())
        async with bounded():
            await unreliable.asked.wait()
            begun = now()
            unreliable.answering.set()
            await renewing
        assert presence._valid_until <= valid_until(started=begun, ttl=2)
        await presence.remove()

    async def test_it_is_never_counted_as_won_without_being_stored(self, unreliable: UnreliableStore) -> None:
        presence = PresenceKey(unreliable, "k", ttl=1)
        await presence.create()
        until = presence._valid_until
        unreliable.fates = ["lost"] * 1000
        async with bounded():
            await presence.lost.wait()
        assert now() >= until
        assert presence._valid_until == until
        unreliable.fates = []
        await presence.remove()

    async def test_somebody_elses_key_is_left_alone(self, unreliable: UnreliableStore) -> None:
        presence = PresenceKey(unreliable, "k", ttl=1)
        await presence.create()
        await unreliable.put("k", Presence(id="other", ttl=1).encode())
        await presence.renew()
        assert presence.lost.is_set()
        await presence.remove()
        assert await unreliable.get("k") is not None


class TestPatience:
    async def test_a_request_without_an_answer_is_given_up(self, unreliable: UnreliableStore) -> None:
        version = await unreliable.create("k", b"1")
        unreliable.answering.clear()
        async with bounded():
            with pytest.raises(OperationTimeoutError, match="no answer within 1 s") as caught:
                await PatientStore(unreliable, ttl=2).update("k", b"2", version)
        assert caught.value.outcome_unknown
        assert passes(caught.value)

    async def test_what_the_store_raises_stays(self, unreliable: UnreliableStore) -> None:
        version = await unreliable.create("k", b"1")
        unreliable.fates = ["lost"]
        with pytest.raises(OperationTimeoutError, match="the operation timed out"):
            await PatientStore(unreliable, ttl=60).update("k", b"2", version)


class TestLeftovers:
    """A ticket whose removal failed is still there, before its owner's next one."""

    async def test_of_a_lost_holding(self, unreliable: UnreliableStore) -> None:
        lease = Lease(unreliable, "job", ttl=1)
        first = await lease.acquire()
        await settled(unreliable)
        unreliable.fates = ["lost"]  # of the removal
        ticket_of(lease).lose("the test says so")
        async with bounded():
            assert await lease.acquire() > first
        await lease.release()

    async def test_of_one_who_waits(self, unreliable: UnreliableStore) -> None:
        holder, waiter = Lease(unreliable, "job", ttl=30), Lease(unreliable, "job", ttl=1)
        await holder.acquire()
        await settled(unreliable)
        async with bounded(), asyncio.TaskGroup() as group:
            acquiring = group.create_task(waiter.acquire())
            await in_queue(unreliable, 2)
            unreliable.fates = ["lost"]
            ticket_of(waiter).lose("the test says so")
            await in_queue(unreliable, 3)  # a new ticket, beside what is left of the old one
            await holder.release()
            assert await acquiring > holder.fencing_token
        await waiter.release()


def ticket_of(lease: Lease) -> PresenceKey:
    ticket = lease._queue._ticket
    assert ticket is not None
    return ticket


async def settled(store: UnreliableStore) -> None:
    """Return once the renewal that tells of the winning write is done."""
    async with store.watch("job.queue.") as watch, bounded():
        while Presence.decode((await anext(watch)).value, key="job").won is None:
            pass


async def in_queue(store: UnreliableStore, count: int) -> None:
    async def are_there() -> bool:
        return len(await store.keys("job.queue.")) == count

    await eventually(are_there)


class TestScope:
    async def test_a_loss_that_comes_as_the_block_ends_hits_nothing_later(self, unreliable: UnreliableStore) -> None:
        presence = PresenceKey(unreliable, "k", ttl=10)
        await presence.create()
        async with Scope(presence, FencedError):
            presence.lose("the test says so")
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()

    async def test_a_cancel_from_outside_is_not_taken_for_the_loss(self, unreliable: UnreliableStore) -> None:
        presence = PresenceKey(unreliable, "k", ttl=10)
        await presence.create()

        async def block() -> None:
            async with Scope(presence, FencedError):
                await asyncio.Event().wait()

        task = asyncio.create_task(block())
        await asyncio.sleep(0)
        task.cancel()
        presence.lose("at the same time")
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_what_was_lost_before_is_noticed(self, unreliable: UnreliableStore) -> None:
        presence = PresenceKey(unreliable, "k", ttl=10)
        await presence.create()
        presence.lose("before")

        async def block() -> None:
            async with Scope(presence, FencedError):
                await asyncio.Event().wait()

        with pytest.raises(FencedError):
            await block()


@pytest.mark.parametrize("released", [True, False])
def test_a_loop_that_has_ended_is_not_kept(released: bool) -> None:
    async def hold() -> weakref.ref[asyncio.AbstractEventLoop]:
        async with MemoryConnection(secrets.token_hex(8), op_timeout=LIMIT) as connection:
            presence = PresenceKey(await connection.store("coordination"), "k", ttl=10)
            await presence.create()
            await ticks(3)  # the keepalive waits
            if released:
                await presence.remove()
            return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(hold())
    gc.collect()
    assert loop() is None


def test_a_shutdown_is_not_waited_out() -> None:
    lost_answer: KvError = NotConnectedError(outcome_unknown=True)
    assert passes(lost_answer)
    assert not passes(NotConnectedError())
