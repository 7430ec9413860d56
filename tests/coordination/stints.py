"""Who held what, from when to when: the history that tests of leases record and judge."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from slipstream import FencingToken
from slipstream.coordination.clock import now
from slipstream.interfaces import KvStore


@dataclass(slots=True)
class Stint:
    """One time of holding. Times are of `clock.now`, which all processes of a machine share.

    Attributes:
        ended: infinite while it goes on.
        stood_still: for how many seconds its event loop had not turned when it ended: so long it could not know.
    """

    holder: str
    token: FencingToken
    began: float
    ended: float = float("inf")
    stood_still: float = 0.0


@dataclass
class Stints:
    """The stints of a test."""

    all: list[Stint] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @asynccontextmanager
    async def of(self, holder: str, token: FencingToken) -> AsyncIterator[Stint]:
        """The holder has it for as long as the block runs."""
        stint = Stint(holder, token, now())
        await self.add(stint)
        try:
            yield stint
        finally:
            stint.ended = now()

    async def add(self, stint: Stint) -> None:
        """One that has begun somewhere."""
        self.all.append(stint)
        async with self.changed:
            self.changed.notify_all()

    async def after(self, token: FencingToken | None = None) -> Stint:
        """The first with a greater token, as soon as there is one; the first of all for None."""
        async with self.changed:
            await self.changed.wait_for(lambda: self._later(token))
        return self._later(token)[0]

    def overlaps(self) -> list[tuple[Stint, Stint]]:
        """Those of two holders at a time although the earlier, which comes first, could know."""
        pairs = itertools.combinations(self.in_order(), 2)
        return [(one, other) for one, other in pairs if other.began < one.ended - one.stood_still]

    def tokens_grow(self) -> bool:
        """Each later stint has a greater token than all before."""
        tokens = [stint.token for stint in self.in_order()]
        return tokens == sorted(set(tokens))

    def in_order(self) -> list[Stint]:
        """As they began."""
        return sorted(self.all, key=lambda stint: stint.began)

    def _later(self, token: FencingToken | None) -> list[Stint]:
        return [stint for stint in self.all if token is None or stint.token > token]


async def written_tokens(store: KvStore, prefix: str = "log.") -> list[FencingToken]:
    """Those that were written as values, in the order in which the server stored them."""
    entries = sorted(await store.scan(prefix), key=lambda entry: entry.revision or 0)
    return [FencingToken.parse(entry.value.decode()) for entry in entries]
