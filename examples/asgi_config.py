"""A web application whose settings change while it runs: plain ASGI, so that it needs no framework.

With a server of your choice, in this folder (the same in FastAPI: fastapi_config.py):
    SLIPSTREAM_URL=nats://127.0.0.1:4222 uvicorn --factory asgi_config:Application
then write `web.greeting` or `web.shout` in the store `web-config`.

Run by itself it plays browser and operator: python examples/asgi_config.py [URL]
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import slipstream
from slipstream import KvStore, LiveConfig

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    greeting: str = Field(default="hello", min_length=1)
    shout: bool = False


class Application:
    """Follows its settings from start-up to shutdown; every request is answered with those that are in force then."""

    def __init__(self, url: str | None = None, store: str = "web-config") -> None:
        self.connection = slipstream.connect(url)
        self.config = LiveConfig(self.open_store, "web.", Settings)
        self._store = store

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._answer(self.config.current, scope, send)

    async def open_store(self) -> KvStore:
        return await self.connection.store(self._store)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        async with self.connection, self.config:
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, settings: Settings, scope: Message, send: Send) -> None:
        text = f"{settings.greeting}, {scope['path'].strip('/') or 'world'}"
        body = (text.upper() if settings.shout else text).encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


# What follows is the play.


class Browser:
    """Starts an application, asks it, and stops it."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()

    async def __call__(self, ask: Callable[[Browser], Awaitable[None]]) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._application({"type": "lifespan"}, self._to_app.get, self._from_app.put))
            await self._to_app.put({"type": "lifespan.startup"})
            await self._from_app.get()
            await ask(self)
            await self._to_app.put({"type": "lifespan.shutdown"})

    async def get(self, path: str) -> str:
        sent: asyncio.Queue[Message] = asyncio.Queue()
        await self._application({"type": "http", "path": path}, self._to_app.get, sent.put)
        await sent.get()
        answer: str = (await sent.get())["body"].decode()
        return answer


async def operate(application: Application, browser: Browser) -> None:
    print(await browser.get("/anna"))
    config, store = application.config, await application.open_store()
    for key, value in [("web.greeting", b"good morning"), ("web.shout", b"true"), ("web.shout", b"perhaps")]:
        await config.wait_for(await store.put(key, value))
        print(f"the operator writes {key} = {value.decode()}{' (rejected)' if config.rejected else ''}")
        print(await browser.get("/anna"))
    await config.aclose()
    await application.connection.delete_store(store.name)


async def main(url: str) -> None:
    application = Application(url, f"asgi-config-{secrets.token_hex(4)}")
    async with asyncio.timeout(20):
        await Browser(application)(lambda browser: operate(application, browser))


if __name__ == "__main__":
    logging.getLogger("slipstream").setLevel(logging.ERROR)  # what it would warn of is printed above
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
