"""The users of docs/operations.md can do what is said there, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import nats
import pytest

import slipstream
from slipstream import Connection, KvStore, Operation, PermissionDeniedError
from slipstream.testing import NatsServer
from tests.examples.pages import BLOCKS

CONFIGURATION = next(
    block.text for block in BLOCKS if block.page == "operations" and block.text.startswith("authorization")
)

LARGE = 400
"""Values of 32 KiB: more than a server sends without a word of the reader (2 MiB)."""


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NatsServer]:
    for user in ("SERVICE", "SHOP", "OPERATOR"):
        monkeypatch.setenv(f"{user}_PASSWORD", "secret")
    async with NatsServer(config=CONFIGURATION) as server:
        yield server


def connection_of(user: str, server: NatsServer) -> Connection:
    inbox = "_INBOX" if user == "operator" else f"_INBOX_{user}"
    return slipstream.connect(f"nats://{user}:secret@127.0.0.1:{server.port}", inbox_prefix=inbox, op_timeout=5)


async def is_refused(attempt: Callable[[], Awaitable[object]]) -> bool:
    try:
        await attempt()
    except PermissionDeniedError:
        return True
    return False


async def commit(store: KvStore, *keys: str, unchanged: str | None = None) -> None:
    async with store.transaction() as txn:
        for key in keys:
            txn.create(key, b"1")  # with a condition of its own: what is required needs another message to ride on
        if unchanged is not None:
            txn.require(unchanged, None)


async def consumers(server: NatsServer) -> int:
    """How many the bucket has, as the server counts them."""
    client = await nats.connect(f"nats://operator:secret@127.0.0.1:{server.port}")
    try:
        return (await client.jetstream().stream_info("KV_config")).state.consumer_count
    finally:
        await client.close()


async def test_the_roles(server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "slipstream")
    async with (
        connection_of("operator", server) as operator,
        connection_of("service", server) as service,
        connection_of("shop", server) as shop,
    ):
        owned = await operator.store("config")
        await owned.put_many({"shop.colour": b"blue", "bank.limit": b"9"})
        await owned.put_many({f"large.{number}": bytes(32 * 1024) for number in range(LARGE)})

        read = await service.store("config")
        assert len(await read.scan("large.")) == LARGE
        assert "violation" not in caplog.text  # its answers to flow control are the server's to see, and no error
        for key in await owned.keys("large."):
            await owned.delete(key)
        assert [entry.key for entry in await read.scan()] == ["bank.limit", "shop.colour"]
        assert set(await read.get_many(["shop.colour", "bank.limit"])) == {"shop.colour", "bank.limit"}
        assert await read.keys("shop.") == ["shop.colour"]
        assert (await read.get("shop.colour")).value == b"blue"  # type: ignore[union-attr]
        assert (await read.status()).keys == 2 + LARGE
        async with read.watch("shop.") as watch:
            assert (await anext(watch)).operation is Operation.PUT
            assert await is_refused(lambda: read.put("shop.colour", b"red"))

            written = await shop.store("config")
            version = await written.put("shop.colour", b"green")
            assert (await anext(watch)).version == version
        await written.update("shop.colour", b"grey", version)
        await written.create("shop.size", b"42")
        await written.delete("shop.size")
        await written.create("shop.size", b"43")  # over a tombstone, which it has to read
        await written.delete("shop.size")
        assert await is_refused(lambda: written.put("bank.limit", b"10"))
        assert await is_refused(lambda: written.scan())
        if shop.capabilities.transactions:
            await commit(written, "shop.a", "shop.b", unchanged="shop.c")
            assert await is_refused(lambda: commit(written, "shop.d", "bank.other"))
        assert await is_refused(lambda: shop.store("other"))
        assert await is_refused(lambda: shop.delete_store("config"))
        assert await is_refused(lambda: service.stores())

        assert (await owned.get("bank.limit")).value == b"9"  # type: ignore[union-attr]
        assert await owned.purge_deletes() == 1 + LARGE
        assert await consumers(server) == 0
        await operator.delete_store("config")
