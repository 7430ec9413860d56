"""Makes a snapshot of an artifact."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from slipstream.errors import ArtifactError, SnapshotError
from slipstream.replica.artifacts.exporting import staged
from slipstream.replica.artifacts.files import copy_verified, read_manifest
from slipstream.replica.artifacts.manifest import Manifest
from slipstream.replica.artifacts.staging import absolute, file_errors
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore


async def import_artifact(
    artifact: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    kind: type[SnapshotStore],
    bucket: str,
    prefix: str | Iterable[str] | WatchScope = "",
) -> Manifest:
    """Put a copy of the artifact's fold where `kind.open(folder)` finds it; what its manifest says.

    Every file is compared with the manifest, and the copy is opened once and compared again, before the folder gets
    its name: it is there, whole and durable, when this returns. Killed, cancelled or failed before, there is none.

    Args:
        artifact: the folder that `export_artifact` made; it is only read.
        folder: made; nothing is overwritten.
        kind: the snapshot store that is to open it: the one that the artifact was exported for.
        bucket, prefix: what the replica will follow.
    Raises: ArtifactError, which names the file and the reason where the artifact is damaged or not whole, and says
        what to do where it is of another schema, backend, bucket or prefix; if something is in the folder; if the
        disk refuses.
    """
    source, target = absolute(artifact), absolute(folder)
    async with staged(target) as (staging, worker):
        manifest = await read_manifest(worker, source)
        manifest.check_fits(backend=kind.__name__, bucket=bucket, scope=WatchScope.of(prefix))
        await copy_verified(worker, source, staging.path, manifest.files)
        await _check_opens(kind, staging.path, manifest, where=source)
        with file_errors(f"{target} cannot be written"):
            await worker.run(staging.publish)
    return manifest


async def _check_opens(kind: type[SnapshotStore], folder: Path, manifest: Manifest, *, where: Path) -> None:
    """Raises: ArtifactError unless the copy opens with what the manifest says of it."""
    try:
        snapshot, cursor = await kind.open(folder)
        async with snapshot:
            keys = len(snapshot)
    except SnapshotError as error:
        raise ArtifactError(message=f"{where}: {kind.__name__} does not open its files: {error.message}") from error
    if (cursor, keys) != (manifest.cursor, manifest.keys):
        raise ArtifactError(
            message=f"{where}: its files hold {keys} keys at cursor {cursor}, the manifest says {manifest.keys} at "
            f"{manifest.cursor}: export it again"
        )
