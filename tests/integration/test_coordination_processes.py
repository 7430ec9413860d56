"""Leaders in processes of their own: killed, stopped for longer than their ttl, cut off, and with a jumping clock."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import FencingToken, KvStore, StoreConfig
from slipstream.coordination.clock import now
from slipstream.testing._waiting import eventually
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer
from tests.coordination.stints import Stint, Stints, written_tokens

MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]
PROGRAM = Path(__file__).with_name("candidate.py")
TTL = 4.0
WITHIN = TTL + 10.0  # seconds from a fault to the next leader
SLOW = 30.0


class Candidate:
    """A process that campaigns; what it says is in `stints` as soon as it has said it."""

    def __init__(self, process: asyncio.subprocess.Process, name: str, stints: Stints) -> None:
        self.name = name
        self.process = process
        self.ready = asyncio.Event()
        self.late: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._stints = stints
        self._killed_at = float("inf")

    async def listen(self) -> None:
        assert self.process.stdout is not None
        stint = None
        async for line in self.process.stdout:
            match json.loads(line):
                case {"event": "ready"}:
                    self.ready.set()
                case {"event": "began", "at": at, "token": token}:
                    stint = Stint(self.name, FencingToken.parse(token), at)
                    await self._stints.add(stint)
                case {"event": "ended", "at": at, "stood_still": seconds}:
                    assert stint is not None
                    stint.ended, stint.stood_still, stint = at, seconds, None
                case {"event": "late"} as late:
                    self.late.put_nowait(late)
        if stint is not None:
            stint.ended = self._killed_at

    def kill(self) -> None:
        self.process.kill()
        self._killed_at = now()

    async def write_late(self) -> dict[str, Any]:
        """What becomes of a write with the token of its first term."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(SLOW):
            return await self.late.get()


@asynccontextmanager
async def candidate(url: str, bucket: str, name: str, stints: Stints, *options: str) -> AsyncIterator[Candidate]:
    """Ready when the block begins, killed when it ends."""
    arguments = [str(PROGRAM), url, bucket, name, str(TTL), *options]
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, **pipes)  # type: ignore[arg-type]
    made = Candidate(process, name, stints)
    listening = asyncio.create_task(made.listen())
    try:
        async with asyncio.timeout(SLOW):
            await made.ready.wait()
        yield made
    finally:
        with suppress(ProcessLookupError):
            made.kill()
        await process.wait()
        await listening


@pytest.fixture(params=[{}, {"marker_ttl": None}], ids=["expiring", "silent"])
async def store(nats_server: NatsServer, request: pytest.FixtureRequest) -> AsyncIterator[KvStore]:
    """A bucket where keys expire, and one where they cannot."""
    async with slipstream.connect(nats_server.url) as connection:
        yield await connection.store(StoreConfig(name=f"test-{secrets.token_hex(4)}", **request.param))


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_there_is_a_leader_again_after_every_fault_and_never_a_second_one(
    nats_server: NatsServer, fault_proxy: MakeProxy, store: KvStore
) -> None:
    stints = Stints()
    async with AsyncExitStack() as stack:
        candidates, proxies = {}, {}
        for name in ("a", "b", "c", "d"):
            proxies[name] = await fault_proxy("127.0.0.1", nats_server.port)
            made = await stack.enter_async_context(candidate(proxies[name].url, store.name, name, stints))
            candidates[name] = made

        async def next_leader(before: Stint | None = None) -> Stint:
            """It has written, too."""
            async with asyncio.timeout(WITHIN):
                stint = await stints.after(None if before is None else before.token)

            async def has_written() -> bool:
                return await store.keys(f"log.{stint.holder}.{stint.token.revision}.") != []

            await eventually(has_written)
            return stint

        stopped = await next_leader()
        candidates[stopped.holder].process.send_signal(signal.SIGSTOP)
        killed = await next_leader(stopped)
        candidates[killed.holder].kill()
        cut_off = await next_leader(killed)
        proxies[cut_off.holder].black_hole()
        last = await next_leader(cut_off)
        candidates[stopped.holder].process.send_signal(signal.SIGCONT)
        for _ in range(5):
            late = await candidates[stopped.holder].write_late()
            assert (late["outcome"], late["by_the_server"]) == ("refused", True)
        assert len({stopped.holder, killed.holder, cut_off.holder, last.holder}) == 4
    assert stints.overlaps() == []
    assert stints.tokens_grow()
    # The one that could not know is the one that overlaps.
    assert stopped.ended > killed.began
    tokens = await written_tokens(store)
    assert {stopped.token, killed.token, cut_off.token, last.token} <= set(tokens)
    assert tokens == sorted(tokens)
    assert await store.keys("late.") == []


async def test_the_time_of_day_does_not_matter(nats_server: NatsServer, store: KvStore) -> None:
    """It jumps by days each time that either process looks at it."""
    stints = Stints()
    async with (
        candidate(nats_server.url, store.name, "a", stints, "jumps") as first,
        candidate(nats_server.url, store.name, "b", stints, "jumps"),
    ):
        async with asyncio.timeout(WITHIN):
            stint = await stints.after()
        await asyncio.sleep(2 * TTL)  # the passing of time is what is tested
        assert len(stints.all) == 1
        assert stint.ended == float("inf")
        if stint.holder == "a":
            first.kill()
            async with asyncio.timeout(WITHIN):
                assert (await stints.after(stint.token)).holder == "b"
    assert stints.overlaps() == []
