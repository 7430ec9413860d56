"""Advisory locks on files that other processes see, and that end with the process."""

from __future__ import annotations

import asyncio
import fcntl
import os
import weakref
from pathlib import Path

_POLL_SECONDS = 0.02  # flock offers no event, and blocking in it would hold a thread that nothing can cancel


class FileLock:
    """A `flock` of its own open file, so that two of them in one process exclude each other as in two."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        return self._fd is not None

    def try_lock(self, *, exclusive: bool) -> bool:
        """Take it now or not at all; a lock that is held changes its kind, and is lost if it cannot.

        Raises: OSError where the file cannot be opened.
        """
        fd = self._fd if self._fd is not None else os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BaseException as error:
            self._fd = None
            _held.discard(self)
            os.close(fd)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._fd = fd
        _held.add(self)
        return True

    async def lock(self, *, exclusive: bool) -> None:
        """Wait for it; the caller bounds the wait. Cancelled, it holds nothing."""
        while not self.try_lock(exclusive=exclusive):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(_POLL_SECONDS)

    def release(self) -> None:
        """Does nothing if it is not held."""
        if self._fd is not None:
            # Unlocked by name: a child that was forked, and not yet here, would keep a lock that is only closed.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self._close()

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            _held.discard(self)
            os.close(fd)


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _disown() -> None:
    """A forked child shares its parent's locks, and would keep them after the parent has ended."""
    for lock in list(_held):
        lock._close()


os.register_at_fork(after_in_child=_disown)
