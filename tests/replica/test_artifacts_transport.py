"""Artifacts in an object store: in memory, and in an S3 that the tests start."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import LocalStore
from obstore.store import MemoryStore as MemoryObjects

import slipstream
from slipstream.errors import ArtifactError, OperationTimeoutError
from slipstream.model import WatchCursor
from slipstream.replica import AppendLogSnapshot, ObjectStoreTransport, Publication, SqliteSnapshot, import_artifact
from slipstream.replica.artifacts.pointer import Move, Pointer, decide
from slipstream.replica.artifacts.transport import LATEST
from slipstream.testing._waiting import bounded, cancelled_after
from slipstream.testing.proxy import FaultProxy
from tests.replica.artifacts import (
    BUCKET,
    SECRET,
    S3Server,
    artifact_of,
    at,
    flipped,
    leftovers,
    names_in,
    opened,
    s3_server,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore

MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["memory", "s3"])
def objects(request: pytest.FixtureRequest) -> ObjectStore:
    """An empty object store."""
    if request.param == "memory":
        return MemoryObjects()
    server: S3Server = request.getfixturevalue("s3")
    name = f"artifacts-{random.randrange(2**32)}"
    server.make_bucket(name)
    return server.store(name)


async def fetched(transport: ObjectStoreTransport, folder: Path) -> WatchCursor | None:
    """The cursor that a node would start from."""
    if await transport.fetch_latest(folder / "fetched") is None:
        return None
    await import_artifact(folder / "fetched", folder / "node", kind=AppendLogSnapshot, bucket=BUCKET)
    values, cursor = await opened(AppendLogSnapshot, folder / "node")
    assert values == {"at": str(cursor).encode()}
    await asyncio.to_thread(remove, folder, "fetched", "node")
    return cursor


def remove(folder: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(folder / name)


async def payloads(transport: ObjectStoreTransport) -> list[str]:
    return [found.name for found in await transport._objects.list("payloads")]


def aged(transport: ObjectStoreTransport, by: timedelta, patch: pytest.MonkeyPatch) -> None:
    """To its prunings everything is older by that: the clock of the object store goes ahead."""
    touch = transport._objects.touch

    async def ahead(name: str) -> datetime:
        return await touch(name) + by

    patch.setattr(transport._objects, "touch", ahead)


# Publishing and fetching.


async def test_what_is_published_is_fetched(objects: ObjectStore, tmp_path: Path) -> None:
    transport = ObjectStoreTransport(objects, "edge/config")
    assert await transport.latest() is None
    assert await transport.fetch_latest(tmp_path / "nothing") is None
    assert names_in(tmp_path) == []
    manifest = await artifact_of(tmp_path / "artifact", at(7), values={"a": b"1", "b": b"2"})
    published = await transport.publish(tmp_path / "artifact")
    assert published.moved
    assert published.pointer == await transport.latest()
    assert (published.pointer.cursor, published.pointer.bucket) == (at(7), BUCKET)
    assert await transport.fetch_latest(tmp_path / "fetched") == manifest
    assert names_in(tmp_path / "fetched") == names_in(tmp_path / "artifact")
    await import_artifact(tmp_path / "fetched", tmp_path / "node", kind=AppendLogSnapshot, bucket=BUCKET)
    assert await opened(AppendLogSnapshot, tmp_path / "node") == ({"a": b"1", "b": b"2"}, at(7))
    assert leftovers(tmp_path) == []


async def test_a_file_of_several_parts_goes_through(objects: ObjectStore, tmp_path: Path) -> None:
    value = random.randbytes(3_000_000)
    await artifact_of(tmp_path / "artifact", at(4), values={f"k.{number}": value for number in range(4)})
    transport = ObjectStoreTransport(objects)
    await transport.publish(tmp_path / "artifact")
    await transport.fetch_latest(tmp_path / "fetched")
    await import_artifact(tmp_path / "fetched", tmp_path / "node", kind=AppendLogSnapshot, bucket=BUCKET)
    assert (await opened(AppendLogSnapshot, tmp_path / "node"))[0] == {f"k.{number}": value for number in range(4)}


async def test_two_prefixes_of_one_object_store_are_apart(objects: ObjectStore, tmp_path: Path) -> None:
    one, other = ObjectStoreTransport(objects, "one"), ObjectStoreTransport(objects, "/one/more/")
    await artifact_of(tmp_path / "1", at(1))
    await artifact_of(tmp_path / "2", at(2))
    await one.publish(tmp_path / "1")
    await other.publish(tmp_path / "2")
    assert (await fetched(one, tmp_path), await fetched(other, tmp_path)) == (at(1), at(2))


async def test_nothing_is_fetched_over_something(objects: ObjectStore, tmp_path: Path) -> None:
    await artifact_of(tmp_path / "artifact", at(1))
    transport = ObjectStoreTransport(objects)
    await transport.publish(tmp_path / "artifact")
    with pytest.raises(ArtifactError, match="is there already"):
        await transport.fetch_latest(tmp_path / "artifact")


async def test_a_damaged_artifact_is_not_published(objects: ObjectStore, tmp_path: Path) -> None:
    await artifact_of(tmp_path / "artifact", at(1))
    log = tmp_path / "artifact" / "fold.log"
    log.write_bytes(flipped(log.read_bytes(), 20, 3))
    transport = ObjectStoreTransport(objects)
    with pytest.raises(ArtifactError, match=r"fold\.log is damaged"):
        await transport.publish(tmp_path / "artifact")
    assert await transport.latest() is None
    assert await payloads(transport) == []


async def test_every_damaged_object_is_found_and_named(objects: ObjectStore, tmp_path: Path) -> None:
    await artifact_of(tmp_path / "artifact", at(1))
    transport = ObjectStoreTransport(objects)
    await transport.publish(tmp_path / "artifact")
    for name in [LATEST, *await payloads(transport)]:
        stored = await transport._objects.read(name)
        assert stored is not None
        last_digit = stored.content.rindex(b"@") - 1 if name == LATEST else 0  # of the cursor: still a pointer
        for bad in (flipped(stored.content, last_digit, 0), stored.content[:-1], b""):
            await transport._objects.write(name, bad)
            with pytest.raises(ArtifactError) as caught:
                await transport.fetch_latest(tmp_path / "fetched")
            assert name in str(caught.value)
        if name != LATEST:
            await transport._objects.remove([name])
            with pytest.raises(ArtifactError, match=f"{name} is missing"):
                await transport.fetch_latest(tmp_path / "fetched")
        await transport._objects.write(name, stored.content)
    assert leftovers(tmp_path) == []
    assert await fetched(transport, tmp_path) == at(1)


# The pointer.


async def test_the_pointer_moves_forward_only(objects: ObjectStore, tmp_path: Path) -> None:
    transport = ObjectStoreTransport(objects)
    steps = [(at(5), True), (at(4), False), (at(5), False), (at(9), True), (at(1, life=1), True), (at(99), False)]
    newest = None
    for number, (cursor, moves) in enumerate(steps):
        await artifact_of(tmp_path / f"{number}", cursor)
        newest = cursor if moves else newest
        published = await transport.publish(tmp_path / f"{number}")
        assert (published.moved, published.pointer.cursor) == (moves, newest)
        assert await fetched(transport, tmp_path) == newest


CURSORS = st.builds(lambda revision, life: at(revision, life=life), st.integers(0, 9), st.integers(0, 3))


@given(st.lists(CURSORS))
def test_decisions_lead_to_the_last_life_and_its_highest_revision(cursors: list[WatchCursor]) -> None:
    pointer: WatchCursor | None = None
    for cursor in cursors:
        if decide(pointer, cursor) is Move.FORWARD:
            pointer = cursor
        else:
            assert decide(cursor, cursor) is Move.STAY
    assert pointer == max(cursors, key=lambda cursor: (cursor.incarnation, cursor.revision), default=None)


@pytest.mark.parametrize("first", [5, 20], ids=["the older one is late", "the newer one is late"])
async def test_of_two_exporters_that_race_the_newer_one_stays_and_the_other_is_told(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """One has read the pointer and uploaded, and is about to move it; the other one does all of that meanwhile."""
    late, quick = (5, 20) if first == 5 else (20, 5)
    for number in (1, 5, 20):
        await artifact_of(tmp_path / f"{number}", at(number))
    slow, other = ObjectStoreTransport(objects), ObjectStoreTransport(objects)
    for begin in ([], [1]):  # without a pointer, and with one
        for number in begin:
            await other._objects.remove([LATEST])
            await other.publish(tmp_path / f"{number}")
        raced: list[Publication] = []
        replace = slow._objects.replace

        async def replace_late(
            name: str, content: bytes, *, expected: Any, replace: Any = replace, raced: Any = raced
        ) -> bool:
            if not raced:
                raced.append(await other.publish(tmp_path / f"{quick}"))
            return bool(await replace(name, content, expected=expected))

        monkeypatch.setattr(slow._objects, "replace", replace_late)
        published = await slow.publish(tmp_path / f"{late}")
        monkeypatch.undo()
        assert [publication.moved for publication in raced] == [True]
        assert published.moved == (late == 20)
        assert published.pointer.cursor == at(20)
        assert await fetched(other, tmp_path) == at(20)


async def test_many_exporters_at_once(objects: ObjectStore, tmp_path: Path) -> None:
    numbers = random.sample(range(1, 100), 6)
    for number in numbers:
        await artifact_of(tmp_path / f"{number}", at(number))
    async with asyncio.timeout(40):
        outcomes = await asyncio.gather(
            *(ObjectStoreTransport(objects).publish(tmp_path / f"{number}") for number in numbers)
        )
    assert outcomes[numbers.index(max(numbers))].moved
    for number, outcome in zip(numbers, outcomes, strict=True):
        assert outcome.pointer.cursor >= at(number)
    assert await fetched(ObjectStoreTransport(objects), tmp_path) == at(max(numbers))


async def test_a_put_whose_answer_was_lost_is_found_to_have_worked(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends it again is refused by what it has put itself."""
    transport = ObjectStoreTransport(objects)
    await artifact_of(tmp_path / "artifact", at(3))
    replace = transport._objects.replace

    async def sent_again(name: str, content: bytes, *, expected: Any) -> bool:
        assert await replace(name, content, expected=expected)
        return bool(await replace(name, content, expected=expected))

    monkeypatch.setattr(transport._objects, "replace", sent_again)
    assert (await transport.publish(tmp_path / "artifact")).moved


async def test_a_pointer_of_something_else_is_left_alone(objects: ObjectStore, tmp_path: Path) -> None:
    transport = ObjectStoreTransport(objects, "p")
    await artifact_of(tmp_path / "mine", at(1))
    await transport.publish(tmp_path / "mine")
    await artifact_of(tmp_path / "bucket", at(2), bucket="other")
    await artifact_of(tmp_path / "scope", at(2), prefix="node.")
    await artifact_of(tmp_path / "backend", at(2), kind=SqliteSnapshot)
    for name in ("bucket", "scope", "backend"):
        with pytest.raises(ArtifactError, match=r"p/latest\.json is of bucket 'config'.*a prefix of its own"):
            await transport.publish(tmp_path / name)
    await transport._objects.write(LATEST, b'{"schema_version": 2, "token": "hidden"}')
    with pytest.raises(ArtifactError, match=r"latest\.json is no pointer of schema 1") as caught:
        await transport.publish(tmp_path / "mine")
    assert "hidden" not in str(caught.value)


def test_a_pointer_is_what_it_was_packed_from() -> None:
    pointer = Pointer(
        publication="0" * 32,
        manifest="1" * 64,
        bucket=BUCKET,
        prefixes=("a",),
        backend="A",
        cursor=at(1),
        published=datetime.fromisoformat("2026-01-01T00:00:00+00:00"),
    )
    assert Pointer.unpack(pointer.pack(), where="here") == pointer


# Local folders.


async def test_a_local_folder_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    local = LocalStore(tmp_path / "objects")
    with pytest.raises(ArtifactError, match=r"no conditional put.*allow_local=True"):
        ObjectStoreTransport(local)
    transport = ObjectStoreTransport(local, "config", allow_local=True)
    for number in (1, 3, 2):
        await artifact_of(tmp_path / f"{number}", at(number))
        assert (await transport.publish(tmp_path / f"{number}")).moved == (number != 2)
    assert await fetched(transport, tmp_path) == at(3)
    with pytest.MonkeyPatch.context() as patch:
        aged(transport, DAY, patch)
        assert await transport.prune() == 2
    assert await fetched(transport, tmp_path) == at(3)


# Pruning.


async def test_pruning_keeps_what_the_pointer_names(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = ObjectStoreTransport(objects, "config")
    assert await transport.prune() == 0
    for number in (1, 2, 3):
        await artifact_of(tmp_path / f"{number}", at(number))
        await transport.publish(tmp_path / f"{number}")
    assert await transport.prune() == 0  # all of it is young
    before = set(await payloads(transport))
    aged(transport, DAY, monkeypatch)
    assert await transport.prune() == 4
    left = set(await payloads(transport))
    assert len(left) == 2
    assert left < before
    assert await transport.prune() == 0
    assert await fetched(transport, tmp_path) == at(3)


async def test_pruning_without_a_pointer_removes_what_is_old(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = ObjectStoreTransport(objects)
    await transport._objects.write("payloads/x/y", b"of an exporter that was killed")
    assert await transport.prune() == 0
    aged(transport, DAY, monkeypatch)
    assert await transport.prune() == 1
    assert await payloads(transport) == []


async def test_pruning_leaves_what_an_exporter_has_just_uploaded(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await artifact_of(tmp_path / "1", at(1))
    await artifact_of(tmp_path / "2", at(2))
    exporter, pruner = ObjectStoreTransport(objects), ObjectStoreTransport(objects)
    await exporter.publish(tmp_path / "1")
    replace, pruned = exporter._objects.replace, list[int]()

    async def prune_first(name: str, content: bytes, *, expected: Any) -> bool:
        pruned.append(await pruner.prune())
        return bool(await replace(name, content, expected=expected))

    monkeypatch.setattr(exporter._objects, "replace", prune_first)
    assert (await exporter.publish(tmp_path / "2")).moved
    assert pruned == [0]
    assert await fetched(pruner, tmp_path) == at(2)


async def test_a_pruning_that_is_overtaken_by_an_exporter_leaves_what_it_names(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is old to this pruner: the order of its steps alone protects what is published between two of them."""
    await artifact_of(tmp_path / "1", at(1))
    await artifact_of(tmp_path / "2", at(2))
    pruner = ObjectStoreTransport(objects)
    await pruner.publish(tmp_path / "1")
    listing = pruner._objects.list

    async def overtaken(under: str) -> Any:
        listed = await listing(under)
        await ObjectStoreTransport(objects).publish(tmp_path / "2")
        return listed

    monkeypatch.setattr(pruner._objects, "list", overtaken)
    aged(pruner, DAY, monkeypatch)
    assert await pruner.prune() == 2
    monkeypatch.undo()
    assert await fetched(pruner, tmp_path) == at(2)


async def test_a_node_whose_artifact_is_pruned_while_it_fetches_takes_the_next_one(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await artifact_of(tmp_path / "1", at(1))
    await artifact_of(tmp_path / "2", at(2))
    node, other = ObjectStoreTransport(objects), ObjectStoreTransport(objects)
    await other.publish(tmp_path / "1")
    chunks, overtaken = node._objects.chunks, list[int]()

    async def pruned_before(name: str) -> Any:
        if not overtaken:
            await other.publish(tmp_path / "2")
            with pytest.MonkeyPatch.context() as patch:
                aged(other, DAY, patch)
                overtaken.append(await other.prune())
        async for chunk in chunks(name):
            yield chunk

    monkeypatch.setattr(node._objects, "chunks", pruned_before)
    assert await fetched(node, tmp_path) == at(2)
    assert overtaken == [2]


async def test_a_pruning_that_would_be_too_quick_is_refused() -> None:
    transport = ObjectStoreTransport(MemoryObjects(), publish_timeout=timedelta(minutes=5))
    with pytest.raises(ValueError, match="min_age is at least publish_timeout"):
        await transport.prune(min_age=299)
    assert await transport.prune(min_age=300) == 0
    for timeout in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="publish_timeout"):
            ObjectStoreTransport(MemoryObjects(), publish_timeout=timeout)


# Trouble.


async def test_a_publication_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = ObjectStoreTransport(MemoryObjects(), publish_timeout=0.05)
    await artifact_of(tmp_path / "artifact", at(1))

    async def never(name: str, content: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(transport._objects, "write", never)
    with pytest.raises(OperationTimeoutError, match=r"publishing took longer than 0\.05 s"):
        async with bounded():
            await transport.publish(tmp_path / "artifact")
    assert await transport.latest() is None


@pytest.mark.parametrize("turns", [*range(0, 40, 4), 60, 100])
async def test_a_cancelled_publish_or_fetch_leaves_all_or_nothing(
    objects: ObjectStore, tmp_path: Path, turns: int
) -> None:
    await artifact_of(tmp_path / "1", at(1))
    await artifact_of(tmp_path / "2", at(2))
    transport = ObjectStoreTransport(objects)
    await transport.publish(tmp_path / "1")
    await cancelled_after(turns, transport.publish(tmp_path / "2"))
    assert await fetched(transport, tmp_path) in (at(1), at(2))
    task = await cancelled_after(turns, transport.fetch_latest(tmp_path / "fetched"))
    assert (tmp_path / "fetched").exists() or task.cancelled()
    assert leftovers(tmp_path) == []


async def test_an_object_store_that_dies_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    await artifact_of(tmp_path / "artifact", at(4), values={f"k.{n}": random.randbytes(8_000_000) for n in range(4)})
    with s3_server(tmp_path) as server:
        server.make_bucket("artifacts")
        transport = ObjectStoreTransport(server.store("artifacts"))
        publishing = asyncio.create_task(transport.publish(tmp_path / "artifact"))
        await server.logged("partNumber=1&")
        server.kill()
        with pytest.raises(ArtifactError, match=r"object payloads/.*: the object store failed") as caught:
            async with asyncio.timeout(40):
                await publishing
    assert SECRET not in repr(caught.value)
    with pytest.raises(ArtifactError, match=r"object latest\.json: the object store failed"):
        await transport.fetch_latest(tmp_path / "fetched")
    assert leftovers(tmp_path) == []


async def test_an_upload_that_is_cut_leaves_the_pointer_and_can_be_repeated(
    s3: S3Server, tmp_path: Path, fault_proxy: MakeProxy
) -> None:
    s3.make_bucket("cut")
    direct = ObjectStoreTransport(s3.store("cut"))
    await artifact_of(tmp_path / "old", at(1))
    await direct.publish(tmp_path / "old")
    values = {f"k.{number}": random.randbytes(8_000_000) for number in range(4)}
    await artifact_of(tmp_path / "new", at(4), values=values)
    proxy = await fault_proxy("127.0.0.1", s3.port)
    cut = ObjectStoreTransport(s3.store("cut", port=proxy.port))
    publishing = asyncio.create_task(cut.publish(tmp_path / "new"))
    await s3.logged("partNumber=1&")
    proxy.refuse()
    proxy.drop()
    with pytest.raises(ArtifactError, match="the object store failed"):
        async with asyncio.timeout(40):
            await publishing
    assert await fetched(direct, tmp_path) == at(1)
    await proxy.heal()
    assert (await cut.publish(tmp_path / "new")).moved
    await direct.fetch_latest(tmp_path / "again")
    await import_artifact(tmp_path / "again", tmp_path / "node2", kind=AppendLogSnapshot, bucket=BUCKET)
    assert await opened(AppendLogSnapshot, tmp_path / "node2") == (values, at(4))


async def test_what_an_object_store_says_is_told_without_what_it_keeps_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = ObjectStoreTransport(MemoryObjects())

    async def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("PUT https://account.blob.example/c/latest.json?sv=1&sig=s3cret refused")

    monkeypatch.setattr("obstore.get_async", refuse)
    with pytest.raises(ArtifactError, match=r"latest\.json\?\.\.\. refused") as caught:
        await transport.latest()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_it_is_there_by_its_name() -> None:
    assert slipstream.ObjectStoreTransport is ObjectStoreTransport
