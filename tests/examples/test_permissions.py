"""The users of docs/operations.md can do what is said there, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import slipstream
from slipstream import Connection, KvStore, Operation, PermissionDeniedError
from slipstream.testing import NatsServer
from tests.examples.pages import BLOCKS

CONFIGURATION = next(
    block.text for block in BLOCKS if block.page == "operations" and block.text.startswith("authorization")
)


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


async def commit(store: KvStore, *keys: str) -> None:
    async with store.transaction() as txn:
        for key in keys:
            txn.put(key, b"1")


async def test_the_roles(server: NatsServer) -> None:
    async with (
        connection_of("operator", server) as operator,
        connection_of("service", server) as service,
        connection_of("shop", server) as shop,
    ):
        owned = await operator.store("config")
        await owned.put_many({"shop.colour": b"blue", "bank.limit": b"9"})

        read = await service.store("config")
        assert [entry.key for entry in await read.scan()] == ["bank.limit", "shop.colour"]
        assert set(await read.get_many(["shop.colour", "bank.limit"])) == {"shop.colour", "bank.limit"}
        assert await read.keys("shop.") == ["shop.colour"]
        assert (await read.get("shop.colour")).value == b"blue"  # type: ignore[union-attr]
        assert (await read.status()).keys == 2
        async with read.watch("shop.") as watch:
            assert (await anext(watch)).operation is Operation.PUT
            assert await is_refused(lambda: read.put("shop.colour", b"red"))

            written = await shop.store("config")
            version = await written.put("shop.colour", b"green")
            assert (await anext(watch)).version == version
        await written.update("shop.colour", b"grey", version)
        await written.create("shop.size", b"42")
        await written.delete("shop.size")
        assert await is_refused(lambda: written.put("bank.limit", b"10"))
        assert await is_refused(lambda: written.scan())
        if shop.capabilities.transactions:
            await commit(written, "shop.a", "shop.b")
            assert await is_refused(lambda: commit(written, "shop.a", "bank.limit"))
        assert await is_refused(lambda: shop.store("other"))
        assert await is_refused(lambda: shop.delete_store("config"))
        assert await is_refused(lambda: service.stores())

        assert (await owned.get("bank.limit")).value == b"9"  # type: ignore[union-attr]
        assert await owned.purge_deletes() == 1
        await operator.delete_store("config")
