"""The synchronous facade: complete, on memory and on a real server, from many threads, through forks and exits."""

from __future__ import annotations

import asyncio
import inspect
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

import slipstream
from slipstream import interfaces, sync
from slipstream.errors import AlreadyExistsError, ConflictError, KvError, OperationTimeoutError
from slipstream.model import ConnectionState, KvUpdate, Operation
from slipstream.sync.portal import shared_portal
from slipstream.testing._raw import raw_client
from slipstream.testing._waiting import LIMIT

PAIRS: dict[type, type] = {
    interfaces.Connection: sync.SyncConnection,
    interfaces.KvStore: sync.SyncStore,
    interfaces.KvReader: sync.SyncReader,
    interfaces.KvWriter: sync.SyncWriter,
    interfaces.KvWatcher: sync.SyncWatcher,
    interfaces.Watch: sync.SyncWatch,
    interfaces.Transaction: sync.SyncTransaction,
}
NAMES = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__", "__anext__": "__next__"}
ADDED = {("SyncWatch", "wait_hydrated"): ["timeout"]}


# Completeness.


def test_every_interface_has_its_facade() -> None:
    protocols = {
        kind
        for kind in vars(interfaces).values()
        if inspect.isclass(kind) and kind.__module__ == interfaces.__name__ and getattr(kind, "_is_protocol", False)
    }
    assert protocols == set(PAIRS)


@pytest.mark.parametrize(
    ("interface", "name"),
    [(interface, name) for interface in PAIRS for name in sorted(interface.__abstractmethods__)],  # type: ignore[attr-defined]
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_no_method_is_missing_and_all_are_called_alike(interface: type, name: str) -> None:
    facade = PAIRS[interface]
    wanted = inspect.getattr_static(interface, name)
    member = inspect.getattr_static(facade, NAMES.get(name, name))
    assert isinstance(member, property) == isinstance(wanted, property)
    if isinstance(wanted, property):
        return
    assert not inspect.iscoroutinefunction(member)
    assert not inspect.isasyncgenfunction(member)
    added = ADDED.get((facade.__name__, name), [])
    assert parameters(member, leave_out=added) == parameters(wanted)
    assert name in NAMES or inspect.getdoc(member)


def parameters(function: Any, leave_out: list[str] | None = None) -> list[tuple[str, Any, Any]]:
    return [
        (one.name, one.kind, one.default)
        for one in inspect.signature(function).parameters.values()
        if one.name not in (leave_out or [])
    ]


def test_connect_takes_what_the_asynchronous_one_takes() -> None:
    assert parameters(sync.connect) == parameters(slipstream.connect)


# Behaviour.


@pytest.fixture(params=["memory", "nats"])
def connection(request: pytest.FixtureRequest) -> Iterator[sync.SyncConnection]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue("nats_url")
    with sync.connect(url, op_timeout=LIMIT, heartbeat=0.3) as made:
        yield made


@pytest.fixture
def store(connection: sync.SyncConnection) -> Iterator[sync.SyncStore]:
    name = f"test-{secrets.token_hex(8)}"
    yield connection.store(name)
    if name in connection.stores():
        connection.delete_store(name)


def test_reading_and_writing(connection: sync.SyncConnection, store: sync.SyncStore) -> None:
    assert connection.is_healthy()
    assert connection.capabilities.cas
    assert store.name in connection.stores()
    version = store.put("a", b"1")
    version = store.update("a", b"2", version)
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"3")
    entry = store.get("a", min_version=version)
    assert entry is not None
    assert entry == store.entry("a")
    assert (entry.value, entry.version) == (b"2", version)
    versions = store.put_many((f"b.{number:03}", b"%d" % number) for number in range(600))
    assert len(versions) == 600
    assert len(store.keys("b.")) == len(store.scan("b.")) == 600
    assert [one.value for one in store.iter_scan("b.")] == [b"%d" % number for number in range(600)]
    assert next(store.iter_scan("b.")).key == "b.000"  # and left early
    assert list(store.get_many(key for key in ("b.001", "none"))) == ["b.001"]
    assert [one.value for one in store.history("a")] == [b"2"]
    found = store.revision("a", version)
    assert found is not None
    assert found.value == b"2"
    assert store.touch("a", version, ttl=60) != version
    assert store.delete("a")
    store.purge("b.000")
    assert store.purge_deletes() == 2
    assert store.delete_with_version("b.001", versions[1])
    assert store.status().last_revision > 600
    assert store.reader().get("a") is None
    store.writer().put("c", b"1")
    assert [next(iter(watch)).key for watch in [store.watcher().watch("c").__enter__()]] == ["c"]


def test_watching(store: sync.SyncStore) -> None:
    store.put_many({"a.1": b"1", "a.2": b"2"})
    with store.watch("a.") as watch:
        assert [next(watch).key for _ in range(2)] == ["a.1", "a.2"]
        watch.wait_hydrated()
        assert watch.hydrated
        saved = watch.cursor
        store.delete("a.1")
        for update in watch:
            assert (update.operation, update.key) == (Operation.DELETE, "a.1")
            break
        assert watch.statistics().delivered == 3
    with store.watch(["a."], cursor=saved) as watch:
        batches = watch.batches(max_wait=0)
        assert [update.key for update in next(batches)] == ["a.1"]
        watch.aclose()
        assert list(batches) == []
    with store.watch([]) as watch:
        assert list(watch) == []


def test_waiting_for_what_nobody_takes_is_bounded(store: sync.SyncStore) -> None:
    store.put("a", b"1")
    with store.watch() as watch, pytest.raises(OperationTimeoutError, match="another thread has to take"):
        watch.wait_hydrated(timeout=0.2)


def test_closing_ends_the_waiting_of_another_thread(store: sync.SyncStore) -> None:
    with store.watch() as watch, ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: list(watch))
        store.put("a", b"1")
        watch_end = threading.Timer(0.2, watch.aclose)
        watch_end.start()
        updates: list[KvUpdate] = waiting.result(LIMIT)
        watch_end.join()
        assert [update.key for update in updates] in ([], ["a"])


def test_transactions_and_fences(store: sync.SyncStore) -> None:
    version = store.put("a", b"1")
    with store.transaction() as txn:
        entry = txn.get("a")
        assert entry is not None
        txn.update("a", b"2", version)
        txn.create("b", b"1")
        txn.put("c", b"1")
        txn.require("d", None)
        txn.require_unchanged("", version)
    assert set(txn.versions) == {"a", "b", "c"}
    with pytest.raises(ConflictError), store.transaction() as txn:
        txn.update("a", b"3", version)
    with suppress(ZeroDivisionError), store.transaction() as txn:
        txn.put("a", b"dropped")
        raise ZeroDivisionError
    with store.transaction() as txn:
        txn.delete("b")
        txn.purge("c")
    assert [(one.key, one.value) for one in store.scan()] == [("a", b"2")]
    fenced = store.fenced("a", store.put("a", b"4"))
    fenced.put("b", b"1")
    store.put("a", b"5")
    with pytest.raises(ConflictError):
        fenced.put("b", b"2")


def test_atomically_runs_in_the_thread_of_the_caller(store: sync.SyncStore) -> None:
    here = threading.get_ident()

    def count(txn: sync.SyncTransaction) -> int:
        assert threading.get_ident() == here
        entry = txn.get("count")
        number = 1 if entry is None else int(entry.value) + 1
        txn.put("count", b"%d" % number)
        return number

    assert [store.atomically(count) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        store.atomically(lambda txn: 1 // 0)


def test_many_threads(store: sync.SyncStore) -> None:
    def count(txn: sync.SyncTransaction) -> None:
        entry = txn.get("count")
        txn.put("count", b"%d" % (1 if entry is None else int(entry.value) + 1))

    def work(number: int) -> None:
        for step in range(5):
            store.put(f"of.{number}.{step}", b"x")
            store.atomically(count)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8), timeout=40))
    entry = store.get("count")
    assert entry is not None
    assert entry.value == b"40"
    assert len(store.keys("of.")) == 40


def test_each_update_goes_to_one_of_several_threads(store: sync.SyncStore) -> None:
    with store.watch("a.") as watch, ThreadPoolExecutor(4) as pool:
        takers = [pool.submit(lambda: [next(watch).key for _ in range(25)]) for _ in range(4)]
        store.put_many((f"a.{number}", b"x") for number in range(100))
        taken = [key for taker in takers for key in taker.result(LIMIT)]
    assert sorted(taken) == sorted(f"a.{number}" for number in range(100))


def test_events_are_kept_from_the_call_on() -> None:
    connection = sync.connect("memory://")
    events = connection.events()
    connection.connect()
    connection.shutdown()
    assert [event.state for event in events] == [ConnectionState.CONNECTED, ConnectionState.CLOSED]


def test_one_loop_serves_all_connections() -> None:
    with sync.connect("memory://") as first, sync.connect("memory://") as second:
        assert first._portal is second._portal is shared_portal()
    assert [thread.name for thread in threading.enumerate()].count("slipstream-sync") == 1


def test_a_call_from_the_background_loop_is_refused(store: sync.SyncStore) -> None:
    portal = shared_portal()

    async def inside() -> None:
        store.keys()

    with pytest.raises(RuntimeError, match="which would wait for itself"):
        portal.call(inside())


# Forks and exits, each in an interpreter of its own.


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks in programs with threads: that is the point
from slipstream import sync
with sync.connect(sys.argv[1]) as connection:
    store = connection.store(sys.argv[2])
    store.put("a", b"parent")
    with store.watch("a") as watch:
        next(watch)
        child = os.fork()
        if child == 0:
            for use in (lambda: store.get("a"), lambda: next(watch), connection.stores):
                try:
                    use()
                except RuntimeError as error:
                    print("child:", error, flush=True)
            with sync.connect(sys.argv[1]) as again:
                again.store(sys.argv[2]).put("b", b"child")
    if child:
        assert os.waitpid(child, 0)[1] == 0
        print("parent:", store.get("a").value, flush=True)
        connection.delete_store(sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["memory", "nats"])
def test_after_a_fork(backend: str, request: pytest.FixtureRequest) -> None:
    url = "memory://" if backend == "memory" else request.getfixturevalue("nats_url")
    lines = run(FORK, url, f"test-{secrets.token_hex(8)}").splitlines()
    assert len([line for line in lines if line.startswith("child: this was opened before a fork")]) == 3
    assert "connect again in the child" in lines[0]
    assert lines[-1] == "parent: b'parent'"


EXITS = {
    "nothing closed": "",
    "a watch in a daemon thread": "import threading; threading.Thread(target=lambda: list(watch), daemon=True).start()",
    "sys.exit in a block": "sys.exit()",
}


@pytest.mark.parametrize("backend", ["memory", "nats"])
@pytest.mark.parametrize("how", EXITS.values(), ids=EXITS)
def test_the_interpreter_ends(how: str, backend: str, request: pytest.FixtureRequest) -> None:
    url = "memory://" if backend == "memory" else request.getfixturevalue("nats_url")
    bucket = f"test-{secrets.token_hex(8)}"
    program = f"""
import sys
from slipstream import sync
connection = sync.connect(sys.argv[1])
connection.connect()
store = connection.store(sys.argv[2])
watch = store.watch()
watch.__enter__()
store.put("a", b"1")
print("used", flush=True)
{how}
"""
    assert run(program, url, bucket) == "used\n"
    if backend == "nats":
        assert asyncio.run(consumers_of(bucket, url)) == 0
        with sync.connect(url) as janitor:
            janitor.delete_store(bucket)


async def consumers_of(bucket: str, url: str) -> int:
    async with raw_client(url) as raw:
        return int((await raw.state(bucket))["consumer_count"])


INTERRUPTED = """
import signal, sys, threading, os
from slipstream import sync
with sync.connect("memory://") as connection:
    store = connection.store("a")
    with store.watch() as watch:
        try:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            next(watch)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        store.put("b", b"1")
        print(next(watch).key, flush=True)  # and no update is lost
"""


def test_an_interrupted_wait_is_cancelled_and_loses_nothing() -> None:
    assert run(INTERRUPTED) == "interrupted\nb\n"


def test_errors_are_those_of_the_asynchronous_api() -> None:
    connection = sync.connect("memory://")
    with pytest.raises(KvError, match="not connected"):
        connection.stores()
    with pytest.raises(ValueError, match="no backend"):
        sync.connect("redis://127.0.0.1")
