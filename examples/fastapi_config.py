"""A FastAPI application whose settings change while it runs: every request gets those that are in force when it comes.

With a server of your choice, in this folder (pip install fastapi uvicorn):
    SLIPSTREAM_URL=nats://127.0.0.1:4222 uvicorn --factory fastapi_config:application
then write `web.greeting` or `web.shout` in the store `web-config`.

Run by itself it plays browser and operator: python examples/fastapi_config.py [URL]
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

import slipstream
from slipstream import LiveConfig


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    greeting: str = Field(default="hello", min_length=1)
    shout: bool = False


def settings_now(request: Request) -> Settings:
    """A request keeps what it got, whatever changes while it is answered."""
    config: LiveConfig[Settings] = request.app.state.config
    return config.current


def application(url: str | None = None, store: str = "web-config") -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with slipstream.connect(url) as app.state.connection:
            app.state.store = await app.state.connection.store(store)
            async with LiveConfig(app.state.store, "web.", Settings) as app.state.config:
                yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/{name}", response_class=PlainTextResponse)
    async def greet(name: str, settings: Annotated[Settings, Depends(settings_now)]) -> str:
        text = f"{settings.greeting}, {name}"
        return text.upper() if settings.shout else text

    return app


async def play(app: FastAPI) -> None:
    """The browser asks, the operator writes, and clears away what the play has made."""
    config, store = app.state.config, app.state.store
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as browser:
        print((await browser.get("/anna")).text)
        for key, value in [("web.greeting", b"good morning"), ("web.shout", b"true"), ("web.shout", b"perhaps")]:
            await config.wait_for(await store.put(key, value))
            print(f"the operator writes {key} = {value.decode()}{' (rejected)' if config.rejected else ''}")
            print((await browser.get("/anna")).text)
    await config.aclose()
    await app.state.connection.delete_store(store.name)


async def main(url: str) -> None:
    app = application(url, f"fastapi-config-{secrets.token_hex(4)}")
    async with asyncio.timeout(20), app.router.lifespan_context(app):
        await play(app)


if __name__ == "__main__":
    logging.getLogger("slipstream").setLevel(logging.ERROR)  # what it would warn of is printed above
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
