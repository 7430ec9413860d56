"""Who is there, as a watch tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from slipstream.coordination.clock import now
from slipstream.coordination.presence import write_expiring
from slipstream.coordination.records import Ticket, TicketView
from slipstream.errors import RevisionMismatchError
from slipstream.interfaces import KvStore, Watch
from slipstream.model import KvUpdate


class Live(TicketView):
    """The presences that a watch tells of.

    Where keys cannot expire, the expiry is inside the value: one that was seen unchanged for its ttl is removed, by
    compare-and-swap, which wins only if it was not renewed meanwhile. No clocks of two machines are compared.
    """

    def __init__(self, store: KvStore, *, is_presence: Callable[[str], bool] = lambda key: True) -> None:
        super().__init__()
        self._store = store
        self._is_presence = is_presence

    async def next(self, watch: Watch, *, among: Collection[str] | None = None) -> KvUpdate | None:
        """Wait for the next update and take it in; None where instead somebody's time was up.

        Args:
            among: the keys that the watch tells of, None for all.
        """
        known = self.tickets.values() if among is None else [self.tickets[key] for key in among if key in self.tickets]
        silent = min(known, key=lambda ticket: ticket.silent_at, default=None)
        limit = asyncio.timeout(None if silent is None else max(0.0, silent.silent_at - now()))
        try:
            async with limit:
                update = await anext(watch)
        except TimeoutError:
            if not limit.expired() or silent is None:
                raise
            await self._evict(silent)
            return None
        if self._is_presence(update.key):
            self.see(update, at=now())
        return update

    async def _evict(self, silent: Ticket) -> None:
        try:
            await write_expiring(self._store, silent.key, b"", silent.version, ttl=silent.presence.ttl)
        except RevisionMismatchError:
            entry = await self._store.get(silent.key)  # renewed, or gone
            if entry is not None:
                self.see(entry, at=now())
                return
        self.tickets.pop(silent.key, None)
