"""Several candidates, one leader: whoever creates the key leads, and resigns by deleting its own record of it.

What compare-and-swap alone gives: of all who try, the server lets exactly one create the key, and only the leader's own
record is deleted when it resigns. What it does NOT give, for want of a lease and of fencing:
- A leader that crashes leaves the key behind, and nobody takes over until somebody removes it.
- A leader that is cut off or paused is not told that the key was removed meanwhile: for a while two believe to lead.
- Nothing stops a former leader from writing: put the version of its term beside what it writes and check it there.

Usage: python examples/leader.py [URL]
"""

from __future__ import annotations

import asyncio
import secrets
import sys

import slipstream
from slipstream import AlreadyExistsError, KvStore, Operation, VersionToken, Watch

KEY = "leader"
CANDIDATES = ["anna", "berta", "carla"]


class Cluster:
    """What the candidates do together; here it only notes who led, and that nobody led beside somebody else."""

    def __init__(self) -> None:
        self.terms: list[str] = []
        self._leading: str | None = None

    async def lead(self, name: str, term: VersionToken) -> None:
        if self._leading is not None:
            raise RuntimeError(f"{name} leads beside {self._leading}")
        self._leading = name
        self.terms.append(name)
        print(f"{name} leads, term {term}")
        await asyncio.sleep(0)  # the work: let the others try meanwhile
        self._leading = None


async def candidate(store: KvStore, name: str, cluster: Cluster, all_tried: asyncio.Barrier) -> None:
    """Lead once, however long it takes to get the chance."""
    async with store.watch(KEY) as watch:  # before the first try, so that no removal is missed
        term = await try_to_lead(store, name)
        await all_tried.wait()  # only here, so that the others are seen to wait for the first
        while term is None:
            print(f"{name} waits")
            await vacancy(watch)
            term = await try_to_lead(store, name)
    await cluster.lead(name, term)
    print(f"{name} resigns")
    await store.delete_with_version(KEY, term)


async def try_to_lead(store: KvStore, name: str) -> VersionToken | None:
    """The version of our term, None where somebody else leads."""
    try:
        # Where this fails with `outcome_unknown`, look at the key: the value tells whether it was us.
        return await store.create(KEY, name.encode())
    except AlreadyExistsError:
        return None


async def vacancy(watch: Watch) -> None:
    """Return when the key was removed, perhaps long ago: the next `create` tells."""
    async for update in watch:
        if update.operation is not Operation.PUT:
            return
    raise RuntimeError("the watch has ended")


async def main(url: str) -> None:
    async with asyncio.timeout(20), slipstream.connect(url) as connection:
        store = await connection.store(f"leader-{secrets.token_hex(4)}")
        try:
            cluster = Cluster()
            all_tried = asyncio.Barrier(len(CANDIDATES))
            async with asyncio.TaskGroup() as tasks:
                for name in CANDIDATES:
                    tasks.create_task(candidate(store, name, cluster, all_tried))
            if sorted(cluster.terms) != CANDIDATES:
                raise RuntimeError(f"each should have led once: {cluster.terms}")
            print(f"each of the {len(CANDIDATES)} led once, one after the other")
        finally:
            await connection.delete_store(store.name)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
