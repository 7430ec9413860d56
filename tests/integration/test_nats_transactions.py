"""Transactions on real servers: what the server does with guards, lost answers, foreign buckets, three replicas.

A server without atomic batches has to refuse them: each test that needs them asserts that first.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from pydantic import SecretStr

from slipstream.errors import (
    KvError,
    NotConnectedError,
    OperationTimeoutError,
    RevisionMismatchError,
    UnsupportedError,
)
from slipstream.interfaces import KvStore, Transaction
from slipstream.model import StoreConfig, VersionToken
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.stores.nats.decode import EXPECTED_SEQUENCE, EXPECTED_SUBJECT, EXPECTED_SUBJECT_SEQUENCE
from slipstream.stores.nats.subjects import scratch_subject
from slipstream.testing._waiting import LIMIT, background, bounded, eventually
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer

MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]
Message = tuple[str, bytes, dict[str, str]]


def connection_to(url: str, *, op_timeout: float = LIMIT) -> NatsConnection:
    return NatsConnection(NatsConnectionConfig(url=SecretStr(url), op_timeout=op_timeout))


def takes_transactions(store: KvStore, connection: NatsConnection) -> bool:
    """False, once it has refused, where the server is too old."""
    if connection.capabilities.transactions:
        return True
    with pytest.raises(UnsupportedError, match=r"2\.12\.1"):
        store.transaction()
    return False


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[NatsConnection]:
    async with connection_to(nats_url) as connection:
        yield connection


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    client = await nats.connect(nats_url)
    yield client
    await client.close()


@pytest.fixture
async def store(connection: NatsConnection) -> AsyncIterator[KvStore]:
    name = f"txn-{secrets.token_hex(8)}"
    yield await connection.store(StoreConfig(name=name))
    await connection.delete_store(name)


async def publish(client: Client, subject: str, payload: bytes = b"value", **headers: object) -> dict[str, Any] | None:
    """The answer to one message, None for an empty one."""
    answer = await client.request(subject, payload, headers={name: str(value) for name, value in headers.items()})
    return json.loads(answer.data) if answer.data else None


async def publish_batch(client: Client, *batch: tuple[str, dict[str, object]]) -> dict[str, Any]:
    """The answer to the commit."""
    batch_id, answer = secrets.token_hex(8), None
    for number, (subject, headers) in enumerate(batch, 1):
        place = {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": number}
        commit = {"Nats-Batch-Commit": 1} if number == len(batch) else {}
        answer = await publish(client, subject, b"value", **{**headers, **place, **commit})
    assert answer is not None
    return answer


async def put_together(store: KvStore, keys: str) -> None:
    """Put each of these letters in one commit."""
    async with store.transaction() as txn:
        for key in keys:
            txn.put(key, b"1")


def guard(subject: str, sequence: int) -> dict[str, object]:
    return {EXPECTED_SUBJECT_SEQUENCE: sequence, EXPECTED_SUBJECT: subject}


class TestWhatTheServerDoes:
    """The facts that the plan of a batch rests on."""

    async def test_a_guard_holds_on_another_subject_and_on_a_wildcard(
        self, connection: NatsConnection, store: KvStore, client: Client
    ) -> None:
        if not takes_transactions(store, connection):
            return
        key = f"$KV.{store.name}."
        for name in ("lock", "node.1", "node.2", "other"):
            await publish(client, key + name)
        for subject, right, wrong in (
            (f"{key}lock", 1, 4),
            (f"{key}none", 0, 1),
            (f"{key}node.>", 3, 2),
            (f"{key}nothing.>", 0, 3),
        ):
            refused = await publish_batch(client, (f"{key}a", guard(subject, wrong)), (f"{key}b", {}))
            assert refused["error"]["err_code"] == 10071, subject
            taken = await publish_batch(client, (f"{key}a", guard(subject, right)), (f"{key}b", {}))
            assert taken["count"] == 2, subject

    async def test_a_guard_behind_a_write_to_its_subject_is_refused_and_before_it_taken(
        self, connection: NatsConnection, store: KvStore, client: Client
    ) -> None:
        if not takes_transactions(store, connection):
            return
        key = f"$KV.{store.name}."
        await publish(client, f"{key}k")
        behind = await publish_batch(client, (f"{key}k", {}), (f"{key}other", guard(f"{key}k", 1)))
        assert behind["error"]["err_code"] == 10164
        before = await publish_batch(client, (f"{key}other", guard(f"{key}k", 1)), (f"{key}k", {}))
        assert before["count"] == 2
        # A wildcard is held against what was there before the batch, wherever it stands.
        wide = await publish_batch(client, (f"{key}k", {}), (f"{key}more", guard(f"{key}>", 3)))
        assert wide["count"] == 2

    async def test_the_sequence_of_the_stream_guards_the_first_message(
        self, connection: NatsConnection, store: KvStore, client: Client
    ) -> None:
        if not takes_transactions(store, connection):
            return
        key = f"$KV.{store.name}."
        await publish(client, f"{key}lock")
        both = {EXPECTED_SEQUENCE: 1, **guard(f"{key}lock", 1)}
        assert (await publish_batch(client, (f"{key}a", both), (f"{key}b", {})))["count"] == 2
        assert (await publish_batch(client, (f"{key}a", both), (f"{key}b", {})))["error"]["err_code"] == 10071


class TestScratch:
    async def test_a_scratch_message_goes_and_no_filter_of_keys_meets_it(
        self, connection: NatsConnection, store: KvStore, client: Client
    ) -> None:
        if not takes_transactions(store, connection):
            return
        stream = f"KV_{store.name}"

        async def subjects() -> dict[str, int]:
            answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", b'{"subjects_filter":">"}')
            return json.loads(answer.data)["state"].get("subjects") or {}

        version = await store.put("k", b"1")
        async with store.transaction() as txn:
            txn.update("k", b"2", version)
            txn.require("absent", None)
            txn.require_unchanged("other.", version)
        assert set(await subjects()) == {f"$KV.{store.name}.k", scratch_subject(store.name)}
        assert (await store.status()).keys == 1
        assert txn.versions["k"].as_u64() == (await store.status()).last_revision

        async def is_gone() -> bool:
            return set(await subjects()) == {f"$KV.{store.name}.k"}

        await eventually(is_gone)  # and left no mark of its expiry

    async def test_without_ttls_one_scratch_message_stays_unseen(
        self, connection: NatsConnection, client: Client
    ) -> None:
        name = f"txn-{secrets.token_hex(8)}"
        store = await connection.store(StoreConfig(name=name, marker_ttl=None))
        try:
            if not takes_transactions(store, connection):
                return
            for _ in range(3):
                async with store.transaction() as txn:
                    txn.create(secrets.token_hex(4), b"1")
                    txn.require("absent", None)
                    txn.require("absent.too", None)
            status = await store.status()
            assert status.keys == len(await store.keys()) == 3
            info = await client.jetstream().stream_info(f"KV_{name}")
            assert info.state.messages == 4
        finally:
            await connection.delete_store(name)

    async def test_a_bucket_without_room_for_it_takes_what_needs_none(
        self, connection: NatsConnection, client: Client
    ) -> None:
        """Made by hand: atomic batches are allowed, but there is no scratch subject."""
        if not connection.capabilities.transactions:
            return
        name = f"txn-{secrets.token_hex(8)}"
        body = {
            "name": f"KV_{name}",
            "subjects": [f"$KV.{name}.>"],
            "max_msgs_per_subject": 1,
            "storage": "memory",
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "allow_atomic": True,
        }
        await client.request(f"$JS.API.STREAM.CREATE.KV_{name}", json.dumps(body).encode())
        store = await connection.store(name)
        try:
            version = await store.put("lock", b"1")
            async with store.transaction() as txn:
                txn.require("lock", version)
                txn.put("k", b"1")
            again = store.transaction()
            await again.__aenter__()
            again.require("lock", version)
            again.update("k", b"2", txn.versions["k"])
            with pytest.raises(UnsupportedError, match="without a write of their own"):
                await again.__aexit__(None, None, None)
            assert (await store.status()).last_revision == 2
        finally:
            await connection.delete_store(name)


async def test_a_bucket_whose_atomic_batches_were_turned_off_is_refused(
    connection: NatsConnection, store: KvStore, client: Client
) -> None:
    if not takes_transactions(store, connection):
        return
    info = json.loads((await client.request(f"$JS.API.STREAM.INFO.KV_{store.name}")).data)
    config = {**info["config"], "allow_atomic": False}
    await client.request(f"$JS.API.STREAM.UPDATE.KV_{store.name}", json.dumps(config).encode())
    with pytest.raises(UnsupportedError):
        await put_together(store, "ab")
    again = await connection.store(store.name)
    with pytest.raises(UnsupportedError, match="allow_atomic"):
        again.transaction()
    assert (await store.status()).last_revision == 0


async def test_more_commits_at_once_than_the_server_takes_all_commit(
    connection: NatsConnection, store: KvStore
) -> None:
    """It keeps 50 batches of a stream under way and refuses more (10176 on 2.12, 10210 from 2.14)."""
    if not takes_transactions(store, connection):
        return

    async def commit(number: int) -> None:
        async with store.transaction() as txn:
            for part in range(3):
                txn.put(f"k.{number}.{part}", b"1")

    async with bounded(), asyncio.TaskGroup() as group:
        for number in range(120):
            group.create_task(commit(number))
    assert len(await store.keys()) == 360


async def test_the_status_of_a_session_reads_its_own_commit(connection: NatsConnection, store: KvStore) -> None:
    if not takes_transactions(store, connection):
        return
    session = await connection.store(store.name, reads="session")
    async with session.transaction() as txn:
        txn.put("a", b"1")
        txn.put("b", b"1")
    for key in ("a", "b"):
        entry = await session.get(key)
        assert entry is not None
        assert entry.version == txn.versions[key]


class TestLostAnswers:
    @pytest.fixture
    async def proxied(self, nats_server: NatsServer, fault_proxy: MakeProxy) -> tuple[NatsServer, FaultProxy]:
        return nats_server, await fault_proxy("127.0.0.1", nats_server.port)

    async def test_a_commit_whose_answer_was_lost_is_found_by_its_id(
        self, proxied: tuple[NatsServer, FaultProxy]
    ) -> None:
        server, proxy = proxied
        async with connection_to(proxy.url) as connection, connection_to(server.url) as beside:
            store = await connection.store("config")
            other = await beside.store("config")
            if not takes_transactions(store, connection):
                return
            version = await store.put("k", b"1")

            async def commit() -> dict[str, VersionToken]:
                async with store.transaction() as txn:
                    txn.update("k", b"2", version)
                    txn.require("absent", None)
                    txn.put("last", b"2")
                return txn.versions

            async def is_stored() -> bool:
                return await other.get("last") is not None

            async with bounded(), asyncio.TaskGroup() as group:
                # Everything arrives, and every answer is late: when it is stored, the last has not come back.
                proxy.latency(0.3)
                committing = group.create_task(commit())
                await eventually(is_stored)
                proxy.drop()
                proxy.latency(0)
            entries = {entry.key: entry.version for entry in await other.scan()}
            assert committing.result() == entries
            assert {entry.key: entry.value for entry in await other.scan()} == {"k": b"2", "last": b"2"}

    async def test_a_commit_that_was_overwritten_before_it_could_be_found_is_unknown(
        self, proxied: tuple[NatsServer, FaultProxy]
    ) -> None:
        server, proxy = proxied
        async with connection_to(proxy.url) as connection, connection_to(server.url) as beside:
            store = await connection.store("config")
            other = await beside.store("config")
            if not takes_transactions(store, connection):
                return

            async def commit() -> KvError | None:
                try:
                    await put_together(store, "a")
                except KvError as error:
                    return error
                return None

            async def is_stored() -> bool:
                return await other.get("a") is not None

            async with bounded(), asyncio.TaskGroup() as group:
                proxy.black_hole("to_client")
                committing = group.create_task(commit())
                await eventually(is_stored)
                await other.put("a", b"2")
                await proxy.heal()
            error = committing.result()
            assert isinstance(error, NotConnectedError)
            assert error.outcome_unknown

    async def test_a_commit_that_is_never_answered_is_unknown_after_its_timeout(
        self, proxied: tuple[NatsServer, FaultProxy]
    ) -> None:
        _, proxy = proxied
        async with connection_to(proxy.url, op_timeout=1.0) as connection:
            store = await connection.store("config")
            if not takes_transactions(store, connection):
                return
            proxy.black_hole("to_client")
            async with bounded():
                for parts, unknown in (("a", True), ("ab", False)):
                    with pytest.raises(OperationTimeoutError) as caught:
                        await put_together(store, parts)
                    # Of two messages the second waits for the first to be answered: no commit was sent.
                    assert caught.value.outcome_unknown == unknown

    async def test_commits_outlive_restarts_and_their_outcomes_are_what_they_say(self, nats_server: NatsServer) -> None:
        """The sum over all accounts is the number of commits, give or take those that said that they do not know."""
        async with connection_to(nats_server.url) as connection:
            store = await connection.store("config")
            if not takes_transactions(store, connection):
                return
            done = unknown = 0

            async def add(number: int) -> None:
                nonlocal done, unknown

                async def increment(txn: Transaction) -> None:
                    for key in (f"one.{number}", "all"):
                        entry = await txn.get(key)
                        txn.put(key, b"%d" % (int(entry.value if entry is not None else b"0") + 1))

                while True:
                    try:
                        await store.atomically(increment)
                    except KvError as error:
                        if not error.outcome_unknown:
                            continue
                        unknown += 1
                    else:
                        done += 1
                    await asyncio.sleep(0)

            async with AsyncExitStack() as stack:
                for number in range(4):
                    await stack.enter_async_context(background(add(number)))
                reached = 0

                async def has_gone_on() -> bool:
                    return done >= reached

                for reached in (20, 40, 60):
                    await eventually(has_gone_on)
                    if reached < 60:
                        await nats_server.kill()
                        await nats_server.start()
            values = {entry.key: int(entry.value) for entry in await store.scan()}
            total = values.pop("all")
            assert total == sum(values.values())
            # Cancelled at the end, each task may have left one commit without hearing of it.
            assert done <= total <= done + unknown + 4


class TestReplicas:
    @pytest.fixture
    async def cluster(self) -> AsyncIterator[list[str]]:
        """Three servers; their URLs."""
        ports = [_free_port() for _ in range(3)]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        async with AsyncExitStack() as stack:
            servers = []
            for number, port in enumerate(ports):
                cluster = f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}'
                servers.append(NatsServer(config=f"server_name: n{number}\n{cluster}"))
                await stack.enter_async_context(servers[-1])
            yield [server.url for server in servers]

    async def test_what_is_required_holds_under_concurrent_writes(self, cluster: list[str]) -> None:
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(connection_to(url, op_timeout=3)) for url in cluster]
            stores: list[KvStore] = []
            async with asyncio.timeout(40):
                while len(stores) < 3:
                    try:
                        stores.append(await connections[len(stores)].store(StoreConfig(name="config", num_replicas=3)))
                    except KvError:
                        continue  # the cluster has no leader yet
            if not takes_transactions(stores[0], connections[0]):
                return
            written: list[int] = []
            commits: list[tuple[int, int]] = []

            async def write(by: KvStore, writer: int) -> None:
                number = 0
                while True:
                    number += 1
                    version = await by.put(f"node.{writer}.{number}", b"1")
                    written.append(version.as_u64() or 0)
                    await asyncio.sleep(0.005)

            async def guard_it() -> None:
                while True:
                    seen = (await stores[2].status()).last_revision
                    try:
                        async with stores[2].transaction() as txn:
                            txn.require_unchanged("node.", VersionToken.from_u64(seen))
                            txn.put("result", b"1")
                    except RevisionMismatchError:
                        continue
                    commits.append((seen, txn.versions["result"].as_u64() or 0))

            async def enough() -> bool:
                return len(commits) >= 40 and len(written) >= 200

            for number in range(2):
                await stack.enter_async_context(background(write(stores[number], number)))
            await stack.enter_async_context(background(guard_it()))
            await eventually(enough)
            assert [(seen, at) for seen, at in commits if any(seen < between < at for between in written)] == []

            # Guards on one key that are under way at the same time are refused (10164), and sent again.
            fence = await stores[0].put("fence", b"1")
            await stores[0].fenced("fence", fence).put_many({f"k.{number}": b"1" for number in range(100)})
            assert len(await stores[0].keys("k.")) == 100


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
