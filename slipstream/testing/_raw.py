"""A server as somebody else's client sees it, and what a connection holds: for tests of what is left behind."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import Client

from slipstream.stores.nats import NatsConnection
from slipstream.testing._waiting import eventually

_ANSWER_SECONDS = 5.0
_NO_MESSAGE_FOUND = 10037
_TOGETHER = 64


class Raw:
    """nats-py and the JetStream API, nothing of slipstream."""

    def __init__(self, client: Client, *, api: str = "$JS.API") -> None:
        self.client = client
        self._api = api

    async def api(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer to one API request, which may be an error."""
        payload = b"" if body is None else json.dumps(body).encode()
        message = await self.client.request(f"{self._api}.{name}", payload, timeout=_ANSWER_SECONDS)
        answer: dict[str, Any] = json.loads(message.data)
        return answer

    async def consumers(self, bucket: str) -> list[str]:
        """The names of all consumers of the bucket."""
        answer = await self.api(f"CONSUMER.NAMES.KV_{bucket}")
        names: list[str] = answer["consumers"] or []
        assert answer["total"] == len(names), "more than one page"
        return names

    async def no_consumers(self, bucket: str) -> None:
        """Return once the bucket has no consumer."""

        async def gone() -> bool:
            return not await self.consumers(bucket)

        await eventually(gone)

    async def state(self, bucket: str) -> dict[str, Any]:
        """`first_seq`, `last_seq`, `messages`, ... of the stream."""
        state: dict[str, Any] = (await self.api(f"STREAM.INFO.KV_{bucket}"))["state"]
        return state

    async def last(self, bucket: str, key: str) -> tuple[int, bytes] | None:
        """Revision and value of the last record of the key, empty for a marker; None for no record."""
        answer = await self.api(f"STREAM.MSG.GET.KV_{bucket}", {"last_by_subj": f"$KV.{bucket}.{key}"})
        if "error" in answer:
            assert answer["error"]["err_code"] == _NO_MESSAGE_FOUND, answer
            return None
        return int(answer["message"]["seq"]), base64.b64decode(answer["message"].get("data") or "")

    async def stream(self, bucket: str) -> dict[int, tuple[str, bytes]]:
        """Key and value of every message that the stream holds, by revision."""
        state = await self.state(bucket)
        numbers = range(state["first_seq"], state["last_seq"] + 1)
        found: dict[int, tuple[str, bytes]] = {}
        for start in range(0, len(numbers), _TOGETHER):
            asked = numbers[start : start + _TOGETHER]
            requests = (self.api(f"STREAM.MSG.GET.KV_{bucket}", {"seq": number}) for number in asked)
            for number, answer in zip(asked, await asyncio.gather(*requests), strict=True):
                if "error" in answer:
                    assert answer["error"]["err_code"] == _NO_MESSAGE_FOUND, answer
                    continue
                message = answer["message"]
                key = message["subject"].removeprefix(f"$KV.{bucket}.")
                found[number] = key, base64.b64decode(message.get("data") or "")
        return found

    async def contents(self, bucket: str) -> dict[str, tuple[int, bytes]]:
        """Revision and value of the last record of every key, as `last`; for a bucket that nobody writes to."""
        answer = await self.api(f"STREAM.INFO.KV_{bucket}", {"subjects_filter": ">"})
        assert answer.get("total", 0) <= answer.get("limit", 0), "more than one page"
        keys = [subject.removeprefix(f"$KV.{bucket}.") for subject in answer["state"].get("subjects") or {}]
        records = {key: await self.last(bucket, key) for key in keys}
        return {key: record for key, record in records.items() if record is not None}


@asynccontextmanager
async def raw_client(url: str, *, api: str = "$JS.API") -> AsyncIterator[Raw]:
    """A client that reconnects for ever, closed at the end."""
    client = await nats.connect(url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.05)
    try:
        raw = Raw(client, api=api)
        await raw.api("INFO")  # the first request starts a task that stays
        yield raw
    finally:
        await client.close()


class Holdings:
    """What this process holds for a connection at the moment: tasks and subscriptions."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._tasks = asyncio.all_tasks()
        self._subscriptions = self._subscribed()

    async def no_more(self) -> None:
        """Return once it holds no more than then."""

        async def reached() -> bool:
            new = asyncio.all_tasks() - self._tasks - {asyncio.current_task()}
            return not new and self._subscribed() <= self._subscriptions

        await eventually(reached)

    def _subscribed(self) -> int:
        session = self._connection._session
        assert session is not None
        return len(session.client._subs)
