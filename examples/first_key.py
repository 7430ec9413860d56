"""A watched key in two terminals. Both name the same folder, so both use one private nats-server.

Usage: python examples/first_key.py watch [PREFIX]
       python examples/first_key.py put KEY VALUE
       python examples/first_key.py delete KEY
$SLIPSTREAM_URL names another server.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import slipstream
from slipstream import KvStore, KvUpdate

FOLDER = Path(__file__).resolve().parents[1] / ".demo"
URL = os.environ.get("SLIPSTREAM_URL") or f"embedded://{FOLDER}"


def show(update: KvUpdate) -> None:
    text = f"{update.operation.name} {update.key} {update.value.decode(errors='replace')}".rstrip()
    print(f"{text}  (revision {update.revision})", flush=True)


async def watch(store: KvStore, prefix: str = "") -> None:
    async with store.watch(prefix) as updates:
        print(f"watching {prefix or 'every key'}; Ctrl-C ends it", flush=True)
        async for update in updates:  # what is there first, then every change
            show(update)


async def put(store: KvStore, key: str, value: str) -> None:
    version = await store.put(key, value.encode())
    print(f"{key} is at revision {version}")


async def delete(store: KvStore, key: str) -> None:
    await store.delete(key)


async def main(command: str, *arguments: str) -> None:
    async with slipstream.connect(URL) as connection:
        store = await connection.store("first-key")
        await {"watch": watch, "put": put, "delete": delete}[command](store, *arguments)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["watch"] | ["watch", _] | ["put", _, _] | ["delete", _]:
            try:
                asyncio.run(main(*sys.argv[1:]))
            except KeyboardInterrupt:
                pass  # that is how a watch ends
            except slipstream.KvError as error:
                sys.exit(f"{type(error).__name__}: {error}")
        case _:
            sys.exit(__doc__)
