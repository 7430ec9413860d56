"""The permissions that are printed, on a real server: they let a role do its work, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream.cli.commands.grants import Role, grants
from slipstream.errors import PermissionDeniedError
from slipstream.interfaces import Connection, KvStore
from slipstream.model import StoreConfig
from slipstream.testing import NatsServer
from slipstream.testing._waiting import bounded, collect
from tests.cli.conftest import Cli

ROLES = ("reader", "writer", "watcher", "admin")
BUCKET = "b"
LARGE = 20


@pytest.fixture
async def server(bare_cli: Cli) -> AsyncIterator[NatsServer]:
    """A server that permits each role what is printed for it, and `root` everything."""
    users = ['{ user: root, password: "p" }']
    for role in ROLES:
        block = (await bare_cli("permissions", role, BUCKET, "--inbox-prefix", f"_INBOX_{role}")).out
        users.append(f'{{ user: {role}, password: "p"\n{block} }}')
    scoped = (await bare_cli("permissions", "writer", BUCKET, "--prefix", "node.")).out
    users.append(f'{{ user: scoped, password: "p"\n{scoped} }}')
    async with NatsServer(config=f"authorization {{ users = [\n{chr(10).join(users)}\n] }}") as running:
        yield running


def connect(server: NatsServer, user: str, **options: Any) -> Connection:
    if user in ROLES:
        options["inbox_prefix"] = f"_INBOX_{user}"
    return slipstream.connect(server.url.replace("nats://", f"nats://{user}:p@"), op_timeout=5, **options)


async def denied(work: Callable[[], Awaitable[object]]) -> None:
    async with bounded():
        with pytest.raises(PermissionDeniedError):
            await work()


def check_unhindered(server: NatsServer) -> None:
    """Nothing was refused, not even what is sent without waiting for an answer, as flow control is."""
    assert "Violation" not in server.log()


async def read(store: KvStore) -> None:
    """Everything that a reader may do."""
    keys = [f"k{number}" for number in range(50)]
    assert await store.get("node.a") is not None
    assert await store.entry("node.a") is not None
    assert len(await store.get_many(["node.a", *keys])) == 51
    assert len(await store.keys()) == 51 + LARGE
    # More than a server sends before it wants to know whether it is kept up with.
    assert len(await store.scan()) == 51 + LARGE
    assert [entry.key async for entry in store.iter_scan("node.")] == ["node.a"]
    (last,) = await store.history("node.a")
    assert await store.revision("node.a", last.version) == last


async def write(store: KvStore, prefix: str = "") -> None:
    """Everything that a writer may do."""
    key = f"{prefix}w"
    version = await store.put(key, b"1")
    version = await store.update(key, b"2", version)
    await store.delete_with_version(key, version)
    await store.create(key, b"3")
    await store.delete(key)
    version = await store.create(key, b"4", ttl=60)
    version = await store.touch(key, version, ttl=90)
    await store.put_many({f"{prefix}m{number}": b"v" for number in range(20)})
    async with store.transaction() as txn:
        txn.put(f"{prefix}t", b"1")
        txn.require(key, version)
        txn.require(f"{prefix}absent", None)
    await store.fenced(key, version).put(f"{prefix}f", b"1")
    await store.purge(key)


async def watch(store: KvStore, root: KvStore) -> None:
    """Everything that a watcher may do."""
    async with store.watch(["node.", "live."]) as watching:
        (first,) = await collect(watching, 1)
        assert first.key == "node.a"
        async with bounded():
            await watching.wait_hydrated()
        await root.put("live.x", b"1")
        (live,) = await collect(watching, 1)
        cursor = watching.cursor
    assert live.key == "live.x"
    await root.put("live.x", b"2")
    async with store.watch("live.", cursor=cursor) as watching:
        assert (await collect(watching, 1))[0].value == b"2"
    await root.delete("live.x")


async def filled(root: Connection) -> KvStore:
    store = await root.store(StoreConfig(name=BUCKET))
    await store.put("node.a", b"1")
    await fill(store)
    return store


async def fill(store: KvStore) -> None:
    await store.put_many({f"k{number}": b"v" for number in range(50)})
    await store.put_many({f"large.{number}": b"v" * 500_000 for number in range(LARGE)})


async def test_readers(server: NatsServer) -> None:
    async with connect(server, "root") as root, connect(server, "reader") as conn:
        await filled(root)
        store = await conn.store(BUCKET)
        await read(store)
        check_unhindered(server)
        await (await root.store(BUCKET)).delete("k0")
        await denied(lambda: store.put("node.a", b"2"))
        await denied(lambda: store.delete("node.a"))
        await denied(lambda: store.purge_deletes())
        await denied(lambda: conn.delete_store(BUCKET))
        await denied(conn.stores)


async def test_readers_of_replicated_stores_ask_the_leader(server: NatsServer) -> None:
    async with connect(server, "root") as root, connect(server, "reader") as conn:
        await filled(root)
        await read(await conn.store(BUCKET, reads="leader"))
        check_unhindered(server)


async def test_watchers(server: NatsServer) -> None:
    async with connect(server, "root") as root, connect(server, "watcher") as conn:
        filled_by_root = await filled(root)
        store = await conn.store(BUCKET)
        await watch(store, filled_by_root)
        check_unhindered(server)
        await denied(lambda: store.get("node.a"))
        await denied(lambda: store.put("node.a", b"2"))
        await denied(lambda: conn.delete_store(BUCKET))


async def test_writers(server: NatsServer) -> None:
    async with connect(server, "root") as root, connect(server, "writer") as conn:
        await filled(root)
        store = await conn.store(BUCKET)
        await write(store)
        check_unhindered(server)
        await denied(store.scan)
        await denied(lambda: store.watch().__aenter__())
        await denied(lambda: conn.delete_store(BUCKET))
        await denied(conn.stores)


async def test_writers_of_a_prefix(server: NatsServer) -> None:
    async with connect(server, "root") as root, connect(server, "scoped") as conn:
        await filled(root)
        store = await conn.store(BUCKET)
        await write(store, "node.")
        check_unhindered(server)
        await denied(lambda: store.put("k1", b"2"))
        await denied(lambda: store.put("nodes.b", b"2"))


async def test_admins(server: NatsServer) -> None:
    async with connect(server, "root") as root, connect(server, "admin") as conn:
        await root.store("other")
        store = await conn.store(StoreConfig(name=BUCKET))
        await store.put("node.a", b"1")
        await fill(store)
        await read(store)
        await watch(store, store)
        await write(store)
        assert await store.purge_deletes() > 0
        assert await conn.stores() == [BUCKET, "other"]
        await conn.admin().update_store(StoreConfig(name=BUCKET, description="x"))  # type: ignore[attr-defined]
        check_unhindered(server)
        await denied(lambda: conn.delete_store("other"))
        await denied(lambda: conn.store("third"))
        await conn.delete_store(BUCKET)


@pytest.mark.parametrize("role", ["reader", "writer", "watcher"])
async def test_nothing_is_permitted_that_is_not_needed(role: Role) -> None:
    """A user for each subject of the role, who lacks this one: every one of them meets a refusal."""
    whole = grants([role], BUCKET)
    users = ['{ user: root, password: "p" }']
    for number, left_out in enumerate(whole.publish):
        without = replace(whole, publish=tuple(subject for subject in whole.publish if subject != left_out))
        users.append(f'{{ user: without{number}, password: "p"\n{without.as_config()} }}')
    needless = []
    async with (
        NatsServer(config=f"authorization {{ users = [\n{chr(10).join(users)}\n] }}") as server,
        connect(server, "root") as root,
    ):
        by_root = await filled(root)
        for number, left_out in enumerate(whole.publish):
            refused = False
            async with connect(server, f"without{number}") as conn:
                try:
                    await work_of(role, await conn.store(BUCKET), by_root)
                except (slipstream.KvError, TimeoutError):  # the latter of a watch without flow control, which stalls
                    refused = True
            if not refused and f'user:without{number}" - Publish Violation' not in server.log():
                needless.append(left_out)
    assert needless == []


async def work_of(role: Role, store: KvStore, by_root: KvStore) -> None:
    match role:
        case "reader":
            await read(store)
        case "writer":
            await write(store)
        case _:
            await watch(store, by_root)


async def test_roles_hear_only_their_own_answers(server: NatsServer) -> None:
    async with connect(server, "root") as root:
        await filled(root)
        stranger = slipstream.connect(
            server.url.replace("nats://", "nats://reader:p@"), inbox_prefix="_INBOX_writer", op_timeout=1
        )
        with pytest.raises(slipstream.KvError):
            async with stranger:
                await (await stranger.store(BUCKET)).get("node.a")


async def test_for_tools_and_in_a_domain(bare_cli: Cli) -> None:
    record = (await bare_cli("permissions", "reader,writer", BUCKET, "--domain", "hub", "--json")).record
    assert "$JS.hub.API.INFO" in record["publish"]["allow"]
    assert f"$KV.{BUCKET}.>" in record["publish"]["allow"]
    assert record["subscribe"]["allow"] == ["_INBOX.>"]
    assert "dot at its end" in (await bare_cli("permissions", "writer", BUCKET, "--prefix", "node", code=2)).err
    assert "a role is one of" in (await bare_cli("permissions", "king", BUCKET, code=2)).err


def test_this_file_tries_what_the_interfaces_have() -> None:
    text = Path(__file__).read_text()
    untried = {"batches", "cursor", "hydrated", "statistics", "status", "reader", "writer", "watcher", "atomically"}
    for role in (slipstream.KvReader, slipstream.KvWriter, slipstream.KvWatcher):
        for name in vars(role):
            if not name.startswith("_") and name not in untried:
                assert f".{name}(" in text, f"{role.__name__}.{name}"
