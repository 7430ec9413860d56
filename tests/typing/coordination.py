"""What type checkers see of coordination; never run."""

from __future__ import annotations

from typing import assert_type

from slipstream import (
    Barrier,
    Counter,
    FencingToken,
    KvStore,
    KvWriter,
    Leader,
    LeaderElection,
    Lease,
    Lock,
    MemberChange,
    Membership,
    Permit,
    Semaphore,
    Term,
)


async def coordinating(store: KvStore) -> None:
    lease = Lease(store, "job", ttl=10)
    assert_type(await lease.acquire(timeout=1), FencingToken)
    assert_type(await lease.try_acquire(), FencingToken | None)
    assert_type(lease.fenced(store), KvWriter)
    assert_type(lease.lost.reason, str | None)
    async with lease as held:
        assert_type(held, Lease)
    async with Lock(store, "lock") as held:
        assert_type(held, Lease)
    gate = Semaphore(store, "gate", 3)
    assert_type(await gate.acquire(), Permit)
    async with gate as permit:
        assert_type(permit, Permit)
    assert_type(await Barrier(store, "start", 3).wait(), int)
    assert_type(await Counter(store, "count").add(2), int)
    async with Membership(store, "group", value=b"1") as members:
        assert_type(members["a"], bytes)
        async for change in members:
            assert_type(change, MemberChange)
    Lease(store)  # type: ignore[call-arg]


async def electing(store: KvStore) -> None:
    election = LeaderElection(store, "leader", candidate="anna")

    async def lead(term: Term) -> int:
        assert_type(term.fencing_token, FencingToken)
        assert_type(term.fenced(store), KvWriter)
        return 1

    async with election.campaign(timeout=5) as term:
        assert_type(term, Term)
    assert_type(await election.run(lead), int)
    assert_type(await election.leader(), Leader | None)
    async for leader in election.observe():
        assert_type(leader, Leader | None)
