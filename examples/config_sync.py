"""An application's settings follow the store, also over a restart of the application.

Values and cursor are saved in one file, in one step: a cursor is worth something only beside the state that it belongs
to. After a restart only what changed meanwhile is read; where that cannot be known any more, all is read anew.

Usage: python examples/config_sync.py [URL]
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import tempfile
from pathlib import Path

import slipstream
from slipstream import CursorExpiredError, KvStore, KvUpdate, Operation, WatchCursor


class Settings:
    """The settings as far as they have been read, with the cursor up to which that is."""

    def __init__(self, file: Path) -> None:
        self._file = file
        saved = json.loads(file.read_text() if file.exists() else '{"values": {}, "cursor": "none"}')
        self.values: dict[str, str] = saved["values"]
        self.cursor = WatchCursor.parse(saved["cursor"])

    def apply(self, update: KvUpdate, cursor: WatchCursor) -> None:
        match update:
            case KvUpdate(operation=Operation.PUT, key=key, value=value):
                self.values[key] = value.decode()
            case KvUpdate(key=key):
                self.values.pop(key, None)
        self.cursor = cursor
        print(f"   {update.operation.name} {update.key} {update.value.decode()}".rstrip())
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps({"values": self.values, "cursor": str(cursor)}))
        new.replace(self._file)  # whenever it stops, there is the old file or the new one


async def application(store: KvStore, file: Path, ready: asyncio.Event, *, until: dict[str, str]) -> None:
    """One life of the application, until its settings are those; a real one would go on."""
    settings = Settings(file)
    print(f"   starts with {len(settings.values)} settings from its file")
    while settings.values != until:
        try:
            async with store.watch("shop.", cursor=settings.cursor) as watch, asyncio.TaskGroup() as tasks:
                tasks.create_task(report_ready(watch, settings, ready))
                async for update in watch:
                    settings.apply(update, watch.cursor)
                    if settings.values == until:
                        break
        except* CursorExpiredError:
            print("   its cursor has expired")
            settings.values.clear()  # nobody will tell any more what was deleted meanwhile
            settings.cursor = WatchCursor.none()


async def report_ready(watch: slipstream.Watch, settings: Settings, ready: asyncio.Event) -> None:
    await watch.wait_hydrated()
    print(f"   ready with {len(settings.values)} settings")
    ready.set()


async def three_lives(store: KvStore, file: Path) -> None:
    await store.put_many({"shop.currency": b"EUR", "shop.vat": b"19", "other": b"not ours"})
    print("first life: everything is read, then a change arrives as it is made")
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(application(store, file, ready, until={"shop.currency": "EUR", "shop.vat": "20"}))
        await ready.wait()
        await store.put("shop.vat", b"20")
    await store.put("shop.theme", b"dark")
    await store.delete("shop.currency")
    print("second life: only what changed while it was down is read")
    await application(store, file, asyncio.Event(), until={"shop.vat": "20", "shop.theme": "dark"})
    names = ["shop.currency", "shop.vat", "shop.theme"]
    for key in [*names, *names, "other"]:
        await store.put(key, b"new")
    print("third life: all was written over, so the saved cursor is too old and everything is read anew")
    await application(store, file, asyncio.Event(), until=dict.fromkeys(names, "new"))


async def main(url: str) -> None:
    async with asyncio.timeout(20), slipstream.connect(url) as connection:
        store = await connection.store(f"config-sync-{secrets.token_hex(4)}")
        try:
            with tempfile.TemporaryDirectory() as folder:
                await three_lives(store, Path(folder) / "settings.json")
        finally:
            await connection.delete_store(store.name)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
