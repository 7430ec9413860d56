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
    """

    holder: str
    token: FencingToken
    began: float
    ended: float = float("inf")


@dataclass
class Stints:
    """The stints of a test, in the order in which they began."""

    all: list[Stint] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @asynccontextmanager
    async def of(self, holder: str, token: FencingToken) -> AsyncIterator[Stint]:
        """The holder has it for as long as the block runs."""
        stint = Stint(holder, token, now())
        self.all.append(stint)
        await self._tell()
        try:
            yield stint
        finally:
            stint.ended = now()

    async def after(self, token: FencingToken | None = None) -> Stint:
        """The first with a greater token, as soon as there is one; the first of all for None."""
        async with self.changed:
            await self.changed.wait_for(lambda: self._later(token))
        return self._later(token)[0]

    def overlaps(self) -> list[tuple[Stint, Stint]]:
        """Those of two holders at a time, the earlier one first."""
        return [(one, other) for one, other in itertools.combinations(self.all, 2) if other.began < one.ended]

    def tokens_grow(self) -> bool:
        """Each later stint has a greater token than all before."""
        tokens = [stint.token for stint in self.all]
        return tokens == sorted(set(tokens))

    def _later(self, token: FencingToken | None) -> list[Stint]:
        return [stint for stint in self.all if token is None or stint.token > token]

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


async def written_tokens(store: KvStore, prefix: str = "log.") -> list[FencingToken]:
    """Those that were written as values, in the order in which the server stored them."""
    entries = sorted(await store.scan(prefix), key=lambda entry: entry.revision or 0)
    return [FencingToken.parse(entry.value.decode()) for entry in entries]
