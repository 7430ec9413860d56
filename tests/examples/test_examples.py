"""Every example runs to its end, says what it should, writes no error and leaves no bucket."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import nats
import pytest

import slipstream

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SECONDS = 30.0

QUICKSTART = [
    "1. Wrote a configuration tree of 5 keys.",
    "A scan of 'service.' finds 4 of them, in key order:",
    "RevisionMismatchError: expected revision 5",
    "through one consumer on the server",
    "Resumed from the cursor, it receives exactly what it missed",
    "     PUT service.web.host 127.0.0.1\n     DELETE service.db.host\n     PUT service.db.url db-2:5432\n",
    "CursorExpiredError: cursor",
    "All of it was as it should be; the buckets are removed.",
]
KEY_LINES = {
    "quickstart": QUICKSTART,
    "config_sync": [
        "   starts with currency='EUR' vat=7.0 db=Database(host='db-1', pool=5)\n",
        "made\n   the pool is resized from 5 to 9\n",
        "is rejected: db.pool: Input should be a valid integer, unable to parse string as an integer\n",
        "   still in force: host='db-1' pool=9\n",
        "   the pool is resized from 9 to 50\n   host='db-2' pool=50\n",
        "   the pool is resized from 50 to 5\n   currency='EUR' vat=7.0 db=Database(host='db-1', pool=5)\n",
        "   stale: True, currency='EUR' vat=7.0 db=Database(host='db-1', pool=5)\n",
    ],
    "asgi_config": [
        "hello, anna\n",
        "web.greeting = good morning\ngood morning, anna\n",
        "web.shout = true\nGOOD MORNING, ANNA\n",
        "web.shout = perhaps (rejected)\nGOOD MORNING, ANNA\n",
    ],
    "fastapi_config": [
        "hello, anna\n",
        "web.greeting = good morning\ngood morning, anna\n",
        "web.shout = true\nGOOD MORNING, ANNA\n",
        "web.shout = perhaps (rejected)\nGOOD MORNING, ANNA\n",
    ],
    "edge_node": [
        "   ready: 2000 of 2000 updates, 100%\n   2000 routes, the bucket's\n   route.0007 leads to 10.0.0.7\n",
        "   PUT route.0007 10.9.9.9\n",
        "   starts with 2000 routes\n   ready after 2 updates\n   1999 routes, the bucket's\n",
        "   repaired 1 time\n   1999 routes, the bucket's\n",
        "   1 of 2 exported\n",
        "   1999 routes are imported\n   ready after 1 update\n   1999 routes, the bucket's\ndone\n",
    ],
    "leader": ["each of the 3 led once, one after the other"],
    "watch_cache": [
        "the cache holds what was there\n  cache: {'user.1': 'anna', 'user.2': 'berta'}\n",
        "  user.3: nobody -> carla\n",
        "  in Rome: ['user.1', 'user.3']\n",
        "  cache: {'user.2': 'bea', 'user.3': 'carla'}\n  in Rome: ['user.3']\n",
        "  cache: {'user.2': 'beatrice', 'user.3': 'carla'}\ndone\n",
    ],
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Warnings are errors in there, too: they would show in stderr.
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


def run_example(name: str, url: str) -> str:
    done = run(f"examples/{name}.py", url)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


async def buckets_of(name: str, url: str) -> list[str]:
    async with slipstream.connect(url) as connection:
        return [bucket for bucket in await connection.stores() if bucket.startswith(name.replace("_", "-"))]


def test_every_example_is_tested() -> None:
    of_its_own = {"first_key"}  # two processes: test_first_key.py
    assert set(KEY_LINES) | of_its_own == {file.stem for file in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", KEY_LINES)
async def test_an_example_on_a_real_server(name: str, nats_url: str) -> None:
    output = await asyncio.to_thread(run_example, name, nats_url)
    for line in KEY_LINES[name]:
        assert line in output, output
    assert await buckets_of(name, nats_url) == []


@pytest.mark.parametrize("name", KEY_LINES)
def test_an_example_in_memory(name: str) -> None:
    output = run_example(name, "memory://")
    for line in KEY_LINES[name]:
        assert line in output, output


@pytest.mark.parametrize("arguments", [[], ["embedded://"]], ids=["no URL", "embedded"])
def test_the_quickstart_on_a_server_that_it_starts(arguments: list[str]) -> None:
    done = run("examples/quickstart.py", *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    for line in QUICKSTART:
        assert line in done.stdout, done.stdout


def test_each_candidate_leads_in_a_term_of_its_own(nats_url: str) -> None:
    output = run_example("leader", nats_url)
    terms = re.findall(r"^(\w+) leads, term (\d+)$", output, re.MULTILINE)
    assert sorted(name for name, _ in terms) == ["anna", "berta", "carla"]
    revisions = [int(term) for _, term in terms]
    assert revisions == sorted(set(revisions))
    assert {f"{name} waits" for name, _ in terms[1:]} <= set(output.splitlines())
    assert re.findall(r"^\w+ (leads|resigns)\b", output, re.MULTILINE) == ["leads", "resigns"] * 3


async def test_the_follower_of_the_quickstart_has_one_consumer_for_both_prefixes(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    try:
        advisories = await client.subscribe("$JS.EVENT.ADVISORY.API")
        await client.flush()
        await asyncio.to_thread(run_example, "quickstart", nats_url)
        created: list[dict[str, Any]] = []
        deleted_buckets = 0
        while deleted_buckets < 2:  # the last thing that it does
            advisory = json.loads((await advisories.next_msg(timeout=SECONDS)).data)
            if advisory["subject"].startswith("$JS.API.STREAM.DELETE.KV_quickstart-"):
                deleted_buckets += 1
            if advisory["subject"].startswith("$JS.API.CONSUMER.CREATE.KV_quickstart-"):
                created.append(json.loads(advisory["request"])["config"])
    finally:
        await client.close()
    # Once from the beginning and once from the cursor. The other watch is of the small bucket, without a prefix.
    followers = [
        ([subject.partition(".service.")[2] for subject in config["filter_subjects"]], config["deliver_policy"])
        for config in created
        if "-watch-" in config["name"] and "quickstart-small" not in config.get("filter_subject", "")
    ]
    assert followers == [(["db.>", "web.>"], "last_per_subject"), (["db.>", "web.>"], "by_start_sequence")]


# What a wrong backend would do: the quickstart has to notice.
BROKEN = {
    "the cursor is ignored": """
def watch(self, prefix="", *, cursor=None):
    return MemoryWatcher.watch(self, prefix)
MemoryStore.watch = watch
""",
    "a deletion is not told": """
take = MemoryWatch.__anext__
async def anext_(self):
    while (update := await take(self)).operation is Operation.DELETE:
        pass
    return update
MemoryWatch.__anext__ = anext_
""",
    "prefixes are ignored": """
def watch(self, prefix="", *, cursor=None):
    return MemoryWatcher.watch(self, "", cursor=cursor)
MemoryStore.watch = watch
""",
    "both writers win": """
async def update(self, key, value, expected, *, ttl=None):
    return await self.put(key, value)
MemoryStore.update = update
""",
    "a scan misses a key": """
async def scan(self, prefix=""):
    return (await MemoryReader.scan(self, prefix))[1:]
MemoryStore.scan = scan
""",
    "an expired cursor is resumed": """
MemoryWatch._refuse_expired = lambda self, stream: None
""",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_the_quickstart_fails_on_a_wrong_result(broken: str) -> None:
    program = f"""
import runpy, sys
from slipstream import Operation
from slipstream.stores.memory.reader import MemoryReader
from slipstream.stores.memory.store import MemoryStore
from slipstream.stores.memory.watcher import MemoryWatch, MemoryWatcher
{broken}
sys.argv = ["quickstart.py", "memory://"]
runpy.run_path("examples/quickstart.py", run_name="__main__")
"""
    done = run("-c", program)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("FAILED: WrongResult: "), done.stderr


def test_the_quickstart_says_when_there_is_no_server() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # the port is taken, and nobody listens
        done = run("examples/quickstart.py", f"nats://127.0.0.1:{nobody.getsockname()[1]}")
    assert done.returncode == 1
    assert done.stderr.startswith("FAILED: ConnectionFailedError: "), done.stderr
