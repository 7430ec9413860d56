"""Publishes artifacts in an object store: payloads first, then the pointer that names them.

    <prefix>/latest.json                        the pointer: the only object that is ever overwritten
    <prefix>/payloads/<publication>/<blake3>    a file of an artifact, or its manifest, named by its content

Every publication has a folder of its own. Were a payload shared by two, one that is old and that nobody names could
be pruned in the moment in which the next publication counts on it: no object store deletes on a condition.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from blake3 import blake3

from slipstream.errors import ArtifactError, OperationTimeoutError
from slipstream.replica.artifacts.exporting import staged
from slipstream.replica.artifacts.files import check_same, read_manifest, verify
from slipstream.replica.artifacts.manifest import MANIFEST, ArtifactFile, Manifest, digest_of
from slipstream.replica.artifacts.objects import Objects, Stored
from slipstream.replica.artifacts.pointer import Move, Pointer, decide
from slipstream.replica.artifacts.staging import Staging, absolute, file_errors
from slipstream.replica.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from obstore.store import ObjectStore

_log = logging.getLogger(__name__)

LATEST = "latest.json"
_PAYLOADS = "payloads"
_CLOCK = "clock"
_ATTEMPTS = 16
"""Each one that fails means that another exporter has moved the pointer forward."""
_FETCH_ATTEMPTS = 3
"""Each one that fails means that the pointer has moved on, and what it had named was pruned meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What became of a `publish`.

    Attributes:
        moved: the pointer now names this artifact; False where it names one that is as new or newer.
        pointer: as it is.
    """

    moved: bool
    pointer: Pointer


class ObjectStoreTransport:
    """Carries artifacts of one bucket and scope through S3, GCS, Azure, or whatever obstore has a store for.

    The pointer moves forward only, by conditional put: of two exporters that race one wins, and the other is told.
    What a node fetches is compared with the digests, from the pointer on.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str = "",
        *,
        allow_local: bool = False,
        publish_timeout: float | timedelta = 3600.0,
    ) -> None:
        """A transport; no I/O.

        Args:
            store: of `obstore.store`, with its credentials, timeouts and retries.
            prefix: of the names of all objects; one for each bucket and scope.
            allow_local: take a `LocalStore`, too. A folder has no conditional put: two exporters at once may move the
                pointer back. For tests, and where there is one exporter.
            publish_timeout: seconds or `timedelta`: what a `publish` may take in all. `prune` removes nothing that is
                younger than twice that, so all exporters and pruners of a prefix have the same.
        Raises: ArtifactError for a folder that is not allowed; ValueError for a timeout that is not above 0.
        """
        self._objects = Objects(store, prefix)
        if not (allow_local or self._objects.has_conditional_put):
            raise ArtifactError(
                message="a local folder has no conditional put, so two exporters could move the pointer back: use an "
                "object store, or say allow_local=True where there is one exporter"
            )
        self._publish_seconds = _seconds(publish_timeout)
        if not self._publish_seconds > 0:
            raise ValueError(f"publish_timeout is above 0 seconds, not {publish_timeout}")

    async def latest(self, *, timeout: float = 60.0) -> Pointer | None:
        """What the pointer says now, None where nothing was published.

        Raises: ArtifactError if it cannot be read or is none; OperationTimeoutError.
        """
        async with _within(timeout, "reading the pointer"):
            return self._pointer_of(await self._objects.read(LATEST))

    async def publish(self, artifact: str | os.PathLike[str]) -> Publication:
        """Upload an artifact and move the pointer to it, if that is forward; else say where the pointer is.

        The files are compared with the manifest first. They are in the object store, whole, before the pointer names
        them: failed, cancelled or killed before that, the pointer is what it was, and `prune` removes what was
        uploaded. Failed or cancelled while the pointer is moved, it may have moved; `latest` tells.

        Raises: ArtifactError if the artifact is damaged, if the pointer is one of another bucket, scope or backend,
            or if the object store fails; OperationTimeoutError after `publish_timeout`.
        """
        folder = absolute(artifact)
        async with _within(self._publish_seconds, "publishing"), _thread() as worker:
            manifest = await read_manifest(worker, folder)
            await verify(worker, folder, manifest.files)
            known = await self._objects.read(LATEST)
            pointer = self._pointer_of(known)
            if pointer is not None and self._decide(pointer, manifest) is Move.STAY:
                return Publication(moved=False, pointer=pointer)  # so that nothing is uploaded for nothing
            return await self._move(known, await self._upload(folder, manifest), manifest)

    async def fetch_latest(self, folder: str | os.PathLike[str], *, timeout: float = 3600.0) -> Manifest | None:
        """Download what the pointer names into a new folder, as `export_artifact` made it; None without a pointer.

        Every file is compared with the manifest, and that with the pointer. The folder is there, whole and durable,
        when this returns; killed, cancelled or failed before, there is none.

        Raises: ArtifactError, which names the object and the reason; if something is in the folder; if the disk
            refuses; OperationTimeoutError.
        """
        target = absolute(folder)
        async with _within(timeout, "fetching"), staged(target) as (staging, worker):
            missing = ""
            for _ in range(_FETCH_ATTEMPTS):
                pointer = self._pointer_of(await self._objects.read(LATEST))
                if pointer is None:
                    return None
                try:
                    return await self._download(pointer, staging, worker)
                except KeyError as error:
                    missing = error.args[0]
            raise ArtifactError(
                message=f"object {self._objects.path(missing)} is missing, though the pointer names it: publish again"
            )

    async def prune(self, *, min_age: float | timedelta | None = None, timeout: float = 600.0) -> int:
        """Remove payloads that the pointer does not name; how many objects.

        What the pointer names stays, and so does what is younger than `min_age`: an exporter may have uploaded it and
        be about to move the pointer. A node that is fetching what the pointer named before fetches again.

        Args:
            min_age: seconds or `timedelta`, by the object store's clock; None: twice `publish_timeout`.
        Raises: ValueError for less than `publish_timeout`; ArtifactError; OperationTimeoutError.
        """
        age = 2 * self._publish_seconds if min_age is None else _seconds(min_age)
        if not age >= self._publish_seconds:
            raise ValueError(
                f"min_age is at least publish_timeout ({self._publish_seconds:g} s), not {min_age}: what an exporter "
                "has just uploaded would be removed"
            )
        async with _within(timeout, "pruning"):
            before = await self._objects.touch(_CLOCK) - timedelta(seconds=age)
            listed = await self._objects.list(_PAYLOADS)
            # After the listing: whatever the pointer names later was uploaded later than what is old by now.
            pointer = self._pointer_of(await self._objects.read(LATEST))
            old = [
                found.name
                for found in listed
                if found.modified < before and (pointer is None or not found.name.startswith(_folder(pointer)))
            ]
            await self._objects.remove(old)
        return len(old)

    # ---- publishing

    async def _upload(self, folder: Path, manifest: Manifest) -> Pointer:
        raw = manifest.pack()
        pointer = Pointer(
            publication=secrets.token_hex(16),
            manifest=digest_of(raw),
            bucket=manifest.bucket,
            prefixes=manifest.prefixes,
            backend=manifest.backend,
            cursor=manifest.cursor,
            published=datetime.now(UTC),
        )
        for digest, name in {file.blake3: file.name for file in manifest.files}.items():
            await self._objects.write(_payload(pointer, digest), folder / name)
        await self._objects.write(_payload(pointer, pointer.manifest), raw)
        return pointer

    async def _move(self, known: Stored | None, new: Pointer, manifest: Manifest) -> Publication:
        for _ in range(_ATTEMPTS):
            current = self._pointer_of(known)
            if current is not None:
                if current.publication == new.publication:
                    return Publication(moved=True, pointer=current)  # put before, by a request whose answer was lost
                if self._decide(current, manifest) is Move.STAY:
                    _log.info("bucket %s: another exporter has published cursor %s", new.bucket, current.cursor)
                    return Publication(moved=False, pointer=current)
            if await self._objects.replace(LATEST, new.pack(), expected=known):
                return Publication(moved=True, pointer=new)
            known = await self._objects.read(LATEST)
        raise ArtifactError(
            store=new.bucket,
            message=f"{_ATTEMPTS} other exporters in a row have moved the pointer: let one of them export a round",
        )

    def _decide(self, current: Pointer, manifest: Manifest) -> Move:
        current.check_same(manifest, where=self._objects.path(LATEST))
        return decide(current.cursor, manifest.cursor)

    def _pointer_of(self, stored: Stored | None) -> Pointer | None:
        return None if stored is None else Pointer.unpack(stored.content, where=f"object {self._objects.path(LATEST)}")

    # ---- fetching

    async def _download(self, pointer: Pointer, staging: Staging, worker: Worker) -> Manifest:
        """Raises: KeyError with the name of a payload that is not there."""
        name = _payload(pointer, pointer.manifest)
        stored = await self._objects.read(name)
        if stored is None:
            raise KeyError(name)
        manifest = Manifest.unpack(stored.content, where=f"object {self._objects.path(name)}")
        if not pointer.names(manifest, stored.content):
            raise ArtifactError(
                message=f"object {self._objects.path(name)} is not the one that {self._objects.path(LATEST)} was made "
                "of: one of the two is damaged, publish again"
            )
        for file in manifest.files:
            await self._download_file(_payload(pointer, file.blake3), file, staging.path, worker)
        with file_errors(f"{staging.path} cannot be written"):
            await worker.run(partial((staging.path / MANIFEST).write_bytes, stored.content))
            await worker.run(staging.publish)
        return manifest

    async def _download_file(self, name: str, file: ArtifactFile, folder: Path, worker: Worker) -> None:
        hasher, size, path = blake3(), 0, folder / file.name

        def begin() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")  # also over what an attempt before has left

        def add(chunk: bytes) -> None:
            hasher.update(chunk)
            with path.open("ab") as copy:
                copy.write(chunk)

        with file_errors(f"{path} cannot be written"):
            await worker.run(begin)
            async with aclosing(cast("AsyncGenerator[bytes, None]", self._objects.chunks(name))) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    await worker.run(partial(add, chunk))
        found = ArtifactFile(name=file.name, size=size, blake3=hasher.hexdigest())
        check_same(found, file, where=f"object {self._objects.path(name)}")


def _payload(pointer: Pointer, digest: str) -> str:
    return f"{_folder(pointer)}{digest}"


def _folder(pointer: Pointer) -> str:
    return f"{_PAYLOADS}/{pointer.publication}/"


def _seconds(span: float | timedelta) -> float:
    return span.total_seconds() if isinstance(span, timedelta) else float(span)


@asynccontextmanager
async def _thread() -> AsyncIterator[Worker]:
    worker = Worker("slipstream-artifact")
    try:
        yield worker
    finally:
        worker.close()


@asynccontextmanager
async def _within(seconds: float, what: str) -> AsyncIterator[None]:
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise OperationTimeoutError(message=f"{what} took longer than {seconds:g} s") from None
