"""`python benchmarks/run.py`: slipstream beside nats-py and a raw socket, on servers of its own, in one run.

The contenders take turns, several rounds of them; what is shown is the median. A calibration loop between the turns
and the load of the machine say how far the numbers can be trusted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats.aio.client
import nats.errors

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.contenders import IN_FLIGHT, Incomplete, NatsPy, Slipstream
from benchmarks.raw import RawSocket
from benchmarks.report import ONE_BY_ONE, ROWS, Result, growth, picture, table
from slipstream.testing.server import NatsServer

VALUE = b"v" * 256
LIMIT = 300.0
"""Seconds for one turn: what takes longer has failed."""
Work = Callable[[], Awaitable[None] | None]


async def measure(loop: str, url: str, count: int, args: argparse.Namespace, rounds: int) -> Result:
    result = Result(loop, count)
    keys = [f"key.{number}" for number in range(count)]
    few = keys[: args.few]
    bucket = f"bench-{loop}-{count}"
    slip, npy = Slipstream(keys, few, VALUE), NatsPy(keys, few, VALUE)
    await slip.open(url, bucket)
    await slip.put_many()
    await npy.open(url, bucket)
    raw = RawSocket(url, bucket)
    floor: dict[str, Work] = {
        "put": lambda: raw.put(few, VALUE),
        "get": lambda: raw.get(few),
        "put_in_flight": lambda: raw.put_in_flight(few, VALUE, IN_FLIGHT),
        "get_in_flight": lambda: raw.get_in_flight(few, IN_FLIGHT),
        "put_many": lambda: raw.put_in_flight(keys, VALUE, 2000),
        "get_many": lambda: raw.get_many(keys),
        "hydrate": lambda: raw.hydrate(count),
        "keys": lambda: raw.hydrate(count, headers_only=True),
    }
    turns: dict[tuple[str, str], Work] = {}
    for mine, theirs, lowest in ROWS.values():
        turns["slipstream", mine] = getattr(slip, mine)
        turns["nats-py", theirs] = getattr(npy, theirs)
        turns["raw", lowest] = floor[lowest]
    try:
        for number in range(rounds):
            for (who, what), work in turns.items():
                if (who, what) in result.failures:
                    continue
                print(f"\r{loop} {count:,} round {number + 1}: {who} {what:<30}", end="", file=sys.stderr, flush=True)
                result.calibrations.append(calibrate())
                wall, cpu = time.perf_counter(), time.process_time()
                try:
                    async with asyncio.timeout(LIMIT):
                        doing = work()
                        if doing is not None:
                            await doing
                except (Incomplete, TimeoutError, nats.errors.Error) as error:
                    result.failures[who, what] = str(error) or f"no end within {LIMIT:g} s"
                    continue
                operations = len(few) if what in ONE_BY_ONE else count
                result.wall[who, what].append((time.perf_counter() - wall) / operations)
                result.cpu[who, what].append((time.process_time() - cpu) / operations)
            for who, contender in (("slipstream", slip), ("nats-py", npy)):
                async with asyncio.timeout(LIMIT):
                    result.latencies[who] += await contender.latencies(args.samples)
    finally:
        print("\r" + " " * 70, end="\r", file=sys.stderr, flush=True)
        raw.close()
        await npy.close()
        await slip.close()
    return result


def calibrate() -> float:
    """Seconds for a fixed piece of Python."""
    started = time.perf_counter()
    total = 0
    for number in range(100_000):
        total += number & 7
    return time.perf_counter() - started


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def run_loop(name: str, args: argparse.Namespace) -> tuple[list[Result], str]:
    results = []
    version = ""
    for count in args.keys:
        # A server of its own for every size: what one left behind must not slow the next.
        async with NatsServer() as server:
            rounds = args.rounds if count <= 100_000 else max(1, args.rounds // 2)
            results.append(await measure(name, server.url, count, args, rounds))
            version = server.version()
        print("\n".join(table(results[-1])), end="\n\n", flush=True)
    return results, version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--million", action="store_true", help="1,000,000 keys as well")
    parser.add_argument("--loops", nargs="+", default=["asyncio", "uvloop"], choices=["asyncio", "uvloop"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--few", type=int, default=5_000, help="operations of the work that goes one key at a time")
    parser.add_argument("--samples", type=int, default=300, help="latencies to take in each round")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/benchmarks.png"))
    args = parser.parse_args()
    if args.million:
        args.keys.append(1_000_000)
    load = os.getloadavg()[0]
    results: list[Result] = []
    version = ""
    for name in args.loops:
        factory = loop_factory(name)
        if factory is None:
            print(f"{name} is not installed: pip install 'slipstream-kv[bench]'")
            continue
        with asyncio.Runner(loop_factory=factory) as runner:
            found, version = runner.run(run_loop(name, args))
        results += found
    text = f"""# Benchmarks

Written by `make bench`: values of 256 bytes, a server on loopback, the contenders in turn in one process, medians of
{args.rounds} rounds. The raw socket sends the same commands, built beforehand, and only counts what comes back.
nats-py has no `put_many`, `get_many` and `scan`: they stand beside its {IN_FLIGHT} in flight and its `watchall`.
The targets are the ratios that are aimed at, against nats-py and against the raw socket. The CPU is the client's, for
each key or operation: other load on the machine changes it less than the time.

Python {platform.python_version()}, nats-py {nats.aio.client.__version__}, nats-server {version}, {os.cpu_count()}
cores;
load of the machine {load:.1f} before and {os.getloadavg()[0]:.1f} after. Client and server alone make no more than 2:
above that somebody else was busy too, and the times say little.

"""
    sections = [*(table(result) for result in results), growth(results)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text((text + "\n\n".join("\n".join(lines) for lines in sections if lines)).rstrip() + "\n")
    print("\n".join(growth(results)))
    try:
        picture(results, args.picture)
    except ImportError:
        print("no picture: pip install 'slipstream-kv[bench]'")


if __name__ == "__main__":
    main()
