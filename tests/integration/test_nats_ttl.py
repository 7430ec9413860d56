"""Per-key ttl on a real server: what is stored, what foreign buckets and older servers refuse, whose clock counts."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from datetime import timedelta

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import KeyValueConfig
from pydantic import SecretStr

from slipstream.errors import UnsupportedError
from slipstream.interfaces import KvStore
from slipstream.model import StoreConfig
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.testing._waiting import LIMIT, bounded, collect_until


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[NatsConnection]:
    async with NatsConnection(NatsConnectionConfig(url=SecretStr(nats_url), op_timeout=LIMIT)) as connection:
        yield connection


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    client = await nats.connect(nats_url)
    yield client
    await client.close()


@pytest.fixture
async def store(connection: NatsConnection) -> AsyncIterator[KvStore]:
    name = f"ttl-{secrets.token_hex(8)}"
    yield await connection.store(StoreConfig(name=name))
    await connection.delete_store(name)


def version_of(client: Client) -> tuple[int, int, int]:
    version = client.connected_server_version
    return version.major, version.minor, version.patch


async def test_the_capability_is_that_of_the_server(connection: NatsConnection, client: Client) -> None:
    assert connection.capabilities.ttl == (version_of(client) >= (2, 11, 2))


async def test_what_is_stored_names_whole_seconds(connection: NatsConnection, store: KvStore, client: Client) -> None:
    async def header() -> str | None:
        stored = await client.jetstream().get_last_msg(f"KV_{store.name}", f"$KV.{store.name}.k")
        return (stored.headers or {}).get("Nats-TTL")

    if not connection.capabilities.ttl:
        with pytest.raises(UnsupportedError, match=r"2\.11\.2"):
            await store.put("k", b"value", ttl=1)
        return
    version = await store.put("k", b"value", ttl=59.001)
    assert await header() == "60s"
    await store.touch("k", version, ttl=timedelta(hours=1))
    assert await header() == "3600s"
    await store.put("k", b"value")
    assert await header() is None


async def test_a_bucket_of_another_client_refuses_and_says_what_to_do(
    connection: NatsConnection, client: Client
) -> None:
    name = f"ttl-{secrets.token_hex(8)}"
    await client.jetstream().create_key_value(KeyValueConfig(bucket=name))
    try:
        store = await connection.store(name)
        with pytest.raises(UnsupportedError, match="marker_ttl" if connection.capabilities.ttl else r"2\.11\.2"):
            await store.put("k", b"value", ttl=5)
        assert (await store.status()).last_revision == 0
    finally:
        await connection.delete_store(name)


async def test_an_expired_value_that_the_server_still_has_is_not_handed_out(
    connection: NatsConnection, store: KvStore, client: Client
) -> None:
    """The mirror of a bucket that is gone keeps what has expired for ever, others for a quarter of a second."""
    if not connection.capabilities.ttl:
        return
    await store.put("k", b"value", ttl=1)
    mirror = await connection.store(StoreConfig(name=f"{store.name}-mirror", mirror=store.name))
    try:
        async with mirror.watch("k") as watch:
            (update,) = await collect_until(watch, lambda _: True)
            assert update.expires is not None
            await connection.delete_store(store.name)
        async with bounded():
            while "k" in await mirror.keys():
                pass
            assert await mirror.get("k") is None
            assert await mirror.entry("k") is None
            assert await mirror.get_many(["k"]) == {}
            assert await mirror.scan() == []
            assert [entry async for entry in mirror.iter_scan()] == []
        stored = await client.jetstream().get_last_msg(f"KV_{mirror.name}", f"$KV.{store.name}.k")
        assert stored.data == b"value"
    finally:
        await connection.delete_store(mirror.name)
        await connection.store(store.name)  # for the fixture to delete


async def test_an_expiry_is_seen_by_a_watch_that_was_away(connection: NatsConnection, store: KvStore) -> None:
    if not connection.capabilities.ttl:
        return
    await store.put("k", b"value", ttl=1)
    async with store.watch() as watch:
        await anext(watch)
        cursor = watch.cursor
    async with bounded():
        while await store.get("k") is not None:
            pass
    async with store.watch(cursor=cursor) as watch:
        assert [(update.key, update.expired) for update in await collect_until(watch, lambda _: True)] == [("k", True)]
