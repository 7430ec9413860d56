"""Makes an artifact of a fold."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import overload

from slipstream.errors import ArtifactError, SnapshotError
from slipstream.replica.append_log import AppendLogSnapshot
from slipstream.replica.artifacts.copying import copy_fold
from slipstream.replica.artifacts.files import measured
from slipstream.replica.artifacts.manifest import MANIFEST, Manifest, new_manifest
from slipstream.replica.artifacts.staging import Staging, absolute, file_errors
from slipstream.replica.memory import MemorySnapshot
from slipstream.replica.replica import Replica
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore
from slipstream.replica.worker import Worker


@overload
async def export_artifact(
    source: Replica, folder: str | os.PathLike[str], *, kind: type[SnapshotStore] | None = None
) -> Manifest: ...


@overload
async def export_artifact(
    source: SnapshotStore,
    folder: str | os.PathLike[str],
    *,
    bucket: str,
    prefix: str | Iterable[str] | WatchScope = "",
    kind: type[SnapshotStore] | None = None,
) -> Manifest: ...


async def export_artifact(
    source: Replica | SnapshotStore,
    folder: str | os.PathLike[str],
    *,
    bucket: str = "",
    prefix: str | Iterable[str] | WatchScope = "",
    kind: type[SnapshotStore] | None = None,
) -> Manifest:
    """Write what the source holds, with its cursor, into a new folder; what the manifest beside it says.

    A `Replica` goes on following meanwhile: the artifact is the fold and the cursor of one moment of the export. The
    folder is there, whole and durable, when this returns; killed, cancelled or failed before that, there is none.

    Args:
        source: a replica that is `ready`, or an open snapshot that nobody writes to meanwhile.
        folder: made; nothing is overwritten.
        bucket, prefix: of a bare snapshot, which does not know whose it is; a replica does.
        kind: which snapshot store is to open it; None: as the source's, `AppendLogSnapshot` for one in memory.
    Raises: ArtifactError if something is in the folder, if the disk refuses, if the source cannot be read or has
        nothing to go on from (it was never ready), or if somebody writes to a bare snapshot.
    Cost: reads the whole fold once, some hundred entries at a time, and writes it once.
    """
    if isinstance(source, Replica):
        bucket, scope, held = source.bucket, source.scope, source.snapshot_kind
    else:
        scope, held = WatchScope.of(prefix), type(source)
    if kind is None:
        kind = AppendLogSnapshot if issubclass(held, MemorySnapshot) else held
    async with staged(absolute(folder)) as (staging, worker):
        try:
            target, _ = await kind.open(staging.path)
            async with target:
                await copy_fold(source, target)
                cursor, keys = target.cursor, len(target)
        except SnapshotError as error:
            raise ArtifactError(store=bucket, message=f"the fold cannot be copied: {error.message}") from error
        with file_errors(f"{folder} cannot be written"):
            files = await measured(worker, staging.path)
            manifest = new_manifest(
                backend=kind.__name__, bucket=bucket, scope=scope, cursor=cursor, keys=keys, files=files
            )
            await worker.run(lambda: _finish(staging, manifest))
    return manifest


@asynccontextmanager
async def staged(target: Path) -> AsyncIterator[tuple[Staging, Worker]]:
    """A folder that takes the target's name when it is published, and a thread to fill it in.

    Raises: ArtifactError.
    """
    worker = Worker("slipstream-artifact")
    staging: list[Staging] = []
    try:
        with file_errors(f"{target} cannot be made"):
            # Cancelled, it is kept all the same, and removed below.
            await worker.run(lambda: Staging(target), then=staging.append)
        yield staging[0], worker
    finally:
        try:
            for made in staging:
                await worker.run(made.close)
        finally:
            worker.close()


def _finish(staging: Staging, manifest: Manifest) -> None:
    (staging.path / "lock").unlink(missing_ok=True)  # of the snapshot that was open
    (staging.path / MANIFEST).write_bytes(manifest.pack())
    staging.publish()
