"""The log as a file: appended to, replaced, synced. Blocking; every method raises OSError."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from slipstream.replica.append_log.frame import HEADER_BYTES, FileHeader
from slipstream.replica.folder import sync_file, sync_folder

TEMPORARY = "fold.log.new"


class LogFile:
    """An open log that is written to at its end.

    Attributes:
        end: where the next frame goes; what lies beyond it does not count.
    """

    def __init__(self, path: Path, fd: int, header: FileHeader, end: int) -> None:
        self.path = path
        self.header = header
        self.end = end
        self._fd = fd
        self._clean = False  # nothing lies beyond the end
        self._named = True  # the folder names this file, durably; a new one has no name to lose

    @classmethod
    def begin(cls, path: Path, *, salt: int | None = None) -> LogFile:
        """A new log beside `path`, which takes its name by `publish`."""
        header = FileHeader(salt=secrets.randbits(32) if salt is None else salt)
        temporary = path.with_name(TEMPORARY)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        log = cls(temporary, fd, header, HEADER_BYTES)
        try:
            _write(fd, header.pack(), 0)
        except BaseException:
            log.discard()
            raise
        return log

    @classmethod
    def reopen(cls, path: Path, header: FileHeader, end: int) -> LogFile:
        """The log that is at `path`, cut to the `end` bytes that count."""
        log = cls(path, os.open(path, os.O_RDWR), header, end)
        log._named = False  # whoever renamed it may have been killed before the folder was synced
        try:
            log._cut()
        except BaseException:
            log.close()
            raise
        return log

    def append(self, data: bytes) -> None:
        """Durable when it returns. Failed, the log is what it was, and the call may be repeated."""
        if not self._named:
            self._name()
        end = self.end
        try:
            self.add(data)
            self.sync()
        except BaseException:
            self.end, self._clean = end, False
            with suppress(OSError):  # what cannot be cut off now is before the next append
                self._cut()
            raise

    def add(self, data: bytes) -> None:
        """As `append`, but not yet durable."""
        if not self._clean:
            self._cut()
        self._clean = False
        _write(self._fd, data, self.end)
        self._clean = True
        self.end += len(data)

    def copy_from(self, other: LogFile, begin: int, end: int) -> None:
        """Add these bytes of another log of the same salt; not yet durable."""
        while begin < end:
            data = os.pread(other._fd, min(end - begin, 1 << 20), begin)
            if not data:
                raise OSError(f"{other.path} ends at byte {begin}, before the {end} that were written")
            self.add(data)
            begin += len(data)

    def sync(self) -> None:
        sync_file(self._fd)

    def publish(self, path: Path) -> None:
        """Make what was added durable as the base of the log, and take the name `path`, all at once.

        Raises: OSError; then `path` is what it was.
        """
        self.header = FileHeader(salt=self.header.salt, base_end=self.end if self.end > HEADER_BYTES else 0)
        _write(self._fd, self.header.pack(), 0)
        self.sync()
        self.path.rename(path)
        self.path = path
        self._named = False
        with suppress(OSError):  # whichever name a crash leaves is whole; what is appended needs the new one
            self._name()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def discard(self) -> None:
        """Close it and remove it."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _cut(self) -> None:
        os.ftruncate(self._fd, self.end)
        self._clean = True

    def _name(self) -> None:
        sync_folder(self.path.parent)
        self._named = True


def _write(fd: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, at)
        rest, at = rest[written:], at + written
