"""elect, lock, members: a command that runs for as long as something is held, and is ended when it is lost."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from slipstream.coordination import FencingToken, LeaderElection, Lease, Membership
from slipstream.interfaces import KvStore
from slipstream.testing._fixtures import MakeProxy
from slipstream.testing._waiting import bounded, eventually
from slipstream.testing.proxy import FaultProxy
from tests.cli.conftest import Cli, Running

SAYS_AND_STAYS = "import signal, sys, time; print('started', flush=True); signal.pause()"
COUNTS_SIGNALS = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda number, _: os.write(1, f"{signal.Signals(number).name}\\n".encode()))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("started", flush=True)
while True:
    signal.pause()
"""
# It ignores SIGTERM, and so does the process that it starts: its parent's end is not its own.
DEAF_WITH_A_CHILD = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(os.getpid(), child.pid, flush=True)
signal.pause()
"""


def python(code: str) -> tuple[str, ...]:
    return "--", sys.executable, "-c", code


async def proxied(fault_proxy: MakeProxy, url: str) -> FaultProxy:
    host, _, port = url.removeprefix("nats://").partition(":")
    return await fault_proxy(host, int(port))


def runs(pid: int) -> bool:
    try:
        # One that nobody has waited for yet does not run any more, either.
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pid: int) -> None:
    async def is_gone() -> bool:
        return not runs(pid)

    await eventually(is_gone)


@pytest.mark.parametrize("command", ["elect", "lock"])
async def test_the_exit_code_is_the_commands(cli: Cli, store: KvStore, command: str) -> None:
    at = ("--store", store.name)
    ended = await cli(command, "job", *at, *python("import sys; print('ran'); sys.exit(9)"), code=9)
    assert (ended.out, ended.err) == ("ran\n", "")
    await cli(command, "job", *at, *python("import os, signal; os.kill(os.getpid(), 9)"), code=128 + 9)
    assert "No such file" in (await cli(command, "job", *at, "--", "/no/such/command", code=2)).err
    # It was given back: nobody waits for the ttl.
    assert await Lease(store, "job").try_acquire() is not None


async def test_the_command_knows_its_fencing_token(cli: Cli, store: KvStore) -> None:
    code = "import os; print(os.environ['SLIPSTREAM_FENCING_TOKEN'])"
    first = await cli("elect", "job", "--store", store.name, *python(code))
    second = await cli("lock", "job", "--store", store.name, *python(code))
    assert FencingToken.parse(first.out.strip()) < FencingToken.parse(second.out.strip())


async def test_arguments_after_the_dashes_are_the_commands_own(cli: Cli, store: KvStore) -> None:
    ended = await cli("lock", "job", "--store", store.name, "--", "echo", "--json", "-x", "--", "--store", "b")
    assert ended.out == "--json -x -- --store b\n"


async def test_one_leads_and_the_next_one_takes_over(cli: Cli, store: KvStore) -> None:
    elect = ("elect", "job", "--store", store.name, "--ttl", "2", "--candidate")
    first = await cli.start(*elect, "one", *python(SAYS_AND_STAYS))
    assert await first.line() == "started"
    leader = await LeaderElection(store, "job").leader()
    assert leader is not None
    assert leader.candidate == "one"
    second = await cli.start(*elect, "two", *python(SAYS_AND_STAYS))
    ended = await first.end(signal.SIGTERM)
    assert ended.code == 128 + signal.SIGTERM  # so ended its command
    assert await second.line() == "started"
    leader = await LeaderElection(store, "job").leader()
    assert leader is not None
    assert leader.candidate == "two"
    assert (await second.end(signal.SIGINT)).code == 128 + signal.SIGINT


async def test_signals_are_passed_on(cli: Cli, store: KvStore) -> None:
    running = await cli.start("lock", "job", "--store", store.name, *python(COUNTS_SIGNALS))
    assert await running.line() == "started"
    for number in (signal.SIGHUP, signal.SIGUSR1):
        running.signal(number)
        assert await running.line() == number.name
    assert (await running.end(signal.SIGTERM)).code == 7


@pytest.mark.parametrize("command", ["elect", "lock"])
async def test_who_waits_is_ended_by_a_signal_and_by_its_patience(cli: Cli, store: KvStore, command: str) -> None:
    async with Lease(store, "job"):
        ended = await cli(
            command, "job", "--store", store.name, "--wait", "0.5", "--json", *python(SAYS_AND_STAYS), code=5
        )
        assert ended.error["error"] == "OperationTimeoutError"
        running = await cli.start(command, "job", "--store", store.name, *python(SAYS_AND_STAYS))

        async def waits() -> bool:
            return len(await store.keys("job.queue.")) == 2

        await eventually(waits)
        assert (await running.end(signal.SIGTERM)).code == 128 + signal.SIGTERM
        assert len(await store.keys("job.queue.")) == 1


async def lost(cli: Cli, store: KvStore, proxy: FaultProxy, command: str, code: str, *more: str) -> Running:
    """A running command whose lease is about to be lost: the way to the server is cut."""
    arguments = (command, "job", "--store", store.name, "--url", proxy.url, "--ttl", "2", *more)
    return await cli.start(*arguments, *python(code))


@pytest.mark.parametrize("command", ["elect", "lock"])
async def test_what_is_lost_ends_the_command(
    cli: Cli, store: KvStore, nats_url: str, fault_proxy: MakeProxy, command: str
) -> None:
    proxy = await proxied(fault_proxy, nats_url)
    running = await lost(cli, store, proxy, command, SAYS_AND_STAYS, "--json")
    assert await running.line() == "started"
    proxy.black_hole()
    ended = await running.end()
    assert ended.code == 3
    assert '"error": "FencedError"' in ended.err


async def test_a_command_that_will_not_end_is_killed_with_its_children(
    cli: Cli, store: KvStore, nats_url: str, fault_proxy: MakeProxy
) -> None:
    proxy = await proxied(fault_proxy, nats_url)
    running = await lost(cli, store, proxy, "elect", DEAF_WITH_A_CHILD)
    pids = [int(pid) for pid in (await running.line()).split()]
    proxy.black_hole()
    assert (await running.end()).code == 3
    for pid in pids:
        await gone(pid)


async def test_again(cli: Cli, store: KvStore, nats_url: str, fault_proxy: MakeProxy) -> None:
    proxy = await proxied(fault_proxy, nats_url)
    running = await lost(cli, store, proxy, "elect", SAYS_AND_STAYS, "--again")
    assert await running.line() == "started"
    proxy.black_hole()

    async def expired() -> bool:
        return not await store.keys("job.queue.")

    await eventually(expired)
    await proxy.heal()
    assert await running.line() == "started"
    ended = await running.end(signal.SIGTERM)
    assert ended.code == 128 + signal.SIGTERM
    assert "warning: " in ended.err


async def test_members(cli: Cli, store: KvStore) -> None:
    at = ("--store", store.name)
    await cli("members", "workers", *at, code=1)
    async with bounded(), Membership(store, "workers", member="one", value=b"10.0.0.1"):
        assert (await cli("members", "workers", *at)).out == "one\t10.0.0.1\n"
        running = await cli.start("members", "workers", "--watch", "--json", *at)
        assert (await running.record())["event"] == "joined"
    left = await running.record()
    assert (left["event"], left["member"], left["value"]) == ("left", "one", "10.0.0.1")
    assert (await running.end(signal.SIGINT)).code == 0
