"""Who is there, as a watch tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from slipstream.coordination.clock import now
from slipstream.coordination.patience import RecordStore
from slipstream.coordination.presence import write_expiring
from slipstream.coordination.records import Ticket, TicketView
from slipstream.errors import KvError, RevisionMismatchError
from slipstream.interfaces import Watch
from slipstream.model import KvUpdate


class Live(TicketView):
    """The presences that a watch tells of.

    Where keys cannot expire, the expiry is inside the value: one that was seen unchanged for its ttl is removed, by
    compare-and-swap, which wins only if it was not renewed meanwhile. No clocks of two machines are compared.
    """

    def __init__(self, store: RecordStore, *, aside: Mapping[str, Callable[[KvUpdate], None]] | None = None) -> None:
        """`aside`: keys that are no presences, and who takes their updates."""
        super().__init__()
        self._store = store
        self._aside = dict(aside or {})

    async def hydrate(self, watch: Watch) -> None:
        """Take in the initial state, all of it. Raises what ended the watch."""
        failure: KvError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                taking = group.create_task(self._take_all(watch))
                # Proven some time after its last update, and then nothing may come for long.
                await watch.wait_hydrated()
                taking.cancel()  # which loses no update
        except* KvError as errors:
            failure = first_of(errors)
        if failure is not None:
            raise failure  # out here: Python before 3.11.4 makes a group of what is raised inside of except*

    async def next(self, watch: Watch, *, among: Collection[str] | None = None) -> None:
        """Wait for the next update, or for somebody's time to be up, and take it in.

        Args:
            among: the keys that the watch tells of, None for all.
        """
        known = self.tickets.values() if among is None else [self.tickets[key] for key in among if key in self.tickets]
        silent = min(known, key=lambda ticket: ticket.silent_at, default=None)
        limit = asyncio.timeout(None if silent is None else max(0.0, silent.silent_at - now()))
        try:
            async with limit:
                self._take(await anext(watch))
        except TimeoutError:
            if not limit.expired() or silent is None:
                raise
            await self._evict(silent)

    async def _take_all(self, watch: Watch) -> None:
        async for update in watch:
            self._take(update)

    def _take(self, update: KvUpdate) -> None:
        take = self._aside.get(update.key)
        if take is None:
            self.see(update, at=now())
        else:
            take(update)

    async def _evict(self, silent: Ticket) -> None:
        try:
            await write_expiring(self._store, silent.key, b"", silent.version, ttl=silent.presence.ttl)
        except RevisionMismatchError:
            entry = await self._store.get(silent.key)  # renewed, or gone
            if entry is not None:
                self.see(entry, at=now())
                return
        self.tickets.pop(silent.key, None)


def first_of(errors: BaseExceptionGroup[KvError]) -> KvError:
    """The tasks of a group that fail together fail of one cause."""
    for error in errors.exceptions:
        return error if isinstance(error, KvError) else first_of(error)
    raise AssertionError("a group of errors is never empty")
