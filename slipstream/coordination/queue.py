"""Waiting in turn: each who waits has a ticket, and those with the oldest tickets have the turn.

    <prefix>.<id>.ticket    kept alive by its owner; its place is the revision of its first write

A ticket's number never changes and a later one is always greater, so the tickets before one's own are known from one
scan and only grow fewer. Whoever is not among the first watches just the last ones before: when somebody leaves, one
waiter wakes up (with a capacity of n, at most n do).

A ticket leaves by being removed, by expiring on the server or, where keys cannot expire, at the hands of who waits
behind it (see `live`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from slipstream.coordination.clock import now
from slipstream.coordination.live import Live
from slipstream.coordination.patience import RecordStore
from slipstream.coordination.presence import PresenceKey
from slipstream.coordination.records import Ticket, new_id

_TICKET = "ticket"


class Turn(NamedTuple):
    """The turn has come. `won` is the revision of the winning write of who had it before, None where unknown."""

    won: int | None = None


class Win(NamedTuple):
    """Who had the turn: the number of the ticket, and the revision of its winning write."""

    number: int
    won: int


LastWin = Callable[[], Awaitable[Win | None]]


class Queue:
    """One participant's way through the queue under a prefix."""

    def __init__(
        self, store: RecordStore, prefix: str, *, ttl: float, capacity: int = 1, last_win: LastWin | None = None
    ) -> None:
        """`last_win` tells who had the turn last, where that is known and the capacity is one."""
        self._store = store
        self._prefix = f"{prefix}."
        self._ticket: PresenceKey | None = None
        self.ttl = ttl
        self._capacity = capacity
        self._last_win = last_win

    def ticket(self, value: bytes = b"") -> PresenceKey:
        """A ticket for the end of the queue; it has its place once it is made (`create`)."""
        # The ticket alone under a prefix that ends in a dot: then the server filters a watch of it exactly.
        key = f"{self._prefix}{new_id()}.{_TICKET}"
        if self._ticket is not None and self._ticket.is_cleared:
            key = self._ticket.key  # again, so that fewer keys are left behind
        self._ticket = PresenceKey(self._store, key, ttl=self.ttl, value=value)
        return self._ticket

    async def is_full(self) -> bool:
        """So many are in it that another one would have to wait."""
        entries = await self._store.scan(self._prefix)
        return len(entries) >= self._capacity

    async def has_turn(self, ticket: PresenceKey) -> bool:
        """It is among the first now."""
        return len(await self._before(ticket, self.view())) < self._capacity

    def view(self) -> Live:
        """Of one who waits: it knows since when the others are silent, through all attempts of `wait_turn`."""
        return Live(self._store)

    async def wait_turn(self, ticket: PresenceKey, live: Live) -> Turn:
        """Return once the ticket is among the first. It is up to the caller to notice that it was lost."""
        before = await self._before(ticket, live)
        while len(before) >= self._capacity:
            gone = await self._until_one_leaves(before[-self._capacity :], live)
            won = await self._won_by(gone)
            if won is not None:
                return Turn(won)
            live.keep((await self._store.get_many(other.key for other in before)).values(), at=now())
            before = live.older_than(ticket.number)
        return Turn()

    async def _before(self, ticket: PresenceKey, live: Live) -> list[Ticket]:
        live.keep(await self._store.scan(self._prefix), at=now())
        return live.older_than(ticket.number)

    async def _until_one_leaves(self, nearest: list[Ticket], live: Live) -> Ticket:
        """Return once one of them has left; which one, as it was last seen."""
        watched = [before.key for before in nearest]
        async with self._store.watch([key.removesuffix(_TICKET) for key in watched]) as watch:
            # Read after the watch has begun: who left before is missing here, who leaves after is told there.
            found = await self._store.get_many(watched)
            for key in watched:
                if key in found:
                    live.see(found[key], at=now())
                else:
                    live.tickets.pop(key, None)
            last = {before.key: before for before in nearest}
            while True:
                for before in nearest:
                    known = live.tickets.get(before.key)
                    if known is None or known.number != before.number:
                        return last[before.key]
                    last[before.key] = known
                await live.next(watch, among=watched)

    async def _won_by(self, gone: Ticket) -> int | None:
        """The revision of its winning write if it had the turn alone: then nobody else is left before its follower."""
        if self._capacity > 1 or gone.presence.won is not None:
            return gone.presence.won
        last = None if self._last_win is None else await self._last_win()
        return last.won if last is not None and last.number == gone.number else None
