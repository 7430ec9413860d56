"""Settings that follow the store: validated whole, swapped at once, rolled back, and there without a server.

Usage: python examples/config_sync.py [URL]
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

import slipstream
from slipstream import ConnectionFailedError, JsonLinesSnapshot, KvStore, LiveConfig


class Database(BaseModel):
    model_config = ConfigDict(frozen=True)

    host: str = "localhost"
    pool: int = Field(default=5, ge=1, le=100)


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    currency: str = "EUR"
    vat: float = Field(default=19, ge=0, lt=100)
    db: Database = Database()


async def hot_reload(store: KvStore, config: LiveConfig[Settings]) -> None:
    print(f"   starts with {config.current}")
    good = config.revision
    if good is None:
        raise RuntimeError("it has settings of no revision")

    @config.on_change("db.pool")
    def resize(old: int, new: int) -> None:
        print(f"   the pool is resized from {old} to {new}")

    print("a change arrives as it is made")
    await config.wait_for(await store.put("shop.db.pool", b"9"))

    print("a change that is not valid is not taken, and says what is wrong")
    await config.wait_for(await store.put("shop.db.pool", b"lots"))
    print(f"   {config.rejected}")
    print(f"   still in force: {config.current.db}")

    print("two fields that belong together are changed together")
    async with store.transaction() as txn:
        txn.put("shop.db.pool", b"50")
        txn.put("shop.db.host", b"db-2")
    await config.wait_for(max(txn.versions.values(), key=bytes))
    print(f"   {config.current.db}")

    print("and back to what was there first, as one new revision")
    await config.rollback(good)
    print(f"   {config.current}")


async def no_server() -> KvStore:
    raise ConnectionFailedError(message="this part of the example plays that there is no server")


async def main(url: str) -> None:
    async with asyncio.timeout(20), slipstream.connect(url) as connection:
        store = await connection.store(f"config-sync-{secrets.token_hex(4)}")
        try:
            with tempfile.TemporaryDirectory() as folder:
                snapshot = JsonLinesSnapshot(Path(folder) / "settings.jsonl")
                await store.put_many({"shop.vat": b"7", "shop.db.host": b"db-1"})
                print("the settings are read from the store")
                async with LiveConfig(store, "shop.", Settings, snapshot=snapshot) as config:
                    await hot_reload(store, config)
                print("the application starts again while no server can be reached")
                async with LiveConfig(no_server, "shop.", Settings, snapshot=snapshot) as config:
                    print(f"   stale: {config.stale}, {config.current}")
        finally:
            await connection.delete_store(store.name)


if __name__ == "__main__":
    logging.getLogger("slipstream").setLevel(logging.ERROR)  # what it would warn of is printed above
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
