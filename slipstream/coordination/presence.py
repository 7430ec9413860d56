"""A key that exists for as long as its owner lives: made with a ttl and renewed by compare-and-swap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from slipstream.coordination.clock import now
from slipstream.coordination.keepalive import keepalive
from slipstream.coordination.patience import RecordStore
from slipstream.coordination.records import RENEWALS_PER_TTL, Presence, new_id, valid_until
from slipstream.errors import (
    AlreadyExistsError,
    FencedError,
    KvError,
    RevisionMismatchError,
    StoreNotFoundError,
    UnsupportedError,
)
from slipstream.model import VersionToken

_JITTER = 0.25
_RETRIES_PER_TTL = 20
_TAKEN = "the server or somebody else has removed it"
_NOT_IN_TIME = "it was not renewed in time: the event loop or the process stood still"


class Lost(asyncio.Event):
    """Set when something was lost.

    Attributes:
        reason: why, None before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reason: str | None = None

    def announce(self, reason: str) -> None:
        """Set it; the first reason stays."""
        if not self.is_set():
            self.reason = reason
            self.set()


class PresenceKey:
    """One key and what is known of it; made once, renewed by the keepalive until it is lost or removed.

    The owner takes it for lost by its own clock (`records.valid_until`), before the server can remove it.
    """

    def __init__(self, store: RecordStore, key: str, *, ttl: float, value: bytes = b"") -> None:
        self.key = key
        self.lost = Lost()
        self.due = 0.0
        self._store = store
        self._wanted = Presence(id=new_id(), ttl=ttl, value=value)
        self._sent = False  # something may be stored
        self._version: VersionToken | None = None
        self._valid_until = 0.0
        self._unsettled: float | None = None  # when the first renewal began of which nothing is known
        self._timer: asyncio.TimerHandle | None = None
        self._removing = False
        self._problem = _NOT_IN_TIME
        self._busy = asyncio.Lock()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def id(self) -> str:
        return self._wanted.id

    @property
    def number(self) -> int:
        """The revision of its first write. Raises: RuntimeError before it is made."""
        if self._wanted.number is None:
            raise RuntimeError("it was not made")
        return self._wanted.number

    @property
    def value(self) -> bytes:
        """What it holds, or will after the next renewal."""
        return self._wanted.value

    @property
    def is_cleared(self) -> bool:
        """Nothing of it can be in the store: it was removed, or never made."""
        return not self._sent

    def is_valid(self) -> bool:
        """It is certain to be there still, whatever became of the connection; no I/O."""
        if self._version is None or self._removing or self.lost.is_set():
            return False
        if now() >= self._valid_until:
            self.lose(self._problem)
            return False
        return True

    def when_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call it at once when the key is lost, also if it is already; what was returned takes it back."""
        self._callbacks.append(callback)
        if self.lost.is_set():
            callback()
        return lambda: self._callbacks.remove(callback)

    async def create(self) -> None:
        """Make the key and keep it alive from now on.

        Raises: AlreadyExistsError: the key is there; KvError: it could not be made. After an error or a cancel
        `remove` clears what may have been stored.
        """
        started = now()
        self._sent = True
        try:
            version = await write_expiring(self._store, self.key, self._wanted.encode(), None, ttl=self._wanted.ttl)
        except KvError as error:
            if not (error.outcome_unknown or isinstance(error, AlreadyExistsError)):
                raise
            found = await self._stored()
            if found is None:
                raise
            version, _ = found
        self._wanted = replace(self._wanted, number=version.as_u64())
        self._renewed(version, started, stored=self._wanted)
        keepalive().add(self)

    def change(self, *, won: int | None = None, value: bytes | None = None) -> None:
        """Put this into the key with a renewal that begins at once."""
        if won is not None:
            self._wanted = replace(self._wanted, won=won)
        if value is not None:
            self._wanted = replace(self._wanted, value=value)
        self.due = 0.0
        keepalive().look_again()

    async def check_there(self) -> None:
        """Ask the server whether it is this owner's. Raises: FencedError, and it is lost; KvError."""
        if await self._stored() is None:
            self.lose(_TAKEN)
            raise FencedError(store=self._store.name, key=self.key, message=_TAKEN)

    def lose(self, reason: str) -> None:
        """Take it for lost; the first reason stays."""
        if self._removing or self.lost.is_set():
            return
        self._stop()
        self.lost.announce(reason)
        for callback in list(self._callbacks):
            callback()

    async def renew(self) -> None:
        """Renew it or find it lost, however often that takes to try. Raises nothing."""
        async with self._busy:
            while self.is_valid():
                try:
                    await self._renew_once()
                except StoreNotFoundError:
                    self.lose("the bucket is gone")
                except _TakenAwayError:
                    self.lose(_TAKEN)
                except (KvError, TimeoutError) as error:
                    self._problem = str(error) or "no answer"
                    pause = self._wanted.ttl / _RETRIES_PER_TTL * _spread()
                    await asyncio.sleep(min(pause, max(0.0, self._valid_until - now())))
                else:
                    return

    async def remove(self) -> None:
        """Remove the key if it is still this owner's; safe to repeat, also after it was lost.

        Raises: KvError if that could not be done: then it expires.
        """
        self._removing = True
        self._stop()
        async with self._busy:  # a renewal that is under way would move it on
            version = self._version
            while self._sent:
                try:
                    # Without a version it may be under way still: what is written now comes after it, or conflicts.
                    await write_expiring(self._store, self.key, b"", version, ttl=self._wanted.ttl)
                    self._sent = False
                except (AlreadyExistsError, RevisionMismatchError):
                    found = await self._stored()
                    if found is None:
                        self._sent = False
                    else:
                        version, _ = found

    async def _renew_once(self) -> None:
        version, wanted = self._version, self._wanted
        assert version is not None  # it was made
        patience = wanted.ttl / RENEWALS_PER_TTL  # a request may hang for the whole `op_timeout` of a connection
        started = now()
        try:
            async with asyncio.timeout(patience):
                new = await write_expiring(self._store, self.key, wanted.encode(), version, ttl=wanted.ttl)
            self._renewed(new, started, stored=wanted)
        except (KvError, TimeoutError):
            # Whatever went wrong, the key itself tells whether a renewal was stored; which one of those that nothing
            # is known of, it does not tell: the first counts.
            since = self._unsettled = started if self._unsettled is None else self._unsettled
            async with asyncio.timeout(patience):
                found = await self._stored()
            if found is None:
                raise _TakenAwayError from None
            if found[0] == version:
                raise
            self._renewed(found[0], since, stored=found[1])

    async def _stored(self) -> tuple[VersionToken, Presence] | None:
        """What the key is at, None if it is not this owner's (any more)."""
        entry = await self._store.entry(self.key)
        if entry is None or not entry.value:
            return None
        presence = Presence.decode(entry.value, key=self.key)
        return (entry.version, presence) if presence.id == self.id else None

    def _renewed(self, version: VersionToken, started: float, *, stored: Presence) -> None:
        self._version = version
        self._unsettled = None
        self._problem = _NOT_IN_TIME
        self._valid_until = valid_until(started=started, ttl=stored.ttl)
        changed = stored != self._wanted  # while the request was under way
        self.due = 0.0 if changed else started + stored.ttl / RENEWALS_PER_TTL * _spread()
        if not (self._removing or self.lost.is_set()):
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left = max(0.0, self._valid_until - now())
        self._timer = asyncio.get_running_loop().call_later(left, self._check_time)

    def _check_time(self) -> None:
        if self.is_valid():  # the loop's clock is not the one that counts
            self._set_timer()

    def _stop(self) -> None:
        keepalive().remove(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def write_expiring(
    store: RecordStore, key: str, value: bytes, expected: VersionToken | None, *, ttl: float
) -> VersionToken:
    """Write the key, with a ttl where keys can have one; `expected` of None: only if it is absent.

    Where they cannot, the ttl inside the value has to do: see `queue`. An empty value is a tombstone that clears
    itself away. Raises: as `create` and `update`.
    """

    async def write(ttl: float | None) -> VersionToken:
        if expected is None:
            return await store.create(key, value, ttl=ttl)
        return await store.update(key, value, expected, ttl=ttl)

    try:
        return await write(ttl)
    except UnsupportedError:  # before anything was sent
        return await write(None)


class _TakenAwayError(Exception):
    """The key is not this owner's any more."""


def _spread() -> float:
    # Owners that began together must not stay together.
    return random.uniform(1 - _JITTER, 1)  # noqa: S311 - spreads requests, guards nothing
