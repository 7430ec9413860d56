"""One exporter a round, and a node that starts from what it has published."""

from __future__ import annotations

import asyncio
import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Protocol

from slipstream.replica.artifacts.exporting import export_artifact, staged
from slipstream.replica.artifacts.importing import import_artifact
from slipstream.replica.artifacts.manifest import Manifest
from slipstream.replica.artifacts.pointer import Move, Pointer, decide
from slipstream.replica.artifacts.staging import absolute
from slipstream.replica.artifacts.transport import ObjectStoreTransport, Publication
from slipstream.replica.replica import Replica
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore


class RoundLease(Protocol):
    """What decides who exports: `slipstream.Lease` is one.

    As a block it is released at the end, and the block is cancelled when the lease is lost.
    """

    @abstractmethod
    async def try_acquire(self) -> Any | None:
        """Anything but None if it is held now; None if somebody else has it. Never waits for that."""

    @abstractmethod
    async def __aenter__(self) -> Any: ...

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


async def export_round(
    replica: Replica,
    transport: ObjectStoreTransport,
    lease: RoundLease,
    *,
    interval: float | timedelta = 3600.0,
    kind: type[SnapshotStore] | None = None,
    workspace: str | os.PathLike[str] | None = None,
) -> Publication | None:
    """Export, publish and prune, if it is this process's turn; None where there was nothing to do.

    Every node calls it, about as often as an artifact is wanted: whoever gets the lease exports, the others do nothing.
    Nor does one that gets it when the round is over: the pointer was moved within the last `interval`, or is as
    new as the replica. The lease saves work; what is right does not hang on it: an exporter that has lost its lease
    without knowing cannot move the pointer back.

    Args:
        replica: one that is ready.
        lease: not held and not used by anybody else, as `Lease(store, "nodes.export")` of each node.
        interval: seconds or `timedelta`. Told by the clocks of the exporters: where they differ, a round comes earlier
            or later by that.
        kind: as in `export_artifact`.
        workspace: a folder for the artifact until it is published; None: the system's for temporary files.
    Raises: FencedError when the lease is lost meanwhile; ArtifactError, SnapshotError, OperationTimeoutError; what
        the lease raises.
    """
    if await lease.try_acquire() is None:
        return None
    async with lease:
        seconds = interval.total_seconds() if isinstance(interval, timedelta) else float(interval)
        if not _is_due(await transport.latest(), replica, seconds):
            return None
        place = absolute(tempfile.gettempdir() if workspace is None else workspace)
        async with staged(place / f"slipstream-{replica.bucket}") as (staging, _):
            artifact = staging.path / "artifact"
            await export_artifact(replica, artifact, kind=kind)
            publication = await transport.publish(artifact)
        await transport.prune()
        return publication


async def bootstrap(
    transport: ObjectStoreTransport,
    folder: str | os.PathLike[str],
    *,
    kind: type[SnapshotStore],
    bucket: str,
    prefix: str | Iterable[str] | WatchScope = "",
    timeout: float = 3600.0,
) -> Manifest | None:
    """Fetch and import the latest artifact into an empty folder; None if it is not empty, or nothing was published.

    Called before `kind.open(folder)` at every start: a node with an empty disk begins with the artifact and takes the
    delta, one that has been there goes on from its own snapshot. As for killed and cancelled: see `import_artifact`.

    Args:
        folder: where the snapshot is, or is to be; the download goes to a folder beside it.
        timeout: seconds for the download.
    Raises: as `fetch_latest` and `import_artifact`: a node may well go on without, and read the bucket.
    """
    target = absolute(folder)
    if await asyncio.to_thread(lambda: target.exists() and any(target.iterdir())):
        return None
    async with staged(target.with_name(f"{target.name}.fetched")) as (staging, _):
        artifact = staging.path / "artifact"
        if await transport.fetch_latest(artifact, timeout=timeout) is None:
            return None
        return await import_artifact(artifact, target, kind=kind, bucket=bucket, prefix=prefix)


def _is_due(pointer: Pointer | None, replica: Replica, seconds: float) -> bool:
    cursor = replica.cursor
    if pointer is None or cursor.incarnation is None:
        return True
    if decide(pointer.cursor, cursor) is Move.STAY:
        return False
    if pointer.cursor.incarnation != cursor.incarnation:
        return True  # what is published is of no use to anybody
    return datetime.now(UTC) - pointer.published >= timedelta(seconds=seconds)
