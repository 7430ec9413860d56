"""The files of an artifact: found, measured, compared with what the manifest says. In a thread, in small steps."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from slipstream.errors import ArtifactError
from slipstream.replica.artifacts.manifest import MANIFEST, ArtifactFile, Manifest
from slipstream.replica.artifacts.staging import file_errors
from slipstream.replica.worker import Worker

CHUNK = 8 << 20
"""Bytes of one step: a cancellation waits no longer than for that."""

# Locks of a process, and what RocksDB notes for people, with the paths of the machine that it ran on.
_LEFT_OUT = ("lock", "LOCK", "LOG", "LOG.old")


async def measured(worker: Worker, folder: Path) -> list[ArtifactFile]:
    """The files below the folder, in the order of their names, but for those that are of this machine alone."""
    names = await worker.run(lambda: list(_names(folder)))
    return [await measure(worker, folder, name) for name in names]


async def measure(worker: Worker, folder: Path, name: str, *, copy_to: BinaryIO | None = None) -> ArtifactFile:
    """Size and digest of a file, which is copied meanwhile if somebody wants that.

    Raises: OSError.
    """
    hasher, size = blake3(), 0
    async with _opened(worker, lambda: (folder / name).open("rb")) as file:

        def step() -> int:
            chunk = file.read(CHUNK)
            hasher.update(chunk)
            if copy_to is not None:
                copy_to.write(chunk)
            return len(chunk)

        while length := await worker.run(step):
            size += length
    return ArtifactFile(name=name, size=size, blake3=hasher.hexdigest())


def check_same(found: ArtifactFile, expected: ArtifactFile, *, where: str) -> None:
    """Raises: ArtifactError that names the file and what is wrong with it."""
    if found.size != expected.size:
        raise ArtifactError(
            message=f"{where}: {expected.name} has {found.size} bytes, the manifest says {expected.size}: "
            "fetch or export it again"
        )
    if found.blake3 != expected.blake3:
        raise ArtifactError(
            message=f"{where}: {expected.name} is damaged: its BLAKE3 digest is not the manifest's; "
            "fetch or export it again"
        )


async def read_manifest(worker: Worker, folder: Path) -> Manifest:
    """Raises: ArtifactError where there is none that can be read."""

    def read() -> bytes:
        with file_errors(f"{folder} is no artifact"):
            return (folder / MANIFEST).read_bytes()

    return Manifest.unpack(await worker.run(read), where=str(folder / MANIFEST))


async def verify(worker: Worker, folder: Path, files: Iterable[ArtifactFile]) -> None:
    """Raises: ArtifactError for the first file that is not as the manifest says."""
    for file in files:
        with file_errors(f"{folder}: {file.name} cannot be read"):
            found = await measure(worker, folder, file.name)
        check_same(found, file, where=str(folder))


async def copy_verified(worker: Worker, source: Path, target: Path, files: Iterable[ArtifactFile]) -> None:
    """Copy the files into the folder. Raises: ArtifactError as `verify`, or where they cannot be written."""
    for file in files:
        path = target / file.name
        with file_errors(f"{source}: {file.name} cannot be copied"):
            async with _opened(worker, partial(_create, path)) as copy:
                found = await measure(worker, source, file.name, copy_to=copy)
        check_same(found, file, where=str(source))


@asynccontextmanager
async def _opened(worker: Worker, step: Callable[[], BinaryIO]) -> AsyncIterator[BinaryIO]:
    files: list[BinaryIO] = []
    try:
        await worker.run(step, then=files.append)  # cancelled, it is open all the same
        yield files[0]
    finally:
        for file in files:
            await worker.run(file.close)  # which writes the rest


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _names(folder: Path) -> Iterable[str]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name).relative_to(folder).as_posix()
            if path != MANIFEST and not name.startswith("LOG.old.") and name not in _LEFT_OUT:
                yield path
