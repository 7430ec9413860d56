"""The recorder: every operation with its times and the way it ended."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator

import pytest

import slipstream
from slipstream import AlreadyExistsError, KvStore, OperationTimeoutError, RevisionMismatchError, VersionToken
from slipstream.errors import PermissionDeniedError
from slipstream.testing.checkers import Action, Client, History, Kind, Outcome


@pytest.fixture
async def store() -> AsyncIterator[KvStore]:
    async with slipstream.connect("memory://") as conn:
        yield await conn.store("b")


@pytest.fixture
def history() -> History:
    ticks = itertools.count()
    return History(clock=lambda: float(next(ticks)))


@pytest.fixture
def client(history: History, store: KvStore) -> Client:
    return history.client(store, "c1")


async def fail(error: BaseException) -> None:
    raise error


def nothing(_: object) -> tuple[bytes, int | None]:
    return b"", None


async def test_what_was_answered(history: History, client: Client) -> None:
    assert await client.get("k") is None
    first = await client.create("k", b"1")
    second = await client.update("k", b"2", first)
    entry = await client.get("k")
    assert entry is not None
    assert (entry.value, entry.version) == (b"2", second)
    third = await client.put("k", b"3")
    assert await client.delete_with_version("k", third)
    assert await client.delete("k")

    def done(kind: Kind, at: float, value: bytes = b"", **more: int | None) -> Action:
        return Action(
            client="c1",
            kind=kind,
            key="k",
            value=value,
            expected=more.get("expected"),
            invoked=at,
            returned=at + 1,
            outcome=Outcome.DONE,
            revision=more.get("revision"),
        )

    assert history.actions == [
        done(Kind.GET, 0),
        done(Kind.CREATE, 2, b"1", revision=1),
        done(Kind.UPDATE, 4, b"2", expected=1, revision=2),
        done(Kind.GET, 6, b"2", revision=2),
        done(Kind.PUT, 8, b"3", revision=3),
        done(Kind.UPDATE, 10, expected=3),
        done(Kind.DELETE, 12),
    ]


async def test_conflicts(history: History, client: Client) -> None:
    await client.put("k", b"1")
    with pytest.raises(AlreadyExistsError):
        await client.create("k", b"2")
    with pytest.raises(RevisionMismatchError):
        await client.update("k", b"3", VersionToken.from_u64(9))
    assert [(action.outcome, action.conflict, action.value, action.expected) for action in history.actions[1:]] == [
        (Outcome.REFUSED, True, b"2", None),
        (Outcome.REFUSED, True, b"3", 9),
    ]


@pytest.mark.parametrize(
    ("kind", "error", "expected"),
    [
        (Kind.PUT, PermissionDeniedError(), Outcome.REFUSED),
        (Kind.PUT, OperationTimeoutError(), Outcome.REFUSED),
        (Kind.PUT, OperationTimeoutError(outcome_unknown=True), Outcome.UNKNOWN),
        (Kind.UPDATE, RevisionMismatchError(outcome_unknown=True), Outcome.UNKNOWN),
        (Kind.PUT, asyncio.CancelledError(), Outcome.UNKNOWN),
        (Kind.PUT, OSError(), Outcome.UNKNOWN),
        (Kind.GET, OperationTimeoutError(), Outcome.REFUSED),
        (Kind.GET, asyncio.CancelledError(), Outcome.REFUSED),
    ],
)
async def test_what_failed(history: History, kind: Kind, error: BaseException, expected: Outcome) -> None:
    with pytest.raises(type(error)):
        await history.record(fail(error), nothing, client="c1", kind=kind, key="k", value=b"v")
    (action,) = history.actions
    assert (action.outcome, action.conflict, action.revision) == (expected, False, None)
    assert action.returned == (math.inf if expected is Outcome.UNKNOWN else 1.0)


async def test_an_operation_overlaps_what_ran_meanwhile(history: History, client: Client) -> None:
    release = asyncio.Event()

    async def slow() -> None:
        await release.wait()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(history.record(slow(), nothing, client="c2", kind=Kind.PUT, key="k", value=b"slow"))
        await asyncio.sleep(0)
        await client.put("k", b"quick")
        release.set()
    quick, waited = history.actions
    assert waited.invoked < quick.invoked < quick.returned < waited.returned


def test_an_action_reads_well() -> None:
    action = Action(
        client="c1",
        kind=Kind.UPDATE,
        key="k",
        value=b"v",
        expected=3,
        invoked=1.5,
        returned=2.0,
        outcome=Outcome.DONE,
        revision=4,
    )
    assert str(action) == "[1.500000, 2.000000] c1: update k b'v' at 3 -> done at 4"
