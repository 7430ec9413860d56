"""Every operation has a span and a measurement, with its outcome and without what is private."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

import slipstream
from slipstream.errors import (
    AuthenticationError,
    BulkWriteError,
    FencedError,
    OperationTimeoutError,
    RevisionMismatchError,
    StoreNotFoundError,
)
from slipstream.interfaces import Connection, KvReader, KvStore, KvWriter, Transaction
from slipstream.model import KvEntry, StoreConfig, VersionToken
from slipstream.otel import instrument, instrument_connection
from slipstream.replica.listing import ListsVersions
from slipstream.stores.memory import MemoryConnection
from slipstream.stores.memory.reader import MemoryReader
from slipstream.testing._fixtures import MakeProxy
from slipstream.testing._waiting import bounded, ticks
from slipstream.testing.server import NatsServer
from tests.otel.recorded import Recorded

DURATION = "db.client.operation.duration"
PRIVATE_KEY = "person.ada-lovelace"
PRIVATE_VALUE = b"born-1815"


async def iterate(store: KvStore) -> None:
    async for _ in store.iter_scan("person."):
        pass


async def update(store: KvStore) -> None:
    await store.update(PRIVATE_KEY, PRIVATE_VALUE, await last(store))


async def touch(store: KvStore) -> None:
    await store.touch(PRIVATE_KEY, await last(store), ttl=60)


async def delete_with_version(store: KvStore) -> None:
    await store.delete_with_version(PRIVATE_KEY, await last(store))


async def transact(store: KvStore) -> None:
    async with store.transaction() as txn:
        txn.put(PRIVATE_KEY, PRIVATE_VALUE)


async def atomically(store: KvStore) -> None:
    async def change(txn: Transaction) -> None:
        txn.put(PRIVATE_KEY, PRIVATE_VALUE)

    await store.atomically(change)


async def watch(store: KvStore) -> None:
    async with store.watch("person."):
        pass


async def last(store: KvStore) -> VersionToken:
    entry = await store.get(PRIVATE_KEY)
    assert entry is not None
    return entry.version


# By the name of the operation: what is called for it.
OPERATIONS: dict[str, Callable[[KvStore], Awaitable[object]]] = {
    "get": lambda store: store.get(PRIVATE_KEY),
    "entry": lambda store: store.entry(PRIVATE_KEY),
    "get_many": lambda store: store.get_many([PRIVATE_KEY, "b"]),
    "keys": lambda store: store.keys("person."),
    "scan": lambda store: store.scan("person."),
    "iter_scan": iterate,
    "history": lambda store: store.history(PRIVATE_KEY),
    "revision": lambda store: store.revision(PRIVATE_KEY, VersionToken.from_u64(1)),
    "put": lambda store: store.put(PRIVATE_KEY, PRIVATE_VALUE),
    "create": lambda store: store.create("person.new", PRIVATE_VALUE),
    "update": update,
    "touch": touch,
    "delete": lambda store: store.delete(PRIVATE_KEY),
    "delete_with_version": delete_with_version,
    "purge": lambda store: store.purge(PRIVATE_KEY),
    "purge_deletes": lambda store: store.purge_deletes(),
    "put_many": lambda store: store.put_many({PRIVATE_KEY: PRIVATE_VALUE, "b": b"2"}),
    "commit": transact,
    "atomically": atomically,
    "watch": watch,
    "status": lambda store: store.status(),
    "versions": lambda store: cast("Any", store).versions("person."),
}


def durations(recorded: Recorded, operation: str) -> dict[tuple[str, str | None], int]:
    """How many there were, by outcome and type of error."""
    return {
        (attributes["slipstream.outcome"], attributes.get("error.type")): point.count
        for attributes, point in recorded.points(DURATION)
        if attributes["db.operation.name"] == operation
    }


def test_there_is_a_test_of_every_operation() -> None:
    members = {name for role in (KvReader, KvWriter, KvStore) for name in vars(role) if not name.startswith("_")}
    handles = {"reader", "writer", "watcher", "fenced", "name"}
    assert members - handles - OPERATIONS.keys() == {"transaction"}  # whose operation is the commit


@pytest.mark.parametrize("operation", OPERATIONS)
class TestEveryOperation:
    async def test_has_a_span_and_a_duration(
        self, store: KvStore, plain: Connection, recorded: Recorded, operation: str
    ) -> None:
        await (await plain.store(store.name)).put(PRIVATE_KEY, PRIVATE_VALUE)
        await OPERATIONS[operation](store)
        span = recorded.span(f"{operation} {store.name}")
        expected = {
            "db.system.name": "slipstream",
            "db.namespace": store.name,
            "db.operation.name": operation,
        }
        more = {"db.operation.batch.size", "slipstream.attempts"}
        assert span.kind is SpanKind.CLIENT
        assert {name: value for name, value in (span.attributes or {}).items() if name not in more} == expected
        assert span.status.status_code is StatusCode.UNSET
        assert durations(recorded, operation) == {("done", None): 1}
        assert PRIVATE_KEY not in span.to_json()

    async def test_shows_no_value_and_keys_only_on_request(
        self, plain: Connection, bucket: str, recorded: Recorded, operation: str
    ) -> None:
        store = instrument(await plain.store(bucket), keys=True, **recorded.providers)
        await store.put(PRIVATE_KEY, PRIVATE_VALUE)
        await OPERATIONS[operation](store)
        shown = "".join(span.to_json() for span in recorded.spans())
        assert PRIVATE_KEY in shown
        assert PRIVATE_VALUE.decode() not in shown
        assert "person" not in str(recorded.collect())


# A commit is left out: in memory its transaction is refused where something is queued, before there is an operation.
@pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - {"commit"}))
async def test_an_operation_on_a_store_that_is_gone(
    store: KvStore, plain: Connection, recorded: Recorded, operation: str
) -> None:
    await plain.delete_store(store.name)
    with pytest.raises((StoreNotFoundError, BulkWriteError)) as caught:
        await OPERATIONS[operation](store)
    (span,) = [each for each in recorded.spans() if each.name != f"store {store.name}"]
    attributes = span.attributes or {}
    assert (attributes["slipstream.outcome"], attributes["error.type"]) == ("refused", type(caught.value).__name__)
    assert span.status.status_code is StatusCode.ERROR


class TestHandles:
    async def test_all_that_a_store_hands_out_is_instrumented(self, store: KvStore, recorded: Recorded) -> None:
        version = await store.writer().put("a", b"1")
        await store.reader().get("a")
        async with store.watcher().watch():
            pass
        await store.fenced("a", version).put("b", b"2")
        names = [span.name for span in recorded.spans()]
        assert names == [f"{each} {store.name}" for each in ("store", "put", "get", "watch", "put")]

    async def test_a_replica_finds_that_the_store_lists_versions(self, store: KvStore) -> None:
        assert isinstance(store, ListsVersions)

    async def test_what_the_store_lacks_the_wrapper_lacks(self, recorded: Recorded) -> None:
        async with MemoryConnection() as connection:
            store = await connection.store("b")
            only_roles = {name: getattr(type(store), name) for name in KvStore.__abstractmethods__}
            bare = type("Bare", (KvStore,), only_roles)()
            bare._ref = store._ref  # type: ignore[attr-defined]
            wrapped = instrument(bare, **recorded.providers)
            assert not isinstance(wrapped, ListsVersions)
            assert isinstance(instrument(store, **recorded.providers), ListsVersions)

    async def test_the_operations_of_a_connection(
        self, connection: Connection, bucket: str, recorded: Recorded
    ) -> None:
        async with connection:
            await connection.store(StoreConfig(name=bucket))
            await connection.stores()
            await connection.delete_store(bucket)
        names = [span.name for span in recorded.spans()]
        assert names == ["connect", f"store {bucket}", "stores", f"delete_store {bucket}", "shutdown"]
        assert "db.namespace" not in (recorded.span("connect").attributes or {})
        assert durations(recorded, "connect") == {("done", None): 1}


class TestOutcomes:
    async def test_a_conflict(self, store: KvStore, recorded: Recorded) -> None:
        version = await store.put(PRIVATE_KEY, PRIVATE_VALUE)
        await store.put(PRIVATE_KEY, PRIVATE_VALUE)
        with pytest.raises(RevisionMismatchError):
            await store.update(PRIVATE_KEY, PRIVATE_VALUE, version)
        span = recorded.span(f"update {store.name}")
        attributes = span.attributes or {}
        assert (attributes["slipstream.outcome"], attributes["error.type"]) == ("refused", "RevisionMismatchError")
        assert span.status.status_code is StatusCode.ERROR
        assert (span.status.description, span.events) == (None, ())  # a message names the key
        assert durations(recorded, "update") == {("refused", "RevisionMismatchError"): 1}

    async def test_a_wrong_password(self, recorded: Recorded) -> None:
        config = "authorization { user: ada, password: right-one }"
        async with NatsServer(config=config) as server, bounded():
            url = f"nats://ada:wrong-one@127.0.0.1:{server.port}"
            connection = instrument_connection(slipstream.connect(url), **recorded.providers)
            with pytest.raises(AuthenticationError):
                await connection.connect()
            await connection.shutdown()
        span = recorded.span("connect")
        assert (span.attributes or {})["error.type"] == "AuthenticationError"
        assert durations(recorded, "connect") == {("refused", "AuthenticationError"): 1}
        assert "wrong-one" not in span.to_json() + repr(connection)

    async def test_a_write_whose_answer_never_came(
        self, nats_server: NatsServer, fault_proxy: MakeProxy, recorded: Recorded
    ) -> None:
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        plain = slipstream.connect(proxy.url, op_timeout=1.0, ping_interval=60.0)
        connection = instrument_connection(plain, **recorded.providers)
        async with bounded(), connection:
            store = await connection.store("b")
            proxy.freeze("to_client")
            with pytest.raises(OperationTimeoutError) as caught:
                await store.put("k", b"v")
            assert caught.value.outcome_unknown
            with pytest.raises(OperationTimeoutError):
                await store.get("k")
        assert (recorded.span("put b").attributes or {})["slipstream.outcome"] == "unknown"
        assert durations(recorded, "put") == {("unknown", "OperationTimeoutError"): 1}
        assert durations(recorded, "get") == {("refused", "OperationTimeoutError"): 1}

    async def test_a_cancel_is_no_error(self, store: KvStore, recorded: Recorded) -> None:
        waiting = asyncio.create_task(store.get("k", min_version=VersionToken.from_u64(10**9)))
        await ticks(3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        span = recorded.span(f"get {store.name}")
        assert (span.attributes or {})["slipstream.outcome"] == "cancelled"
        assert span.status.status_code is StatusCode.UNSET
        assert durations(recorded, "get") == {("cancelled", None): 1}

    async def test_a_coroutine_that_is_dropped_is_not_done(self, recorded: Recorded) -> None:
        async with MemoryConnection() as connection:
            store = instrument(await connection.store("b"), **recorded.providers)
            work = cast("Coroutine[Any, Any, object]", store.get("k"))
            work.send(None)  # to where it waits for the first time
            work.close()
        assert durations(recorded, "get") == {("cancelled", None): 1}

    async def test_what_a_program_raises_is_told_by_its_type_alone(self, store: KvStore, recorded: Recorded) -> None:
        async def fail(txn: Transaction) -> None:
            raise LookupError(PRIVATE_KEY)

        with pytest.raises(LookupError):
            await store.atomically(fail)
        span = recorded.span(f"atomically {store.name}")
        assert (span.attributes or {})["error.type"] == "LookupError"
        assert PRIVATE_KEY not in span.to_json()


class TestSizes:
    @pytest.mark.parametrize("form", [dict, list, iter], ids=["mapping", "list", "iterator"])
    async def test_of_put_many(self, store: KvStore, recorded: Recorded, form: Callable[[Any], Any]) -> None:
        versions = await store.put_many(form([("a", b"1"), ("b", b"2"), ("c", b"3")]))
        assert len(versions) == 3
        assert (recorded.span(f"put_many {store.name}").attributes or {})["db.operation.batch.size"] == 3
        ((attributes, point),) = recorded.points("slipstream.batch.size")
        assert attributes["db.operation.name"] == "put_many"
        assert (point.count, point.sum) == (1, 3)

    async def test_of_get_many_by_an_iterator(self, store: KvStore, recorded: Recorded) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        assert list(await store.get_many(iter(["b", "a"]))) == ["b", "a"]
        assert (recorded.span(f"get_many {store.name}").attributes or {})["db.operation.batch.size"] == 2

    async def test_of_a_commit(self, store: KvStore, recorded: Recorded) -> None:
        version = await store.put("u", b"1")
        async with store.transaction() as txn:
            txn.put("a", b"1")
            txn.create("b", b"2")
            txn.update("u", b"2", version)
            txn.delete("d")
            txn.purge("e")
            txn.require("f", None)
        assert (recorded.span(f"commit {store.name}").attributes or {})["db.operation.batch.size"] == 5
        assert txn.versions.keys() == {"a", "b", "u", "d", "e"}

    async def test_one_item_is_no_batch(self, store: KvStore, recorded: Recorded) -> None:
        await store.put_many({"a": b"1"})
        assert "db.operation.batch.size" not in (recorded.span(f"put_many {store.name}").attributes or {})

    async def test_a_transaction_that_is_rolled_back_is_no_operation(self, store: KvStore, recorded: Recorded) -> None:
        async def change() -> None:
            async with store.transaction() as txn:
                txn.put("a", b"1")
                raise LookupError

        with pytest.raises(LookupError):
            await change()
        assert recorded.spans(f"commit {store.name}") == []
        assert await store.get("a") is None

    async def test_attempts_are_counted(self, store: KvStore, recorded: Recorded) -> None:
        await store.put("n", b"1")

        async def change(txn: Transaction) -> None:
            await txn.get("n")
            if not recorded.spans(f"put {store.name}")[1:]:
                await store.put("n", b"2")  # once: a conflict
            txn.put("n", b"3")

        await store.atomically(change)
        assert (recorded.span(f"atomically {store.name}").attributes or {})["slipstream.attempts"] == 2


class TestContext:
    async def test_a_span_has_the_parent_that_was_current(self, store: KvStore, recorded: Recorded) -> None:
        with recorded.tracer.start_as_current_span("request") as request:
            await asyncio.gather(store.put("a", b"1"), store.get("b"))
            assert trace.get_current_span() is request
        for name in ("put", "get"):
            parent = recorded.span(f"{name} {store.name}").parent
            assert parent is not None
            assert parent.span_id == request.get_span_context().span_id

    async def test_what_happens_inside_has_it_for_a_parent(self, store: KvStore, recorded: Recorded) -> None:
        async def change(txn: Transaction) -> None:
            await asyncio.sleep(0)
            with recorded.tracer.start_as_current_span("decide"):
                await txn.get("a")

        await store.atomically(change)
        outer = recorded.span(f"atomically {store.name}")
        decide, read = recorded.span("decide"), recorded.span(f"get {store.name}")
        assert decide.parent is not None
        assert read.parent is not None
        assert outer.context is not None
        assert decide.context is not None
        assert decide.parent.span_id == outer.context.span_id
        assert read.parent.span_id == decide.context.span_id

    async def test_nothing_stays_current_after_an_error(self, store: KvStore) -> None:
        before = trace.get_current_span()
        with pytest.raises(RevisionMismatchError):
            await store.update("k", b"v", VersionToken.from_u64(7))
        assert trace.get_current_span() is before

    async def test_a_scan_is_current_in_its_steps_alone(
        self, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside: list[trace.Span] = []

        async def look(self: MemoryReader, prefix: str) -> AsyncIterator[KvEntry]:
            async for entry in original(self, prefix):
                inside.append(trace.get_current_span())
                yield entry

        original = MemoryReader._iter_scan
        monkeypatch.setattr(MemoryReader, "_iter_scan", look)
        async with MemoryConnection() as connection:
            store = instrument(await connection.store("b"), **recorded.providers)
            await store.put_many({"a": b"1", "b": b"2"})
            before = trace.get_current_span()
            async for _ in store.iter_scan():
                assert trace.get_current_span() is before
            scan = recorded.span("iter_scan b")
            assert scan.context is not None
            assert [span.get_span_context().span_id for span in inside] == [scan.context.span_id] * 2

    async def test_a_scan_that_is_left_early_is_done_and_closed(self, store: KvStore, recorded: Recorded) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        async with aclosing(cast("AsyncGenerator[KvEntry]", store.iter_scan())) as entries:
            async for _ in entries:
                break
        assert durations(recorded, "iter_scan") == {("done", None): 1}
        assert recorded.span(f"iter_scan {store.name}").status.status_code is StatusCode.UNSET

    async def test_closing_a_scan_closes_that_of_the_store(
        self, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[str] = []

        async def look(self: MemoryReader, prefix: str) -> AsyncIterator[KvEntry]:
            try:
                async for entry in original(self, prefix):
                    yield entry
            finally:
                closed.append(prefix)

        original = MemoryReader._iter_scan
        monkeypatch.setattr(MemoryReader, "_iter_scan", look)
        async with MemoryConnection() as connection:
            plain = await connection.store("b")
            await plain.put_many({"a": b"1", "b": b"2"})
            inner = plain.iter_scan()  # held here, so that nothing but the wrapper can have closed it
            monkeypatch.setattr(plain, "iter_scan", lambda prefix: inner)
            entries = cast("AsyncGenerator[KvEntry]", instrument(plain, **recorded.providers).iter_scan())
            await anext(entries)
            assert closed == []
            await entries.aclose()
            assert closed == [""]

    async def test_what_is_not_sampled_is_measured_and_passes_that_on(self, plain: Connection, bucket: str) -> None:
        recorded = Recorded(traces=TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
        store = instrument(await plain.store(bucket), **recorded.providers)
        seen: list[trace.SpanContext] = []

        async def look(txn: Transaction) -> None:
            seen.append(trace.get_current_span().get_span_context())

        await store.atomically(look)
        assert seen[0].is_valid
        assert not seen[0].trace_flags.sampled
        assert recorded.spans() == []
        assert durations(recorded, "atomically") == {("done", None): 1}
        recorded.close()

    async def test_without_an_sdk_nothing_is_recorded_and_all_works(self, plain: Connection, bucket: str) -> None:
        store = instrument(await plain.store(bucket))
        version = await store.put("k", b"v")
        assert not trace.get_current_span().get_span_context().is_valid
        assert [update.version async for update in _first(store)] == [version]
        with pytest.raises(FencedError):
            await store.fenced("k", VersionToken.from_u64(10**6)).put("k", b"w")


async def _first(store: KvStore) -> AsyncIterator[Any]:
    async with store.watch() as watch:
        yield await anext(watch)


def test_signatures_are_those_of_the_interfaces() -> None:
    from slipstream.otel.connection import InstrumentedConnection
    from slipstream.otel.store import InstrumentedStore
    from slipstream.otel.transaction import InstrumentedTransaction
    from slipstream.otel.watcher import InstrumentedWatch

    pairs = [
        (InstrumentedStore, KvStore),
        (InstrumentedConnection, Connection),
        (InstrumentedTransaction, Transaction),
        (InstrumentedWatch, slipstream.Watch),
    ]
    for ours, role in pairs:
        for name in role.__abstractmethods__:
            wanted, made = getattr(role, name), getattr(ours, name)
            if inspect.isfunction(wanted):
                assert inspect.signature(made) == inspect.signature(wanted), name
