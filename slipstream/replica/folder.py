"""A folder that one snapshot store owns: found, locked, made durable."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slipstream.errors import SnapshotError

CONTENTS = {"fold.log": "AppendLogSnapshot", "fold.sqlite3": "SqliteSnapshot", "fold.rocks": "RocksSnapshot"}
"""What each kind of store keeps in its folder."""

_LOCK = "lock"
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a full disk, a full quota and a file that may not grow are told by."""
_NO_ACCESS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the operating system refuses, as a SnapshotError that says what to do about it."""
    try:
        yield
    except OSError as error:
        raise SnapshotError(message=f"snapshot {path}: {_advice(error)}") from error


def _advice(error: OSError) -> str:
    text = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return f"there is no room left ({text}): free some, then try again"
    if error.errno in _NO_ACCESS:
        return f"this process may not write there ({text}): a snapshot needs a folder that it can write"
    return text


def sync_file(fd: int) -> None:
    """Return once what was written to it survives a loss of power."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync(2) of macOS leaves it in the drive's own cache
    else:
        os.fdatasync(fd)


def sync_folder(path: Path) -> None:
    """Return once the names in the folder survive a loss of power."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Folder:
    """A folder with a lock in it: one owner, in this process or any other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def take(self, content: str) -> Path:
        """Own the folder, made if it is not there; the path of `content` in it.

        Raises: SnapshotError if another owns it, or if it holds another kind of store; OSError.
        """
        if not self.path.is_dir():
            self.path.mkdir(parents=True, exist_ok=True)
            sync_folder(self.path.parent)
        fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # flock and not lockf: of its own open file, so that it excludes others in this process, too.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check(content)
        except BaseException as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                raise SnapshotError(
                    message=f"snapshot {self.path} is open already, here or in another process: "
                    "a folder has one owner, close the other or take another folder"
                ) from None
            raise
        self._fd = fd
        _owned.add(self)
        return self.path / content

    def release(self) -> None:
        """Let another own it; does nothing if this one does not."""
        if self._fd is not None:
            # Unlocked by name: a child that was forked, and not yet in _disown, would keep a lock that is only closed.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self._close()

    def _check(self, content: str) -> None:
        for name, kind in CONTENTS.items():
            if name != content and (self.path / name).exists():
                raise SnapshotError(
                    message=f"snapshot {self.path} was made by {kind}: open it with that, or take another folder"
                )

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            _owned.discard(self)
            os.close(fd)


_owned: weakref.WeakSet[Folder] = weakref.WeakSet()


def _disown() -> None:
    """A forked child shares its parent's locks, and would keep them after the parent has ended."""
    for folder in list(_owned):
        folder._close()


os.register_at_fork(after_in_child=_disown)
