"""A folder that is there whole or not at all: made beside its place, then renamed. Blocking."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slipstream.errors import ArtifactError
from slipstream.replica.folder import NO_ROOM, sync_folder

_SUFFIX = ".partial"


class Staging:
    """A folder under a name that nobody looks for, until `publish` gives it the one that it is for.

    Killed at any point, the target is what it was, or the whole new folder. What a killed process has left is removed
    by the next one for the same target; that of a living one is locked.
    """

    def __init__(self, target: Path) -> None:
        """Raises: ArtifactError if something is at the target; OSError."""
        check_vacant(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._target = target
        _sweep(target)
        self.path, self._fd = _make(target)

    def publish(self) -> None:
        """Give it its name, durably. Raises: ArtifactError if something is there by now; OSError."""
        sync_tree(self.path)
        check_vacant(self._target)
        try:
            self.path.rename(self._target)  # over an empty folder it is one step, too; over a full one it fails
        except OSError:
            check_vacant(self._target)
            raise
        sync_folder(self._target.parent)

    def close(self) -> None:
        """Remove what was not published; safe to repeat."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)  # gone, if it was published
            os.close(fd)


def check_vacant(target: Path) -> None:
    """Raises: ArtifactError unless there is nothing, or an empty folder."""
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise ArtifactError(message=f"{target} is there already: nothing is overwritten, take another folder")


def sync_tree(root: Path) -> None:
    """Return once everything in the folder survives a loss of power."""
    for folder, _, names in os.walk(root):
        for name in names:
            fd = os.open(Path(folder, name), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        sync_folder(Path(folder))


def absolute(path: str | os.PathLike[str]) -> Path:
    """The place that the path names now, whatever folder the process works in later."""
    return Path(path).absolute()


@contextmanager
def file_errors(what: str) -> Iterator[None]:
    """What the operating system refuses, as an ArtifactError."""
    try:
        yield
    except OSError as error:
        advice = ": free some room, then try again" if error.errno in NO_ROOM else ""
        place = f" ({error.filename})" if error.filename else ""
        raise ArtifactError(message=f"{what}: {error.strerror or error}{place}{advice}") from error


def _make(target: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=_SUFFIX, dir=target.parent))
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(BlockingIOError):  # another one sweeps, and has taken it for a dead one's
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists():
                return path, fd
        os.close(fd)


def _sweep(target: Path) -> None:
    for path in target.parent.glob(f"{_prefix(target)}*{_SUFFIX}"):
        # A lock goes with its process, so that what can be locked has nobody who still writes to it.
        with suppress(FileNotFoundError, BlockingIOError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)


def _prefix(target: Path) -> str:
    return f".{target.name}."
