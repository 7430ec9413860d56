"""One user's place at the nats-server of a folder."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from slipstream.errors import ConnectionFailedError, UnsupportedError
from slipstream.stores.embedded import guardian
from slipstream.stores.embedded.binary import find_nats_server
from slipstream.stores.embedded.locks import FileLock
from slipstream.stores.embedded.pipes import ReadingEnd

T = TypeVar("T")
_log = logging.getLogger(__name__)
_END_SECONDS = guardian.STOP_GRACE + 2.5  # how long the last user waits for the server's end
_POLL_SECONDS = 0.02


class EmbeddedServer:
    """A seat at the server of `directory`, or of a temporary folder: `join()`, use `url`, `leave()`; once each.

    The server runs while anyone, in whichever process, has a seat. No repr, log or argument list shows its token.

    Args:
        directory: made (0700) if it is missing; None is a temporary folder that is removed at the end.
        start_timeout: seconds that joining may take.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, *, start_timeout: float = 10.0) -> None:
        self._temporary = directory is None
        self._folder = None if directory is None else Path(directory)
        self._start_timeout = start_timeout
        self._seat: FileLock | None = None
        self._alive: ReadingEnd | None = None  # tells the guardian's end
        self._report: ReadingEnd | None = None  # tells how its start went
        self._url: str | None = None

    def __repr__(self) -> str:
        return f"EmbeddedServer({'a temporary folder' if self._folder is None else str(self._folder)!r})"

    @property
    def directory(self) -> Path:
        """Raises: RuntimeError for a temporary folder before `join`."""
        if self._folder is None:
            raise RuntimeError("not joined")
        return self._folder

    @property
    def url(self) -> str:
        """Where the server is, with its token. Raises: RuntimeError before `join`."""
        if self._url is None:
            raise RuntimeError("not joined")
        return self._url

    async def join(self) -> None:
        """Take a seat; the server is started if there is none. Failed or cancelled, it leaves nothing behind.

        Raises: ConnectionFailedError: no nats-server binary, the folder cannot be used, the server does not start
            (with the end of its log) or not in time; UnsupportedError where there is no interpreter to run it.
        """
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._join()
        except BaseException as error:
            await to_its_end(self.leave())
            if isinstance(error, TimeoutError):
                raise ConnectionFailedError(
                    message=f"no embedded nats-server in {self._folder} within {self._start_timeout:g} s"
                ) from error
            if isinstance(error, OSError):
                raise ConnectionFailedError(
                    message=f"{self._folder} cannot hold an embedded server: {error.strerror or error}"
                ) from error
            raise

    async def keep(self) -> None:
        """Until cancelled: put a new guardian in the place of one that was killed, so that clients can reconnect.

        Returns when the server was stopped for good, or cannot be brought back at its address; a warning says why.
        """
        while self._alive is not None:
            await self._alive.until_closed()
            before = self.url
            if await asyncio.to_thread(guardian.read_published, self.directory) is None:
                _log.warning("the embedded server of %s was stopped, see its %s", self._folder, guardian.LOG)
                return
            try:
                async with asyncio.timeout(self._start_timeout):
                    await self._find_or_start()
            except (ConnectionFailedError, OSError) as error:
                _log.warning("the embedded server of %s ended and cannot be restarted: %s", self._folder, error)
                return
            if self.url != before:
                _log.warning("the embedded server of %s is back, but on another port: connect anew", self._folder)
                return

    async def leave(self) -> None:
        """Give up the seat; who was the last waits for the server's end, within 5 s. Safe to repeat."""
        seat, self._seat = self._seat, None
        if seat is not None and _was_last(seat):
            with suppress(TimeoutError):  # the guardian goes on ending it
                async with asyncio.timeout(_END_SECONDS):
                    if self._report is not None:
                        await self._report.until_closed()  # being started, it finds that nobody wants it, or is ready
                    guardian_there = self._watch_guardian()
                    if guardian_there is not None:
                        await guardian_there.until_closed()
        for pipe in (self._report, self._alive):
            if pipe is not None:
                pipe.close()
        self._report = self._alive = None
        if self._temporary and self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _join(self) -> None:
        await to_its_end(asyncio.to_thread(self._prepare))
        self._seat = FileLock(self.directory / guardian.USERS_LOCK)
        await self._seat.lock(exclusive=False)  # held exclusively while a server of former users is being stopped
        await self._find_or_start()

    def _prepare(self) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise UnsupportedError(message="embedded:// needs a Python interpreter to look after its server")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="slipstream-"))
        self._folder = self._folder.absolute()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def _find_or_start(self) -> None:
        starting = FileLock(self.directory / guardian.START_LOCK)
        await starting.lock(exclusive=True)
        try:
            while not await self._find():
                await self._start_guardian()
        finally:
            starting.release()

    async def _find(self) -> bool:
        """Take the address of the running server; False if there is no guardian."""
        while self._watch_guardian() is not None:
            published = await asyncio.to_thread(guardian.read_published, self.directory)
            if published is not None and published["ready"]:
                self._url = f"nats://{published['token']}@127.0.0.1:{published['port']}"
                return True
            await asyncio.sleep(_POLL_SECONDS)  # it restarts its server, or its starter was killed before it was ready
        return False

    async def _start_guardian(self) -> None:
        binary = await asyncio.to_thread(find_nats_server)
        reading, writing = os.pipe()
        report = self._report = ReadingEnd(reading)  # closed by leave() if this does not get to its end
        command = [sys.executable, "-I", guardian.__file__, str(self.directory), str(binary)]
        # Its own bound comes first: it knows better why the server does not start.
        command += [str(self._start_timeout * 0.8), str(writing), "REMOVE" if self._temporary else "KEEP"]
        await to_its_end(asyncio.to_thread(_run_detached, command, writing, self._start_timeout))
        answer = await report.until_closed()
        self._report = None
        report.close()
        if not answer:
            raise ConnectionFailedError(message=f"the guardian of {self._folder} ended: see its {guardian.LOG}")
        error = json.loads(answer).get("error")
        if error is not None:
            raise ConnectionFailedError(message=f"no embedded server in {self._folder}: {error}")

    def _watch_guardian(self) -> ReadingEnd | None:
        """The pipe that tells the guardian's end, opened anew; None if there is no guardian."""
        if self._alive is not None:
            self._alive.close()
        self._alive = ReadingEnd.open(self.directory / guardian.ALIVE)
        return self._alive


async def to_its_end(work: Awaitable[T]) -> T:
    """Await bounded work to its end, also when cancelled meanwhile; the cancellation is delivered after it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen; who was cancelled has no use for it
        raise cancelled
    return task.result()


def _run_detached(command: list[str], report: int, timeout: float) -> None:
    """Returns when the guardian has detached itself and alone holds the writing end of its report.

    What is reaped here is only the process that it left.
    """
    try:
        subprocess.run(  # noqa: S603 - this interpreter and a file of this package
            command,
            check=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(report,),
            start_new_session=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConnectionFailedError(message=f"the guardian of the server could not be started: {error}") from error
    finally:
        os.close(report)


def _was_last(seat: FileLock) -> bool:
    """Release the seat; True if nobody else has one: then it could be had exclusively, or the guardian got it so."""
    try:
        return seat.held and (seat.try_lock(exclusive=True) or not seat.try_lock(exclusive=False))
    except OSError as error:
        _log.warning("the folder of an embedded server cannot be read any more: %s", error)
        return False
    finally:
        seat.release()
