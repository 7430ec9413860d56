"""Random faults on a three-node cluster and on a single server, with every checker on: `make soak MINUTES=5 SEED=7`.

It goes in rounds. Each has fresh buckets, clients of all nodes that read and write, counters that are raised by
compare-and-swap, watches from the beginning and on a prefix, and a few faults one after the other. When all is healed
the clients stop and everything is checked: the order of the operations of each key, each watch against the ledger,
each counter against what was acknowledged. The first violation ends it with exit status 1 and its account.

The seed fixes which faults come when, not what the machine does meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

from slipstream import CursorExpiredError, KvError, KvStore, StoreConfig, StoreNotFoundError
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.testing._raw import raw_client
from slipstream.testing.checkers import Ledger, Outcome, check_linearizable, check_watch
from slipstream.testing.cluster import ClusterNode, NatsCluster
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer
from tests.integration.faults.workload import CONDITIONAL, READING, Follower, Workload, new_bucket

CALM_SECONDS = 1.0
ROUND_SECONDS = 150.0
"""No round takes as long: what hangs is a violation, too."""
TOLD_SECONDS = 60.0
COUNTERS = 3
Fault = Callable[[random.Random], Awaitable[None]]


class Site:
    """Where a round takes place: URLs for its clients, and what can befall it."""

    def __init__(self, name: str, urls: list[str], raw_url: str, copies: int, faults: dict[str, Fault]) -> None:
        self.name = name
        self.urls = urls
        self.raw_url = raw_url
        self.copies = copies
        self.faults = faults
        self.bucket = ""


async def for_a_while(chance: random.Random, longest: float) -> None:
    await asyncio.sleep(chance.uniform(longest / 4, longest))


def path_faults(proxies: list[FaultProxy]) -> dict[str, Fault]:
    """What can befall the path between clients and a server."""

    async def cut(chance: random.Random) -> None:
        for _ in range(5):
            done = chance.choice(proxies).cut_after(
                chance.randrange(1, 20_000), chance.choice(("to_server", "to_client"))
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), 2.0)

    async def reset(chance: random.Random) -> None:
        for proxy in proxies:
            proxy.reset()
        await for_a_while(chance, 1.0)

    async def half_dead(chance: random.Random) -> None:
        chance.choice(proxies).half_dead()
        await for_a_while(chance, 8.0)

    async def black_hole(chance: random.Random) -> None:
        chance.choice(proxies).black_hole(chance.choice(("to_server", "to_client", "both")))
        await for_a_while(chance, 8.0)

    async def freeze(chance: random.Random) -> None:
        chance.choice(proxies).freeze()
        await for_a_while(chance, 8.0)

    async def latency(chance: random.Random) -> None:
        chance.choice(proxies).latency(chance.uniform(0.05, 0.5))
        await for_a_while(chance, 4.0)

    return {each.__name__: each for each in (cut, reset, half_dead, black_hole, freeze, latency)}


def server_site(server: NatsServer, proxy: FaultProxy) -> Site:
    async def kill(chance: random.Random) -> None:
        await server.kill()
        await for_a_while(chance, 3.0)
        await server.start()

    async def restart(chance: random.Random) -> None:
        await server.restart()

    async def pause(chance: random.Random) -> None:
        server.pause()
        await for_a_while(chance, 12.0)
        server.resume()

    return Site(
        "server",
        [server.url, proxy.url],
        server.url,
        1,
        {each.__name__: each for each in (kill, restart, pause)} | path_faults([proxy]),
    )


def cluster_site(cluster: NatsCluster, proxies: list[FaultProxy]) -> Site:
    async def kill(chance: random.Random) -> None:
        node = await victim(chance)
        await node.kill()
        await for_a_while(chance, 15.0)
        await node.start()

    async def pause(chance: random.Random) -> None:
        node = await victim(chance)
        node.pause()
        await for_a_while(chance, 15.0)
        node.resume()

    async def isolate(chance: random.Random) -> None:
        cluster.isolate(await victim(chance))
        await for_a_while(chance, 20.0)
        await cluster.heal()

    async def delay(chance: random.Random) -> None:
        cluster.delay(*chance.sample(cluster.nodes, 2), seconds=chance.uniform(0.05, 0.3))
        await for_a_while(chance, 5.0)
        await cluster.heal()

    async def victim(chance: random.Random) -> ClusterNode:
        return await cluster.leader(site.bucket) if chance.random() < 0.7 else chance.choice(cluster.nodes)

    faults: dict[str, Fault] = {each.__name__: each for each in (kill, pause, isolate, delay)}
    site = Site(
        "cluster",
        [cluster.url, *(node.url for node in cluster.nodes), *(proxy.url for proxy in proxies)],
        cluster.url,
        3,
        faults | path_faults(proxies),
    )
    return site


class CasCounter:
    """A number that many raise by compare-and-swap: in the end as often as acknowledged, and some of the unknown."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.raised = self.unknown = 0

    async def run(self, store: KvStore, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            with suppress(KvError):
                entry = await store.get(self.key)
                value = b"%d" % (int(entry.value) + 1 if entry is not None else 1)
                try:
                    if entry is None:
                        await store.create(self.key, value)
                    else:
                        await store.update(self.key, value, entry.version)
                    self.raised += 1
                except KvError as error:
                    self.unknown += error.outcome_unknown
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), 0.03)

    def check(self, value: int) -> None:
        assert self.raised <= value <= self.raised + self.unknown, (
            f"{self.key} is {value}; {self.raised} were acknowledged, {self.unknown} of unknown outcome"
        )


async def follow_recreations(connection: NatsConnection, bucket: str, stopped: asyncio.Event) -> int:
    """Make a bucket again and again under a watch, which has to be told of each time; how often."""
    times = 0
    while not stopped.is_set():
        with suppress(KvError):
            if await told_of_recreation(connection, bucket):
                times += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), 1.0)
    with suppress(KvError):
        await connection.delete_store(bucket)
    return times


async def told_of_recreation(connection: NatsConnection, bucket: str) -> bool:
    """Raises: TimeoutError where the watch was not told; KvError where it could not be tried."""
    async with (await connection.store(bucket)).watch() as watch:
        await connection.delete_store(bucket)
        await (await connection.store(bucket)).put("key", b"value")
        try:
            async with asyncio.timeout(TOLD_SECONDS):
                async for _ in watch:
                    pass
        except (CursorExpiredError, StoreNotFoundError):
            return True
    raise AssertionError(f"the watch of {bucket} ended without a word")


async def play_round(site: Site, chance: random.Random, restore: Callable[[], Awaitable[None]]) -> str:
    """One round. Returns what there was. Raises: AssertionError, TimeoutError, KvError for what must not be."""
    site.bucket, faults = f"soak-{secrets.token_hex(6)}", chance.sample(sorted(site.faults), 3)
    print(f"  {site.name}: {', '.join(faults)}", flush=True)
    async with AsyncExitStack() as stack:

        async def opened(url: str) -> NatsConnection:
            return await stack.enter_async_context(NatsConnection(NatsConnectionConfig(url=url)))  # type: ignore[arg-type]

        first = await opened(site.raw_url)
        await new_bucket(first, StoreConfig(name=site.bucket, num_replicas=site.copies))
        await new_bucket(first, StoreConfig(name=f"{site.bucket}-counters", num_replicas=site.copies))
        work = Workload(chance.randrange(10**9))
        stopped = asyncio.Event()
        counters = [CasCounter(f"counter.{number}") for number in range(COUNTERS)]
        connections = [await opened(url) for url in site.urls]
        stores = [await connection.store(site.bucket) for connection in connections]
        counting = [await connection.store(f"{site.bucket}-counters") for connection in connections]
        followers = [(Follower(store, prefix), prefix) for store in stores for prefix in ("", "k0.", "k2.1")]
        async with asyncio.TaskGroup() as tasks:
            watches = [tasks.create_task(follower.run()) for follower, _ in followers]
            await asyncio.gather(*(follower.ready.wait() for follower, _ in followers))
            clients = []
            for number, store in enumerate(stores):
                clients.append(tasks.create_task(work.client(store, f"mixed-{number}")))
                clients.append(tasks.create_task(work.client(store, f"reading-{number}", READING)))
                clients.append(tasks.create_task(work.client(store, f"conditional-{number}", CONDITIONAL)))
            for counter, store in zip(counters * len(counting), counting * COUNTERS, strict=True):
                clients.append(tasks.create_task(counter.run(store, stopped)))
            again = tasks.create_task(follow_recreations(first, f"{site.bucket}-again", stopped))
            for fault in faults:
                await asyncio.sleep(CALM_SECONDS)
                await site.faults[fault](chance)
                if chance.random() < 0.7:
                    await restore()
            await restore()
            await asyncio.sleep(CALM_SECONDS)
            work.stop()
            stopped.set()
            await asyncio.gather(again, *clients)
            async with raw_client(site.raw_url) as raw:
                end = await raw.contents(site.bucket)
                numbers = await raw.contents(f"{site.bucket}-counters")
            await stores[0].put(followers[0][0].last, b"now")
            await asyncio.gather(*watches)
    check_linearizable(work.history.actions)
    ledger = Ledger.of(work.history.actions)
    for follower, prefix in followers:
        check_watch(follower.updates, ledger, end, prefix=prefix)
    for counter in counters:
        counter.check(int(numbers[counter.key][1]) if counter.key in numbers else 0)
    await first_deleted(site)
    outcomes = Counter(action.outcome for action in work.history.actions)
    return (
        f"{len(work.history.actions)} operations, {outcomes[Outcome.UNKNOWN]} of unknown outcome, "
        f"{sum(len(follower.updates) for follower, _ in followers)} updates, "
        f"{sum(counter.raised for counter in counters)} counts, "
        f"{again.result()} recreations told"
    )


async def first_deleted(site: Site) -> None:
    """Remove the buckets of the round."""
    async with NatsConnection(NatsConnectionConfig(url=site.raw_url)) as connection:  # type: ignore[arg-type]
        for bucket in (site.bucket, f"{site.bucket}-counters"):
            await connection.delete_store(bucket)


async def soak(minutes: float, seed: int) -> int:
    """The exit status."""
    ends_at = time.monotonic() + 60 * minutes
    chance = random.Random(seed)
    print(f"seed {seed}, {minutes:g} minutes", flush=True)
    rounds = 0
    async with NatsCluster() as cluster, NatsServer() as server, AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(FaultProxy("127.0.0.1", node.port)) for node in cluster.nodes[:2]]
        proxy = await stack.enter_async_context(FaultProxy("127.0.0.1", server.port))

        async def restore_cluster() -> None:
            for each in proxies:
                await each.heal()
            await cluster.restore()

        async def restore_server() -> None:
            await proxy.heal()

        places = [(cluster_site(cluster, proxies), restore_cluster), (server_site(server, proxy), restore_server)]
        while time.monotonic() < ends_at:
            site, restore = places[rounds % len(places)]
            rounds += 1
            round_seed = chance.randrange(10**9)
            began = time.monotonic()
            try:
                async with asyncio.timeout(ROUND_SECONDS):
                    said = await play_round(site, random.Random(round_seed), restore)
            except Exception:  # whatever it is, it is the finding
                print(f"VIOLATION in round {rounds} on the {site.name}, seed {seed}, bucket {site.bucket}:", flush=True)
                logging.getLogger(__name__).exception("round %d", rounds)
                return 1
            left = max(0.0, ends_at - time.monotonic())
            print(
                f"round {rounds} on the {site.name}, {time.monotonic() - began:.0f} s: {said}; {left:.0f} s left",
                flush=True,
            )
    print(f"{rounds} rounds, nothing found; seed {seed}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    return asyncio.run(soak(options.minutes, secrets.randbelow(10**6) if options.seed is None else options.seed))


if __name__ == "__main__":
    sys.exit(main())
