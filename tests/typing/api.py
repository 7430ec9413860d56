"""How the public API looks to a type checker. Never executed: `mypy tests/typing` is the test."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, assert_never, assert_type

import slipstream
from slipstream import (
    BulkWriteError,
    Connection,
    ConnectionCapabilities,
    ConnectionEvent,
    ConnectionState,
    CursorExpiredError,
    Drift,
    KvEntry,
    KvError,
    KvReader,
    KvStore,
    KvUpdate,
    KvWatcher,
    KvWriter,
    NatsConnection,
    Operation,
    OperationFailedError,
    OperationTimeoutError,
    Placement,
    RevisionMismatchError,
    StoreConfig,
    StoreStatus,
    Transaction,
    VersionToken,
    Watch,
    WatchCursor,
    WatchStatistics,
    connect,
)


def connecting() -> None:
    assert_type(connect(), Connection)
    assert_type(connect("nats://a,nats://b"), Connection)
    connect(
        "tls://server",
        creds="base64",
        creds_file=Path("user.creds"),
        nkey_seed="SU",
        nkey_file=Path("user.nk"),
        op_timeout=5,
        name="me",
        tls=ssl.create_default_context(),
        tls_hostname="server",
        tls_handshake_first=True,
        connect_timeout=1,
        ping_interval=1,
        max_pings_out=3,
        reconnect_max_wait=1,
        heartbeat=1,
        inbox_prefix="_INBOX_me",
        retry_writes=False,
        domain="hub",
    )
    connect(creds_file="user.creds")
    connect(timeout=5)  # type: ignore[call-arg]
    connect("memory://", "creds")  # type: ignore[call-arg]


async def connection(conn: Connection) -> None:
    assert_type(await conn.connect(), None)
    assert_type(await conn.shutdown(), None)
    assert_type(conn.is_healthy(), bool)
    assert_type(await conn.store("config"), KvStore)
    assert_type(await conn.store(StoreConfig(name="jobs"), reads="session"), KvStore)
    assert_type(await conn.stores(), list[str])
    assert_type(await conn.delete_store("config"), None)
    assert_type(conn.capabilities, ConnectionCapabilities)
    assert_type(conn.events(), AsyncIterator[ConnectionEvent])
    async for event in conn.events():
        assert_type(event.state, ConnectionState)
        assert_type(event.server, str | None)
        assert_type(event.reason, str)
        assert_type(event.attempt, int)
        assert_type(event.missed, int)
        match event:
            case ConnectionEvent(ConnectionState.DISCONNECTED, server, reason):
                assert_type(server, str | None)
                assert_type(reason, str)
    await conn.store("config", reads="fastest")  # type: ignore[arg-type]
    async with connect() as entered:
        assert_type(entered, Connection)


async def nats_connection(client: Any) -> None:
    borrowed = NatsConnection.from_client(client, op_timeout=5.0)
    assert_type(borrowed, NatsConnection)
    assert_type(slipstream.NatsConnection(), NatsConnection)
    async with borrowed as entered:
        assert_type(entered, NatsConnection)
    as_interface: Connection = borrowed
    await as_interface.connect()


def configuration(config: StoreConfig) -> None:
    StoreConfig(
        name="jobs",
        storage="memory",
        max_history=5,
        max_age=timedelta(days=1),
        max_bytes=1_000_000,
        max_value_size=1_000,
        num_replicas=3,
        discard="old",
        description="what is to be done",
        compression=True,
        marker_ttl=None,
        placement=Placement(cluster="east", tags=("ssd",)),
        mirror="origin",
        metadata={"owner": "team"},
    )
    StoreConfig(name="jobs", storage="disk")  # type: ignore[arg-type]
    assert_type(config.name, str)
    assert_type(config.storage, Literal["persistent", "memory"])
    assert_type(config.max_history, int)
    assert_type(config.max_age, timedelta | None)
    assert_type(config.max_bytes, int | None)
    assert_type(config.max_value_size, int | None)
    assert_type(config.num_replicas, int)
    assert_type(config.discard, Literal["new", "old"])
    assert_type(config.description, str | None)
    assert_type(config.compression, bool)
    assert_type(config.marker_ttl, timedelta | None)
    assert_type(config.placement, Placement | None)
    assert_type(config.mirror, str | None)


async def roles(store: KvStore) -> None:
    assert_type(store.name, str)
    assert_type(await store.status(), StoreStatus)
    assert_type(store.reader(), KvReader)
    assert_type(store.writer(), KvWriter)
    assert_type(store.watcher(), KvWatcher)
    reader: KvReader = store
    writer: KvWriter = store
    watcher: KvWatcher = store
    await reader.put("a", b"1")  # type: ignore[attr-defined]
    await writer.get("a")  # type: ignore[attr-defined]
    await watcher.get("a")  # type: ignore[attr-defined]
    store.name = "other"  # type: ignore[misc]


async def reading(store: KvReader, version: VersionToken) -> None:
    assert_type(await store.get("a"), KvEntry | None)
    assert_type(await store.get("a", min_version=version), KvEntry | None)
    assert_type(await store.entry("a"), KvEntry | None)
    assert_type(await store.get_many(["a", "b"]), dict[str, KvEntry])
    assert_type(await store.get_many({"a", "b"}), dict[str, KvEntry])
    assert_type(await store.keys(), list[str])
    assert_type(await store.keys("a."), list[str])
    assert_type(await store.scan("a."), list[KvEntry])
    assert_type(store.iter_scan("a."), AsyncIterator[KvEntry])
    async for entry in store.iter_scan():
        assert_type(entry, KvEntry)
    assert_type(await store.history("a"), list[KvUpdate])
    assert_type(await store.revision("a", version), KvUpdate | None)
    await store.get(b"a")  # type: ignore[arg-type]
    await store.revision("a", 7)  # type: ignore[arg-type]


async def writing(store: KvWriter, version: VersionToken) -> None:
    assert_type(await store.put("a", b"1"), VersionToken)
    assert_type(await store.put("a", b"1", ttl=timedelta(minutes=1)), VersionToken)
    assert_type(await store.create("a", b"1", ttl=60), VersionToken)
    assert_type(await store.update("a", b"1", version, ttl=60.0), VersionToken)
    assert_type(await store.touch("a", version, ttl=60), VersionToken)
    assert_type(await store.delete("a"), bool)
    assert_type(await store.delete_with_version("a", version), bool)
    assert_type(await store.purge("a"), None)
    assert_type(await store.purge("a", expected=version), None)
    assert_type(await store.purge_deletes(), int)
    assert_type(await store.purge_deletes(timedelta(days=1)), int)
    assert_type(await store.put_many({"a": b"1"}), list[VersionToken])
    assert_type(await store.put_many([("a", b"1"), ("b", b"2")]), list[VersionToken])
    assert_type(await store.put_many((key, b"") for key in "ab"), list[VersionToken])
    assert_type(store.fenced("lock", version), KvWriter)
    await store.put("a", "text")  # type: ignore[arg-type]
    await store.update("a", b"1", 7)  # type: ignore[arg-type]
    await store.touch("a", version)  # type: ignore[call-arg]


async def transacting(store: KvWriter, version: VersionToken) -> None:
    assert_type(store.transaction(), Transaction)
    async with store.transaction() as txn:
        assert_type(txn, Transaction)
        assert_type(txn.put("a", b"1"), None)
        assert_type(txn.create("b", b"1", ttl=60), None)
        assert_type(txn.update("c", b"1", version), None)
        assert_type(txn.delete("d"), None)
        assert_type(txn.purge("e"), None)
        assert_type(await txn.get("f"), KvEntry | None)
        assert_type(txn.require("g", version), None)
        assert_type(txn.require("h", None), None)
        assert_type(txn.require_unchanged("i.", version), None)
    assert_type(txn.versions, dict[str, VersionToken])

    async def count(txn: Transaction) -> int:
        return 0 if await txn.get("counter") is None else 1

    async def nothing(txn: Transaction) -> None:
        txn.delete("counter")

    assert_type(await store.atomically(count), int)
    assert_type(await store.atomically(nothing), None)


async def watching(store: KvWatcher, cursor: WatchCursor) -> None:
    assert_type(store.watch(), Watch)
    assert_type(store.watch(["a.", "b."], cursor=cursor), Watch)
    assert_type(store.watch(prefix for prefix in "ab"), Watch)
    async with store.watch("a.", cursor=None) as watch:
        assert_type(watch, Watch)
        assert_type(watch.cursor, WatchCursor)
        assert_type(watch.hydrated, bool)
        assert_type(await watch.wait_hydrated(), None)
        assert_type(watch.statistics(), WatchStatistics)
        assert_type(await anext(watch), KvUpdate)
        async for update in watch:
            assert_type(update, KvUpdate)
        async for batch in watch.batches(100, max_wait=0.1):
            assert_type(batch, list[KvUpdate])
        assert_type(await watch.aclose(), None)
    store.watch("a.", cursor=7)  # type: ignore[arg-type]


def matching(update: KvUpdate) -> str:
    match update:
        case KvUpdate(Operation.PUT, key, value):
            assert_type(value, bytes)
        case KvUpdate(_, key):
            assert_type(key, str)
    match update.operation:
        case Operation.PUT:
            return "put"
        case Operation.DELETE | Operation.PURGE:
            return "gone"
        case unreachable:
            assert_never(unreachable)


def values(entry: KvEntry, update: KvUpdate, version: VersionToken, cursor: WatchCursor) -> None:
    assert_type(VersionToken.unknown(), VersionToken)
    assert_type(VersionToken.from_u64(7), VersionToken)
    assert_type(VersionToken.from_bytes(b""), VersionToken)
    assert_type(version.is_unknown, bool)
    assert_type(version.as_u64(), int | None)
    assert_type(bytes(version), bytes)

    assert_type(WatchCursor.none(), WatchCursor)
    assert_type(WatchCursor.from_version(version), WatchCursor)
    assert_type(WatchCursor.from_u64(7), WatchCursor)
    assert_type(WatchCursor.from_bytes(b""), WatchCursor)
    assert_type(WatchCursor.parse("none"), WatchCursor)
    assert_type(cursor.revision, int | None)
    assert_type(cursor.incarnation, datetime | None)
    assert_type(cursor.is_none, bool)
    assert_type(cursor.as_u64(), int | None)
    assert_type(cursor.to_bytes(), bytes)
    assert_type(str(cursor), str)
    assert_type(cursor < cursor, bool)

    assert_type(KvEntry(key="a", value=b"1", version=version), KvEntry)
    assert_type(entry.key, str)
    assert_type(entry.value, bytes)
    assert_type(entry.version, VersionToken)
    assert_type(entry.revision, int | None)
    assert_type(entry.created, datetime | None)
    entry.value = b"2"  # type: ignore[misc]

    assert_type(KvUpdate(operation=Operation.DELETE, key="a"), KvUpdate)
    assert_type(update.operation, Operation)
    assert_type(update.key, str)
    assert_type(update.value, bytes)
    assert_type(update.version, VersionToken)
    assert_type(update.revision, int | None)
    assert_type(update.expired, bool)
    assert_type(update.transaction, str | None)
    assert_type(update.commit, bool)
    assert_type(update.created, datetime | None)
    assert_type(update.entry, KvEntry | None)
    KvUpdate(Operation.DELETE, "a")  # type: ignore[call-arg]


def status(status: StoreStatus, statistics: WatchStatistics, capabilities: ConnectionCapabilities) -> None:
    assert_type(status.keys, int)
    assert_type(status.bytes, int)
    assert_type(status.first_revision, int)
    assert_type(status.last_revision, int)
    assert_type(status.incarnation, datetime)
    assert_type(status.replicas, int)
    assert_type(status.leader, str | None)
    assert_type(status.config, StoreConfig)
    assert_type(status.drift, list[Drift])
    assert_type(status.drift[0].field, str)

    assert_type(statistics.pending, int)
    assert_type(statistics.delivered, int)
    assert_type(statistics.resumes, int)
    assert_type(statistics.last_heard, float)

    assert_type(capabilities.streaming_watch, bool)
    assert_type(capabilities.prefix_watch, bool)
    assert_type(capabilities.ttl, bool)
    assert_type(capabilities.purge, bool)
    assert_type(capabilities.cas, bool)
    assert_type(capabilities.transactions, bool)
    assert_type(capabilities.fencing, bool)
    assert_type(capabilities.max_value_size, int)
    assert_type(capabilities.global_ordering, bool)


async def failing(store: KvStore) -> None:
    try:
        await store.put("a", b"1")
    except RevisionMismatchError as error:
        assert_type(error.expected, VersionToken | None)
        assert_type(error.actual, VersionToken | None)
    except CursorExpiredError as error:
        assert_type(error.cursor, WatchCursor | None)
        assert_type(error.first_revision, int | None)
        assert_type(error.reason, Literal["compacted", "recreated", "rolled_back"])
    except OperationFailedError as error:
        assert_type(error.code, int | None)
        assert_type(error.err_code, int | None)
    except BulkWriteError as error:
        assert_type(error.versions, dict[str, VersionToken])
        assert_type(error.errors, dict[str, KvError])
    except KvError as error:
        assert_type(error.retryable, bool)
        assert_type(error.outcome_unknown, bool)
        assert_type(error.message, str)
        assert_type(error.store, str | None)
        assert_type(error.key, str | None)
    timeout: TimeoutError = OperationTimeoutError(store="config", key="a", outcome_unknown=True)
    raise timeout


class HalfStore(KvReader):
    async def get(self, key: str, *, min_version: VersionToken | None = None) -> KvEntry | None:
        return None


def half_implemented() -> None:
    HalfStore()  # type: ignore[abstract]
