"""An edge node: a local copy that answers without the network, survives restarts and repairs itself.

And ships: what one node exports, a new one with an empty disk starts from.

Usage: python examples/edge_node.py [URL]
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from obstore.store import MemoryStore

import slipstream
from slipstream import (
    AppendLogSnapshot,
    KvStore,
    KvUpdate,
    Lease,
    ObjectStoreTransport,
    Replica,
    bootstrap,
    export_round,
)

ROUTES = {f"route.{number:04}": f"10.0.0.{number % 250}".encode() for number in range(2000)}


def show(batch: Sequence[KvUpdate]) -> None:
    """What arrives once the node is ready."""
    for update in batch:
        print(f"   {update.operation.name} {update.key} {update.value.decode()}".rstrip())


def expect(replica: Replica, routes: dict[str, bytes]) -> None:
    if {entry.key: entry.value for entry in replica.range()} != routes:
        raise RuntimeError("the copy is not what the bucket holds")
    print(f"   {len(replica)} routes, the bucket's")


async def first_life(store: KvStore, folder: str) -> None:
    print("first life: everything is read once")
    snapshot, _ = await AppendLogSnapshot.open(folder)
    async with snapshot, Replica(store, "route.", snapshot=snapshot) as replica:
        await replica.ready()
        progress = replica.progress()
        print(f"   ready: {progress.done} of {progress.expected} updates, {progress.fraction:.0%}")
        expect(replica, ROUTES)
        entry = replica.get("route.0007")  # no round trip
        print(f"   route.0007 leads to {entry.value.decode() if entry else 'nowhere'}")
        replica.on_change(show)
        await replica.wait_for(await store.put("route.0007", b"10.9.9.9"))


async def second_life(store: KvStore, folder: str) -> None:
    await store.put("route.0008", b"10.9.9.8")
    await store.delete("route.0009")
    print("second life: only what changed while it was down is read")
    snapshot, _ = await AppendLogSnapshot.open(folder)
    async with snapshot, Replica(store, "route.", snapshot=snapshot) as replica:
        print(f"   starts with {len(replica)} routes")
        await replica.ready()
        print(f"   ready after {replica.progress().done} updates")
        now = {**ROUTES, "route.0007": b"10.9.9.9", "route.0008": b"10.9.9.8"}
        del now["route.0009"]
        expect(replica, now)


async def third_life(store: KvStore, folder: str) -> None:
    await store.delete("route.0000")
    await store.purge_deletes()
    new = {key: b"10.1.1.1" for key in ROUTES if key != "route.0000"}
    for _ in range(2):
        await store.put_many({**new, "other": b"not ours"})
    print("third life: what its cursor stands for has gone, so the copy is compared with the bucket and repaired")
    snapshot, _ = await AppendLogSnapshot.open(folder)
    async with snapshot, Replica(store, "route.", snapshot=snapshot) as replica:
        await replica.ready()
        print(f"   repaired {replica.statistics().repairs} time")
        expect(replica, new)


async def export(store: KvStore, folder: str, transport: ObjectStoreTransport) -> None:
    print("export: every node would, the one with the lease does")
    snapshot, _ = await AppendLogSnapshot.open(folder)
    async with snapshot, Replica(store, "route.", snapshot=snapshot) as replica:
        await replica.ready()
        rounds = [export_round(replica, transport, Lease(store, "export")) for _ in range(2)]
        published = [publication for publication in await asyncio.gather(*rounds) if publication is not None]
    if [publication.moved for publication in published] != [True]:
        raise RuntimeError("one round has one exporter")
    print(f"   {len(published)} of 2 exported")


async def new_node(store: KvStore, folder: str, transport: ObjectStoreTransport) -> None:
    await store.put("route.0001", b"10.2.2.2")
    print("a new node: its disk is empty, the artifact is not")
    manifest = await bootstrap(transport, folder, kind=AppendLogSnapshot, bucket=store.name, prefix="route.")
    if manifest is None:
        raise RuntimeError("nothing was published")
    print(f"   {manifest.keys} routes are imported")
    snapshot, _ = await AppendLogSnapshot.open(folder)
    async with snapshot, Replica(store, "route.", snapshot=snapshot) as replica:
        await replica.ready()
        print(f"   ready after {replica.progress().done} update")
        now = {key: b"10.1.1.1" for key in ROUTES if key != "route.0000"}
        expect(replica, {**now, "route.0001": b"10.2.2.2"})


async def main(url: str) -> None:
    async with asyncio.timeout(25), slipstream.connect(url) as connection:
        store = await connection.store(f"edge-node-{secrets.token_hex(4)}")
        try:
            await store.put_many(ROUTES)
            await store.put("other", b"not ours")
            with tempfile.TemporaryDirectory() as folder:  # a node has one that stays
                old, new = Path(folder, "old"), Path(folder, "new")
                for life in (first_life, second_life, third_life):
                    await life(store, str(old))
                # In earnest: S3Store("artifacts", region=...), or what else obstore has a store for.
                transport = ObjectStoreTransport(MemoryStore(), "edge-node")
                await export(store, str(old), transport)
                await new_node(store, str(new), transport)
            print("done")
        finally:
            await connection.delete_store(store.name)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
