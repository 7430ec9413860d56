"""Pipes whose end is the message: the kernel closes the other side of them, however a process ended."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Self


class ReadingEnd:
    """The end of a pipe that is read; the other one is held by another process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """Of a named pipe into which nobody writes; None if there is no pipe, or nobody holds its other end.

        A pipe that had no other end since it was opened would not tell that it has none.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            os.read(fd, 1)
        except BlockingIOError:
            return cls(fd)
        os.close(fd)
        return None

    async def until_closed(self) -> bytes:
        """Everything that comes until the last process has closed the other end."""
        loop = asyncio.get_running_loop()
        closed = loop.create_future()
        chunks: list[bytes] = []

        def on_readable() -> None:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return
            if data:
                chunks.append(data)
            elif not closed.done():
                closed.set_result(None)

        loop.add_reader(self._fd, on_readable)
        try:
            await closed
        finally:
            loop.remove_reader(self._fd)
        return b"".join(chunks)

    def close(self) -> None:
        os.close(self._fd)
