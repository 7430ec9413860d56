"""Waiting for each other."""

from __future__ import annotations

import asyncio
import json

from slipstream.coordination.lease import DEFAULT_TTL, to_seconds
from slipstream.coordination.live import Live
from slipstream.coordination.patience import PatientStore
from slipstream.coordination.presence import PresenceKey
from slipstream.coordination.records import Ticket, foreign, new_id
from slipstream.coordination.scope import Scope, clean_up
from slipstream.coordination.turns import Pauses, passes, persistently
from slipstream.errors import ConflictError, FencedError, KvError, OperationTimeoutError
from slipstream.interfaces import KvStore, Ttl
from slipstream.keys import check_key
from slipstream.model import KvUpdate, Operation, VersionToken


class Barrier:
    """Lets those who wait go on together as soon as there are so many: `await Barrier(store, "start", 3).wait()`.

    Used again and again: each time the first `parties` who wait are let through. A waiter that dies does not count
    any more once its `ttl` is over; one that was cut off for so long may have to wait again.

    Args:
        store, ttl: see `Lease`.
        name: a key of its own; the keys `<name>.passed` and `<name>.waiting.*` belong to the barrier.
        parties: how many, at least 1; the same for all who use the name.
    Raises: InvalidKeyError, ValueError.
    """

    def __init__(self, store: KvStore, name: str, parties: int, *, ttl: Ttl = DEFAULT_TTL) -> None:
        if parties < 1:
            raise ValueError(f"a barrier has at least one party, not {parties}")
        self.name = check_key(name, store=store.name)
        self.parties = parties
        self._ttl = to_seconds(ttl)
        self._store = PatientStore(store, ttl=self._ttl)
        # Who was let through: ids and places. Those of earlier times stay listed while their keys are there, so that
        # nobody is counted twice, and one who was slow to look finds itself.
        self._passed_key = f"{name}.passed"

    async def wait(self, *, timeout: float | None = None) -> int:
        """Wait until there are enough; this one's place among them, from 0 for the first to `parties - 1`.

        Outlives lost connections. Cancelled or failed it does not count, unless it was let through already.

        Args:
            timeout: seconds; None waits for as long as it takes.
        Raises: OperationTimeoutError when the timeout is over; KvError that does not pass.
        """
        limit = asyncio.timeout(timeout)
        pauses = Pauses()
        try:
            async with limit:
                while True:
                    try:
                        return await self._wait()
                    except KvError as error:
                        if not (isinstance(error, FencedError) or passes(error)):
                            raise
                    await pauses.pause()
        except TimeoutError:
            if not limit.expired():
                raise
            raise OperationTimeoutError(
                store=self._store.name, key=self.name, message=f"fewer than {self.parties} came within {timeout:g} s"
            ) from None

    async def _wait(self) -> int:
        waiter = PresenceKey(self._store, f"{self.name}.waiting.{new_id()}", ttl=self._ttl)
        try:
            await waiter.create()
            async with Scope(waiter, lambda: FencedError(key=waiter.key, message=f"not counted: {waiter.lost.reason}")):
                return await persistently(lambda: self._until_passed(waiter))
        finally:
            await clean_up(waiter.remove(), what=waiter.key, timeout=self._ttl)

    async def _until_passed(self, waiter: PresenceKey) -> int:
        passed = _Passed()
        live = Live(self._store, aside={self._passed_key: passed.see})
        async with self._store.watch(f"{self.name}.") as watch:
            await live.hydrate(watch)
            while waiter.id not in passed.places:
                waiting = [ticket for ticket in _in_order(live) if ticket.presence.id not in passed.places]
                group = waiting[: self.parties]
                # One of them opens it, the last to come: if it dies, its place is taken by the next.
                if len(group) == self.parties and group[-1].presence.id == waiter.id:
                    there = {ticket.presence.id for ticket in live.tickets.values()}
                    still = {id_: place for id_, place in passed.places.items() if id_ in there}
                    opened = {ticket.presence.id: place for place, ticket in enumerate(group)}
                    await self._open({**still, **opened}, passed.version)
                await live.next(watch)
            return passed.places[waiter.id]

    async def _open(self, passed: dict[str, int], version: VersionToken | None) -> None:
        value = json.dumps(passed).encode()
        try:
            if version is None:
                await self._store.create(self._passed_key, value)
            else:
                await self._store.update(self._passed_key, value, version)
        except ConflictError:
            pass  # somebody else has opened it, and the watch will tell


class _Passed:
    """Who was let through, as last seen: places by id."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.version: VersionToken | None = None

    def see(self, update: KvUpdate) -> None:
        is_there = update.operation is Operation.PUT
        self.places = _places(update) if is_there else {}
        self.version = update.version if is_there else None


def _places(update: KvUpdate) -> dict[str, int]:
    try:
        return dict(json.loads(update.value))
    except (TypeError, ValueError):
        raise foreign(update.key) from None


def _in_order(live: Live) -> list[Ticket]:
    return sorted(live.tickets.values(), key=lambda ticket: ticket.number)
