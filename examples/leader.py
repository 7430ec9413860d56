"""Several candidates, one leader at a time, and writes that only the leader of the moment gets through.

Leadership is a lease: the block of a term is cancelled when it may have been lost, and what is written through
`term.fenced(store)` is refused by the server once another one leads, whatever the clocks say. See docs/coordination.md.

Usage: python examples/leader.py [URL]
"""

from __future__ import annotations

import asyncio
import secrets
import sys

import slipstream
from slipstream import FencedError, KvStore, LeaderElection, Term, UnsupportedError

NAME = "leader"
CANDIDATES = ["anna", "berta", "carla"]


class Cluster:
    """What the candidates do together; here it only notes who led, and that nobody led beside somebody else."""

    def __init__(self) -> None:
        self.terms: list[str] = []
        self._leading: str | None = None

    async def lead(self, name: str, term: Term, store: KvStore) -> None:
        if self._leading is not None:
            raise RuntimeError(f"{name} leads beside {self._leading}")
        self._leading = name
        self.terms.append(name)
        print(f"{name} leads, term {term.fencing_token.revision}")
        await record(store, name, term)
        self._leading = None


async def record(store: KvStore, name: str, term: Term) -> None:
    """The work of a leader: guarded by its term, where the server can."""
    try:
        writer = term.fenced(store)
    except UnsupportedError as error:  # before nats-server 2.11
        print(f"not fenced: {error.message}")
        writer = store
    await writer.put("led-by", name.encode())


async def candidate(store: KvStore, name: str, cluster: Cluster) -> None:
    """Lead once, however long it takes to get the chance."""
    election = LeaderElection(store, NAME, candidate=name, ttl=5)
    if await election.leader() is not None:
        print(f"{name} waits")
    async with election.campaign() as term:  # in turn
        await cluster.lead(name, term, store)
        print(f"{name} resigns")


async def main(url: str) -> None:
    async with asyncio.timeout(20), slipstream.connect(url) as connection:
        store = await connection.store(f"leader-{secrets.token_hex(4)}")
        try:
            cluster = Cluster()
            async with LeaderElection(store, NAME, candidate="dora", ttl=5).campaign() as term:
                print(f"dora is the leader when they come, in term {term.fencing_token.revision}")
                async with asyncio.TaskGroup() as tasks:
                    for name in CANDIDATES:
                        tasks.create_task(candidate(store, name, cluster))
                    await all_wait(store, len(CANDIDATES))
                    await term.resign()
                    print("dora lets them have it")
            if sorted(cluster.terms) != CANDIDATES:
                raise RuntimeError(f"each should have led once: {cluster.terms}")
            print(f"each of the {len(CANDIDATES)} led once, one after the other")
            await too_late(store, term)
        finally:
            await connection.delete_store(store.name)


async def all_wait(store: KvStore, count: int) -> None:
    """Return when so many are in the queue behind the leader: only here, so that they are seen to wait."""
    seen: set[str] = set()
    async with store.watch(f"{NAME}.queue.") as watch:
        async for update in watch:
            seen.add(update.key)
            if len(seen) > count:
                return


async def too_late(store: KvStore, term: Term) -> None:
    """What a former leader writes is refused."""
    try:
        await term.fenced(store).put("led-by", b"dora, still")
    except (FencedError, UnsupportedError) as error:
        print(f"dora is too late: {type(error).__name__}")
    else:
        raise RuntimeError("a former leader has written")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
