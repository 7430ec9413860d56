"""Choosing a leader."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from slipstream.coordination.lease import DEFAULT_TTL, Lease, holder_key, to_seconds
from slipstream.coordination.live import Live
from slipstream.coordination.patience import PatientStore, RecordStore
from slipstream.coordination.presence import Lost
from slipstream.coordination.records import FencingToken, Holder, Presence
from slipstream.coordination.turns import Pauses, passes
from slipstream.errors import FencedError, KvError
from slipstream.interfaces import KvStore, KvWriter, T, Ttl
from slipstream.model import KvEntry, KvUpdate, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """Who leads.

    Attributes:
        candidate: what the leader calls itself.
        fencing_token: of its term.
    """

    candidate: str
    fencing_token: FencingToken


class Term:
    """One term of office: inside of `async with election.campaign() as term`."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.fencing_token: FencingToken = lease.fencing_token
        self.lost: Lost = lease.lost

    @property
    def is_leading(self) -> bool:
        """For certain, by the local clock; no I/O."""
        return self._lease.is_held

    def fenced(self, store: KvStore) -> KvWriter:
        """A writer whose every write is refused once this term is over; see `Lease.fenced`."""
        return self._lease.fenced(store)

    async def resign(self) -> None:
        """End the term before its block ends; safe to repeat.

        From inside of the block the block goes on, without leadership; from elsewhere it is cancelled and raises
        FencedError.
        """
        await self._lease.resign()


class LeaderElection:
    """One leader at a time of all who campaign under a name; the next is who has waited longest.

    Leadership is a `Lease`: what is said there of `ttl`, of loss and of fencing holds here. One object is one
    candidate, in one campaign at a time.

    Args:
        store, name, ttl: see `Lease`.
        candidate: what this candidate is called towards others; None: host and process.
    """

    def __init__(self, store: KvStore, name: str, *, ttl: Ttl = DEFAULT_TTL, candidate: str | None = None) -> None:
        self._store = PatientStore(store, ttl=to_seconds(ttl))
        self._lease = Lease(store, name, ttl=ttl, holder=candidate)
        self._term: Term | None = None
        self.name = name
        self.candidate = self._lease.holder

    @asynccontextmanager
    async def campaign(self, *, timeout: float | None = None) -> AsyncIterator[Term]:
        """Wait until this candidate leads, then run the block as its term; leaving it resigns.

        The block is cancelled when leadership may be lost, by the local clock and before the server lets another one
        lead, and then raises FencedError. A process that stands still learns it when it goes on.

        Args:
            timeout: seconds until elected; None waits for as long as it takes.
        Raises: OperationTimeoutError when that is over; as `Lease.acquire`.
        """
        await self._lease.acquire(timeout=timeout)
        async with self._lease as lease:
            self._term = Term(lease)
            try:
                yield self._term
            finally:
                self._term = None

    async def run(self, fn: Callable[[Term], Awaitable[T]]) -> T:
        """Campaign and run `fn(term)`; campaign and run it again whenever a term was lost before it had returned.

        Returns: what `fn` returned.
        Raises: what `fn` raised while it led; errors of the campaign that do not pass.
        """
        pauses = Pauses()
        while True:
            term: Term | None = None
            try:
                async with self.campaign() as term:
                    return await fn(term)
            except FencedError:
                if term is None or not term.lost.is_set():
                    raise  # of another fence
            await pauses.pause()

    async def resign(self) -> None:
        """End this candidate's term, if it leads; see `Term.resign`. `run` then campaigns again, as the last."""
        if self._term is not None:
            await self._term.resign()

    async def leader(self) -> Leader | None:
        """Who leads now, None for nobody. On a server without ttls one that has died since may still be named."""
        return await _read_leader(self._store, self.name)

    async def observe(self) -> AsyncIterator[Leader | None]:
        """Who leads, now and after every change; None while nobody does. Not every short term may be seen.

        Outlives lost connections and a bucket made again. Close it (`aclose`) if it is left early.
        """
        seen: Leader | str | None = "nothing yet"
        pauses = Pauses()
        while True:
            try:
                async with self._store.watch(f"{self.name}.") as watch:
                    incarnation = (await self._store.status()).incarnation
                    view = _LeaderView(self._store, self.name, incarnation)
                    await view.live.hydrate(watch)
                    pauses = Pauses()
                    while True:
                        if view.leader != seen:
                            seen = view.leader
                            yield view.leader
                        await view.live.next(watch)
            except KvError as error:
                if not passes(error):
                    raise
            await pauses.pause()


class _LeaderView:
    """The leader, from a watch of the lease."""

    def __init__(self, store: RecordStore, name: str, incarnation: datetime) -> None:
        self.live = Live(store, aside={holder_key(name): self._see})
        self._incarnation = incarnation
        self._holder: tuple[Holder, int] | None = None

    @property
    def leader(self) -> Leader | None:
        if self._holder is None:
            return None
        holder, revision = self._holder
        ticket = self.live.tickets.get(holder.ticket)
        if ticket is None or ticket.presence.id != holder.id:
            return None
        token = FencingToken(incarnation=self._incarnation, revision=revision)
        return Leader(candidate=holder.name, fencing_token=token)

    def _see(self, update: KvUpdate) -> None:
        is_held = update.operation is Operation.PUT
        self._holder = (Holder.decode(update.value, key=update.key), update.revision or 0) if is_held else None


async def _read_leader(store: RecordStore, name: str) -> Leader | None:
    incarnation = (await store.status()).incarnation
    entry: KvEntry | None = await store.get(holder_key(name))
    if entry is None:
        return None
    holder = Holder.decode(entry.value, key=entry.key)
    ticket = await store.get(holder.ticket)
    if ticket is None or Presence.decode(ticket.value, key=ticket.key).id != holder.id:
        return None
    return Leader(
        candidate=holder.name, fencing_token=FencingToken(incarnation=incarnation, revision=entry.revision or 0)
    )
