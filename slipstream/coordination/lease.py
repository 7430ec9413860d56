"""Ownership of a name by one holder at a time, for as long as it is kept alive.

    <name>.holder    the winning write: who holds it, written by compare-and-swap and not touched until the next one
    <name>.queue.    the tickets of the holder and of those who wait, see `queue`

The holder has the oldest ticket, and holds for as long as its ticket lives; what it writes is fenced by the winning
write. The two do not move together: a renewal moves the ticket on and leaves the fence where it is.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from slipstream.coordination.guarded import GuardedWriter
from slipstream.coordination.patience import PatientStore
from slipstream.coordination.presence import Lost, PresenceKey
from slipstream.coordination.queue import Queue, Turn, Win
from slipstream.coordination.records import FencingToken, Holder
from slipstream.coordination.scope import Holding, clean_up
from slipstream.coordination.turns import take_turn, try_turn
from slipstream.errors import ConflictError, FencedError, UnsupportedError
from slipstream.interfaces import KvStore, KvWriter, Ttl
from slipstream.keys import check_key
from slipstream.model import VersionToken

DEFAULT_TTL = 10.0
"""Seconds."""


class Tenure(Holding):
    """One time of holding a lease: from the winning write until it is released or lost."""

    def __init__(self, ticket: PresenceKey, token: FencingToken, *, ttl: float, store: str, key: str) -> None:
        super().__init__(ticket, ttl=ttl)
        self.token = token
        self._store = store
        self._key = key

    def check(self) -> None:
        """Raises: FencedError unless it is certain to go on, by the local clock."""
        if not self.ticket.is_valid():
            raise self.error()

    async def resign(self) -> None:
        """As `release`; a block of another task is cancelled as if it had been lost."""
        if self._scope is not None and not self._scope.is_mine():
            self.ticket.lose("it was resigned")
        await self.release()

    def refused(self, error: FencedError) -> None:
        """The server has refused a write of this tenure."""
        if error.key == self._key:
            self.ticket.lose("somebody else has won it")

    def error(self) -> FencedError:
        return FencedError(
            store=self._store,
            key=self._key,
            message=f"the lease is not held any more: {self.ticket.lost.reason or 'it was released'}",
            expected=self.token.version,
        )


class Lease:
    """A name that one holder at a time has: `async with Lease(store, "jobs.nightly") as lease:`.

    Whoever waits has its turn after those who began to wait before. A holder that dies is replaced when its `ttl` is
    over, one that releases at once. The holder takes the lease for lost a little before that (a tenth of the `ttl`), by
    its own monotonic clock: see `lost`. A process that stood still cannot know in time; what it then writes through
    `fenced` is refused by the server.

    As a block: the block is cancelled when the lease is lost, and raises FencedError. One object is one contender: it
    holds or waits once at a time.

    Args:
        store: all contenders use the same bucket.
        name: a key of its own; the keys `<name>.holder` and `<name>.queue.*` belong to the lease.
        ttl: seconds or `timedelta`, at least one second: how long a dead holder is waited for. Renewed three times in
            each. Every contender may have another one.
        holder: what the holder is called towards others; None: host and process.
    Raises: InvalidKeyError, ValueError.
    """

    def __init__(self, store: KvStore, name: str, *, ttl: Ttl = DEFAULT_TTL, holder: str | None = None) -> None:
        seconds = to_seconds(ttl)
        self._store = PatientStore(store, ttl=seconds)
        self.name = check_key(name, store=store.name)
        self.holder = default_name() if holder is None else holder
        self._key = holder_key(name)
        self._queue = Queue(self._store, f"{name}.queue", ttl=seconds, last_win=self._last_win)
        self._never_lost = Lost()
        self._tenure: Tenure | None = None
        self._acquiring = False
        self._entered: Tenure | None = None
        self._incarnation: datetime | None = None

    @property
    def is_held(self) -> bool:
        """Held for certain, by the local clock; no I/O."""
        return self._tenure is not None and self._tenure.ticket.is_valid()

    @property
    def fencing_token(self) -> FencingToken:
        """That of the current holding, or the last. Raises: RuntimeError before the first."""
        return self._last_tenure().token

    @property
    def lost(self) -> Lost:
        """An event: this holding was lost, and `lost.reason` says why. A release does not set it.

        Another one for every holding.
        """
        return self._never_lost if self._tenure is None else self._tenure.ticket.lost

    async def acquire(self, *, timeout: float | None = None) -> FencingToken:
        """Wait for the lease, in turn; it is kept alive from then on, until `release`.

        Outlives lost connections and restarts of the server. Cancelled or failed, nothing is held or waited for.

        Args:
            timeout: seconds; None waits for as long as it takes.
        Raises: OperationTimeoutError when the timeout is over; RuntimeError if this object holds it or waits already;
            NotConnectedError after a shutdown, StoreNotFoundError, PermissionDeniedError.
        Cost: while waiting, one watch of the ticket before.
        """
        async with self._attempt():
            ticket, token = await take_turn(
                self._queue, self._win, prepare=self._look_up, store=self._store.name, name=self.name, timeout=timeout
            )
            return self._begin(ticket, token)

    async def try_acquire(self) -> FencingToken | None:
        """As `acquire` if nobody else has it or waits for it, else None. Never waits; raises what goes wrong.

        On a server without ttls a dead holder is only noticed by those who wait.
        """
        async with self._attempt():
            won = await try_turn(self._queue, self._win, prepare=self._look_up)
            return None if won is None else self._begin(*won)

    async def release(self) -> None:
        """Let the next one have it; safe to repeat, and after a loss. From here on `is_held` is False.

        Raises: KvError if the server could not be told: then the lease runs out, or another `release` tells it.
        """
        if self._tenure is not None:
            await self._tenure.release()

    async def resign(self) -> None:
        """As `release`; a block of this lease in another task is cancelled as if the lease had been lost."""
        if self._tenure is not None:
            await self._tenure.resign()

    def fenced(self, store: KvStore) -> KvWriter:
        """A writer whose every write is refused, here or by the server, once the lease is not held any more.

        FencedError then says so. The current holding alone: after another `acquire` ask for another one.

        Raises: UnsupportedError where the server has no fencing (before 2.11), and for a store of another bucket than
            the lease's: the server compares within a bucket. RuntimeError before the first holding.
        """
        tenure = self._last_tenure()
        if store.name != self._store.name:
            raise UnsupportedError(
                store=store.name,
                key=self._key,
                message=f"the lease lives in the bucket {self._store.name!r}, and fences writes to that one only",
            )
        return GuardedWriter(store.fenced(self._key, tenure.token.version), tenure)

    async def __aenter__(self) -> Self:
        # One that was acquired and is lost by now is not acquired again: the block is cancelled, as it would be later.
        if self._tenure is None or self._tenure.released:
            await self.acquire()
        self._entered = await self._last_tenure().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tenure, self._entered = self._entered, None
        assert tenure is not None  # entered
        await tenure.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[None]:
        if self._acquiring or self.is_held:
            raise RuntimeError(f"this object holds the lease {self.name!r} or waits for it: make another one")
        self._acquiring = True
        try:
            if self._tenure is not None:  # what is left of one that was lost; the server may be out of reach still
                await clean_up(self.release(), what=self._tenure.ticket.key, timeout=self._queue.ttl)
            yield
        finally:
            self._acquiring = False

    async def _look_up(self) -> None:
        # After the ticket was made: another life of the bucket has no such ticket.
        self._incarnation = (await self._store.status()).incarnation

    async def _last_win(self) -> Win | None:
        entry = await self._store.get(self._key)
        if entry is None or entry.revision is None:
            return None
        return Win(number=Holder.decode(entry.value, key=self._key).number, won=entry.revision)

    async def _win(self, ticket: PresenceKey, turn: Turn) -> FencingToken:
        """The token of the winning write."""
        value = Holder(name=self.holder, ticket=ticket.key, id=ticket.id, number=ticket.number).encode()
        if turn.won is not None:
            # That of the one before is the last one: nobody can have come in between.
            try:
                return self._won(ticket, await self._store.update(self._key, value, VersionToken.from_u64(turn.won)))
            except ConflictError:
                pass  # perhaps with this very write, whose answer was lost
        while True:
            last = await self._store.entry(self._key)
            if last is not None and last.value and Holder.decode(last.value, key=self._key).id == ticket.id:
                return self._won(ticket, last.version)
            # In this order: the ticket is there, so nobody behind it had won when the key was read, and whoever wins
            # after that makes the compare-and-swap fail.
            await ticket.check_there()
            try:
                if last is None:
                    return self._won(ticket, await self._store.create(self._key, value))
                return self._won(ticket, await self._store.update(self._key, value, last.version))
            except ConflictError:
                continue

    def _won(self, ticket: PresenceKey, version: VersionToken) -> FencingToken:
        revision = version.as_u64()
        assert revision is not None  # of a write
        assert self._incarnation is not None  # looked up before
        ticket.change(won=revision)  # so that the next one need not look
        return FencingToken(incarnation=self._incarnation, revision=revision)

    def _begin(self, ticket: PresenceKey, token: FencingToken) -> FencingToken:
        self._tenure = Tenure(ticket, token, ttl=self._queue.ttl, store=self._store.name, key=self._key)
        return token

    def _last_tenure(self) -> Tenure:
        if self._tenure is None:
            raise RuntimeError(f"the lease {self.name!r} was never held: acquire it first")
        return self._tenure


def holder_key(name: str) -> str:
    """Where the winning write of a lease is."""
    return f"{name}.holder"


def to_seconds(ttl: Ttl) -> float:
    """Raises: ValueError for less than a second, which no server keeps."""
    seconds = ttl / timedelta(seconds=1) if isinstance(ttl, timedelta) else float(ttl)
    if not seconds >= 1:  # NaN too
        raise ValueError(f"a ttl is at least one second, not {ttl}")
    return seconds


def default_name() -> str:
    """Host and process."""
    return f"{socket.gethostname()}-{os.getpid()}"
