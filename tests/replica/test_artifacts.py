"""Artifacts: exported from a replica that goes on, imported whole or not at all, and compared byte by byte."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipstream.errors import ArtifactError
from slipstream.interfaces import Connection, KvStore
from slipstream.model import KvEntry, StoreConfig, WatchCursor
from slipstream.replica import (
    AppendLogSnapshot,
    BatchConfig,
    Manifest,
    MemorySnapshot,
    Replica,
    SnapshotStore,
    SqliteSnapshot,
    WatchScope,
    export_artifact,
    import_artifact,
)
from slipstream.replica.artifacts.manifest import MANIFEST, ArtifactFile, digest_of, new_manifest
from slipstream.replica.artifacts.staging import Staging
from slipstream.testing._waiting import bounded, cancelled_after
from tests.replica.artifacts import (
    BUCKET,
    artifact_of,
    at,
    flipped,
    leftovers,
    names_in,
    on_each_disk,
    opened,
    put,
    snapshot_of,
    until,
)
from tests.replica.following import values_in

KEYS = [f"k.{number:04}" for number in range(2500)]


# A replica that goes on.


@on_each_disk
async def test_an_artifact_holds_what_the_replica_holds(
    store: KvStore, kind: type[SnapshotStore], tmp_path: Path
) -> None:
    await store.put_many({"k.1": b"1", "k.2": b"2", "k.gone": b"3", "other": b"4"})
    await store.delete("k.gone")
    snapshot, _ = await kind.open(tmp_path / "source")
    async with bounded(), snapshot, Replica(store, "k.", snapshot=snapshot) as replica:
        await replica.ready()
        manifest = await export_artifact(replica, tmp_path / "artifact")
        assert manifest.cursor == replica.cursor
    assert (manifest.backend, manifest.bucket, manifest.prefixes) == (kind.__name__, store.name, ("k.",))
    assert manifest.incarnation == (await store.status()).incarnation
    assert manifest.keys == 2
    assert manifest.size_bytes == sum((tmp_path / "artifact" / file.name).stat().st_size for file in manifest.files) > 0
    taken = await import_artifact(
        tmp_path / "artifact", tmp_path / "node", kind=kind, bucket=store.name, prefix=["k.", "k.a"]
    )
    assert taken == manifest
    assert await opened(kind, tmp_path / "node") == ({"k.1": b"1", "k.2": b"2"}, manifest.cursor)
    assert leftovers(tmp_path) == []


class Eager(MemorySnapshot):
    """Its range is of the moment in which it was asked for, however long that takes: the contract allows it."""

    def range(self, prefix: str = "") -> Iterator[KvEntry]:
        return iter(list(super().range(prefix)))


@pytest.mark.parametrize("kind", [MemorySnapshot, Eager, SqliteSnapshot], ids=lambda kind: kind.__name__)
async def test_the_fold_and_the_cursor_are_of_one_moment_though_writers_go_on(
    connection: Connection, store: KvStore, kind: type[SnapshotStore], tmp_path: Path
) -> None:
    """One writer and a bucket that skips nothing, so that what there was at every revision is known."""
    await connection.delete_store(store.name)
    store = await connection.store(StoreConfig(name=store.name, max_history=64))
    written: list[tuple[str, bytes | None]] = [(key, b"0") for key in KEYS]
    await store.put_many(dict.fromkeys(KEYS, b"0"))
    going = True

    async def write() -> None:
        dice = random.Random(3)
        while going:
            key = dice.choice(KEYS) if dice.random() < 0.9 else f"k.new.{dice.randrange(50)}"
            if dice.random() < 0.3:
                written.append((key, None))
                await store.delete(key)
            else:
                written.append((key, b"%d" % len(written)))
                await store.put(key, written[-1][1] or b"")
            # In memory it would be quicker than any follower, and the 64 values that are kept of a key not enough.
            await asyncio.sleep(0.001)

    snapshot, _ = await kind.open(tmp_path / "source")
    quick = BatchConfig(max_items=20, window=0.001)
    async with (
        asyncio.timeout(60),
        snapshot,
        Replica(store, snapshot=snapshot, batch=quick, audit_interval=None) as replica,
    ):
        await replica.ready()
        writing = asyncio.create_task(write())
        moved = number = 0
        while moved < 3:  # exports that were too quick for anything to be applied meanwhile show nothing
            number += 1
            begun = replica.cursor
            manifest = await export_artifact(replica, tmp_path / f"{number}", kind=AppendLogSnapshot)
            moved += manifest.cursor > begun
            expected: dict[str, bytes] = {}
            going = False
            await writing
            history = await revisions(store, written)
            for key, value in history[: manifest.cursor.revision]:
                if value is None:
                    expected.pop(key, None)
                else:
                    expected[key] = value
            assert await opened(AppendLogSnapshot, tmp_path / f"{number}") == (expected, manifest.cursor)
            going = True
            writing = asyncio.create_task(write())
        going = False
        await writing


async def revisions(store: KvStore, written: list[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """What was written by revision; the last write of every key is compared with the bucket."""
    assert (await store.status()).last_revision == len(written)
    last = dict(written)
    assert {key: value for key, value in last.items() if value is not None} == await values_in(store)
    return written


async def test_following_goes_on_while_an_export_waits_for_the_disk(store: KvStore, tmp_path: Path) -> None:
    await store.put_many(dict.fromkeys(KEYS, b"0"))

    class Stuck(AppendLogSnapshot):
        entered = asyncio.Event()
        free = asyncio.Event()

        async def apply(self, batch: Any, cursor: WatchCursor) -> None:
            self.entered.set()
            await self.free.wait()
            await super().apply(batch, cursor)

    async with bounded(), Replica(store) as replica:
        await replica.ready()
        exporting = asyncio.create_task(export_artifact(replica, tmp_path / "artifact", kind=Stuck))
        await Stuck.entered.wait()
        await replica.wait_for(await store.put("k.0000", b"1"))
        Stuck.free.set()
        await exporting


async def test_a_bucket_made_again_during_an_export(connection: Connection, store: KvStore, tmp_path: Path) -> None:
    """The fold is emptied and filled anew between two steps."""
    await store.put_many(dict.fromkeys(KEYS, b"0"))

    async with bounded(), Replica(store, audit_interval=None) as replica:
        await replica.ready()
        rebuilt = asyncio.Event()
        replica.on_change(lambda batch: rebuilt.set() if any(update.key == "again" for update in batch) else None)
        pages = 0
        paused = replica.paused

        def counted() -> Any:
            nonlocal pages
            pages += 1
            return paused()

        replica.paused = counted  # type: ignore[method-assign]
        exporting = asyncio.create_task(export_artifact(replica, tmp_path / "artifact"))
        await until(lambda: pages >= 2)
        await connection.delete_store(store.name)
        again = await connection.store(store.name)
        await again.put_many({"again": b"1", KEYS[0]: b"1"})
        manifest = await exporting
        await rebuilt.wait()
        held, cursor = await opened(AppendLogSnapshot, tmp_path / "artifact")
        incarnation = (await again.status()).incarnation
        if cursor.incarnation == incarnation:
            assert held.items() <= {"again": b"1", KEYS[0]: b"1"}.items()
        else:
            assert held == dict.fromkeys(KEYS, b"0")
        assert manifest.cursor == cursor


# A snapshot alone.


async def test_a_bare_snapshot_is_exported_with_what_it_is_of(tmp_path: Path) -> None:
    manifest = await artifact_of(tmp_path / "artifact", at(7), values={"a": b"1", "b": b"2"}, prefix="")
    assert (manifest.bucket, manifest.cursor, manifest.keys) == (BUCKET, at(7), 2)
    await import_artifact(tmp_path / "artifact", tmp_path / "node", kind=AppendLogSnapshot, bucket=BUCKET)
    assert await opened(AppendLogSnapshot, tmp_path / "node") == ({"a": b"1", "b": b"2"}, at(7))


class Begun(MemorySnapshot):
    """Says when somebody begins to read all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    def range(self, prefix: str = "") -> Iterator[KvEntry]:
        self.begun.set()
        return super().range(prefix)


async def test_a_bare_snapshot_that_is_written_to_is_refused(tmp_path: Path) -> None:
    async with await snapshot_of(Begun, tmp_path, dict.fromkeys(KEYS, b"1"), at(5000)) as snapshot:
        exporting = asyncio.create_task(
            export_artifact(snapshot, tmp_path / "artifact", bucket=BUCKET, kind=SqliteSnapshot)
        )
        await snapshot.begun.wait()
        await snapshot.apply([put("new", b"1", 5001)], at(5001))
        with pytest.raises(ArtifactError, match="export the Replica"):
            await exporting
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("cursor", [WatchCursor.none(), WatchCursor.from_u64(5)], ids=["none", "no incarnation"])
async def test_what_nobody_could_go_on_from_is_not_exported(tmp_path: Path, cursor: WatchCursor) -> None:
    async with await snapshot_of(MemorySnapshot, tmp_path, {"a": b"1"}, cursor) as snapshot:
        with pytest.raises(ArtifactError, match="ready"):
            await export_artifact(snapshot, tmp_path / "artifact", bucket=BUCKET)
    assert names_in(tmp_path) == []


async def test_a_closed_snapshot_is_an_artifact_error(tmp_path: Path) -> None:
    snapshot = await snapshot_of(MemorySnapshot, tmp_path, {"a": b"1"}, at(1))
    await snapshot.close()
    with pytest.raises(ArtifactError, match="closed"):
        await export_artifact(snapshot, tmp_path / "artifact", bucket=BUCKET)
    assert names_in(tmp_path) == []


# What is there already, and what does not fit.


async def test_nothing_is_overwritten(tmp_path: Path) -> None:
    await artifact_of(tmp_path / "artifact", at(1))
    with pytest.raises(ArtifactError, match="is there already"):
        await artifact_of(tmp_path / "artifact", at(2))
    await import_artifact(tmp_path / "artifact", tmp_path / "node", kind=AppendLogSnapshot, bucket=BUCKET)
    with pytest.raises(ArtifactError, match="is there already"):
        await import_artifact(tmp_path / "artifact", tmp_path / "node", kind=AppendLogSnapshot, bucket=BUCKET)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="is there already"):
        await import_artifact(tmp_path / "artifact", tmp_path / "file", kind=AppendLogSnapshot, bucket=BUCKET)
    assert (tmp_path / "file").read_text() == "mine"
    assert (await opened(AppendLogSnapshot, tmp_path / "node"))[1] == at(1)


async def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    await artifact_of(tmp_path / "artifact", at(1))
    (tmp_path / "node").mkdir()
    await import_artifact(tmp_path / "artifact", tmp_path / "node", kind=AppendLogSnapshot, bucket=BUCKET)
    assert (await opened(AppendLogSnapshot, tmp_path / "node"))[1] == at(1)


async def test_two_that_fill_one_folder(tmp_path: Path) -> None:
    await artifact_of(tmp_path / "artifact", at(1))
    outcomes = await asyncio.gather(
        *(
            import_artifact(tmp_path / "artifact", tmp_path / "node", kind=AppendLogSnapshot, bucket=BUCKET)
            for _ in range(4)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, Manifest) for outcome in outcomes) == 1
    assert all(isinstance(outcome, (Manifest, ArtifactError)) for outcome in outcomes)
    assert (await opened(AppendLogSnapshot, tmp_path / "node"))[1] == at(1)
    assert leftovers(tmp_path) == []


async def test_another_bucket_prefix_or_backend_says_what_to_do(tmp_path: Path) -> None:
    await artifact_of(tmp_path / "artifact", at(1), prefix="node.")

    async def refused(match: str, **options: Any) -> None:
        wanted = {"kind": AppendLogSnapshot, "bucket": BUCKET, "prefix": "node.", **options}
        with pytest.raises(ArtifactError, match=match):
            await import_artifact(tmp_path / "artifact", tmp_path / "node", **wanted)
        assert not (tmp_path / "node").exists()

    await refused("of the bucket 'config': take one of this bucket", bucket="other")
    await refused("prefixes 'node.', wanted are '': ask for the former", prefix="")
    await refused("wanted are 'a', 'b'", prefix=["b", "a"])
    await refused("made by AppendLogSnapshot.*export with kind=SqliteSnapshot", kind=SqliteSnapshot)


async def test_another_schema_says_what_to_do(tmp_path: Path) -> None:
    await artifact_of(tmp_path / "artifact", at(1))
    path = tmp_path / "artifact" / MANIFEST
    body = {**json.loads(path.read_bytes()), "schema_version": 2, "added_later": True}
    path.write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match=r"manifest\.json has schema 2, this release reads 1: take the release"):
        await import_artifact(tmp_path / "artifact", tmp_path / "node", kind=AppendLogSnapshot, bucket=BUCKET)


async def test_a_folder_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no artifact"):
        await import_artifact(tmp_path / "none", tmp_path / "node", kind=AppendLogSnapshot, bucket=BUCKET)
    (tmp_path / "file").write_text("a file")
    await artifact_of(tmp_path / "artifact", at(1))
    with pytest.raises(ArtifactError, match="cannot be made"):
        await import_artifact(tmp_path / "artifact", tmp_path / "file" / "in", kind=AppendLogSnapshot, bucket=BUCKET)


# Damage.


async def refused_at_import(tmp_path: Path, kind: type[SnapshotStore]) -> str:
    with pytest.raises(ArtifactError) as caught:
        await import_artifact(tmp_path / "artifact", tmp_path / "node", kind=kind, bucket=BUCKET)
    assert not (tmp_path / "node").exists()
    assert leftovers(tmp_path) == []
    return str(caught.value)


@on_each_disk
async def test_every_damaged_file_is_found_and_named(kind: type[SnapshotStore], tmp_path: Path) -> None:
    values = {f"k.{number}": b"%d" % number * 20 for number in range(60)}
    manifest = await artifact_of(tmp_path / "artifact", at(60), kind=kind, values=values)
    dice = random.Random(7)
    names = [MANIFEST, *(file.name for file in manifest.files)]
    assert len(names) >= 2
    for name in names:
        path = tmp_path / "artifact" / name
        content = path.read_bytes()
        places = dice.sample(range(len(content)), min(len(content), 12))
        spoilt = [flipped(content, place, dice.randrange(8)) for place in places]
        spoilt += [content[:length] for length in sorted({0, *places}) if length < len(content)]
        spoilt += [content + b"\0"]
        for bad in spoilt:
            path.write_bytes(bad)
            said = await refused_at_import(tmp_path, kind)
            assert name in said
            assert ("bytes, the manifest says" in said) == (name != MANIFEST and len(bad) != len(content))
        path.unlink()
        assert name in await refused_at_import(tmp_path, kind)
        path.write_bytes(content)
    await import_artifact(tmp_path / "artifact", tmp_path / "node", kind=kind, bucket=BUCKET)
    assert await opened(kind, tmp_path / "node") == (values, at(60))


async def test_every_bit_of_a_manifest_counts(tmp_path: Path) -> None:
    manifest = await artifact_of(tmp_path / "artifact", at(1))
    raw = manifest.pack()
    assert Manifest.unpack(raw) == manifest
    for place in range(len(raw)):
        for bit in range(8):
            with pytest.raises(ArtifactError, match=r"manifest\.json"):
                Manifest.unpack(flipped(raw, place, bit))
    for length in range(len(raw)):
        with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
            Manifest.unpack(raw[:length])


async def test_files_that_are_consistent_and_of_another_cursor_are_found_by_opening_them(tmp_path: Path) -> None:
    """A manifest that was made by hand: its digests are right, and it promises more than there is."""
    true = await artifact_of(tmp_path / "artifact", at(1))
    for promise in (true.model_copy(update={"cursor": at(2)}), true.model_copy(update={"keys": 5})):
        (tmp_path / "artifact" / MANIFEST).write_bytes(promise.pack())
        assert "its files hold 1 keys at cursor" in await refused_at_import(tmp_path, AppendLogSnapshot)
    log = tmp_path / "artifact" / "fold.log"
    log.write_bytes(b"no log at all")
    file = ArtifactFile(name="fold.log", size=13, blake3=digest_of(b"no log at all"))
    (tmp_path / "artifact" / MANIFEST).write_bytes(true.model_copy(update={"files": (file,)}).pack())
    assert "AppendLogSnapshot does not open its files" in await refused_at_import(tmp_path, AppendLogSnapshot)


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", "a//b", "./a", ".", "", "a\0b", MANIFEST])
def test_a_file_of_an_artifact_lies_inside_of_it(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a file"):
        ArtifactFile(name=name, size=0, blake3="0" * 64)


def test_a_manifest_has_a_bucket() -> None:
    with pytest.raises(ArtifactError, match="no manifest"):
        new_manifest(backend="A", bucket="a.b", scope=WatchScope.everything(), cursor=at(1), keys=0, files=[])


# Cancelled, and what was left behind.


@pytest.mark.parametrize("turns", [*range(0, 40, 3), 60, 100, 200, 400, 1000])
async def test_a_cancelled_export_or_import_leaves_all_or_nothing(tmp_path: Path, turns: int) -> None:
    values = dict.fromkeys(KEYS[:1200], b"1")
    async with await snapshot_of(MemorySnapshot, tmp_path, values, at(1200)) as snapshot:
        task = await cancelled_after(turns, export_artifact(snapshot, tmp_path / "artifact", bucket=BUCKET))
        assert (tmp_path / "artifact").exists() or task.cancelled()
        assert leftovers(tmp_path) == []
        if not (tmp_path / "artifact").exists():
            await export_artifact(snapshot, tmp_path / "artifact", bucket=BUCKET)
    wanted = {"kind": AppendLogSnapshot, "bucket": BUCKET}
    again = await cancelled_after(turns, import_artifact(tmp_path / "artifact", tmp_path / "node", **wanted))  # type: ignore[arg-type]
    assert (tmp_path / "node").exists() or again.cancelled()
    assert leftovers(tmp_path) == []
    if not (tmp_path / "node").exists():
        await import_artifact(tmp_path / "artifact", tmp_path / "node", kind=AppendLogSnapshot, bucket=BUCKET)
    assert await opened(AppendLogSnapshot, tmp_path / "node") == (values, at(1200))


def test_what_a_dead_one_has_left_is_removed_and_what_a_living_one_does_is_not(tmp_path: Path) -> None:
    living = Staging(tmp_path / "node")
    (living.path / "half").write_text("half")
    dead = living.path.with_name(".node.dead.partial")
    shutil.copytree(living.path, dead)
    other = Staging(tmp_path / "node")
    assert living.path.exists()
    assert not dead.exists()
    other.close()
    living.publish()
    living.close()
    assert (tmp_path / "node" / "half").read_text() == "half"
    assert leftovers(tmp_path) == []
