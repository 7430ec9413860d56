"""What an operator asks of a server beside keys and values: is the bucket there, change it, who am I, how is it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from slipstream.checks import drift
from slipstream.errors import StoreNotFoundError, UnsupportedError
from slipstream.keys import check_bucket
from slipstream.model import Drift, StoreConfig, parse_time
from slipstream.stores.nats.abilities import Abilities, abilities
from slipstream.stores.nats.api import JetStreamApi, StreamInfo
from slipstream.stores.nats.error_map import parse_api_error
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.provision import find_bucket
from slipstream.stores.nats.session import Session
from slipstream.stores.nats.stream_config import from_stream
from slipstream.stores.nats.stream_update import updated_stream
from slipstream.stores.nats.subjects import stream_name, subject_prefix
from slipstream.stores.nats.watchers import Watcher, read_watchers

T = TypeVar("T")
_EXPECTED_STREAM_DIFFERS = 10060


class Ask(Protocol):
    """Runs what may be repeated, within the connection's `op_timeout`."""

    def __call__(
        self, work: Callable[[Session, JetStreamApi], Awaitable[T]], *, store: str | None = None
    ) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport:
    """The server at the other end of the connection, as it greeted. Its address carries no secret."""

    version: tuple[int, int, int]
    address: str
    jetstream: bool
    max_payload: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this connection is to the server.

    Attributes:
        clock_offset: how far the server's clock is ahead of the one here.
        uncertainty: how far the true offset may lie from that: half of the way there and back.
    """

    user: str
    account: str
    clock_offset: timedelta | None
    uncertainty: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountReport:
    """What the account uses of JetStream; a limit of None is none."""

    api_level: int
    storage_used: int
    storage_limit: int | None
    memory_used: int
    memory_limit: int | None
    streams: int
    streams_limit: int | None


class NatsAdmin:
    """Made by `NatsConnection.admin`.

    Raises from every awaited method: NotConnectedError, OperationTimeoutError, PermissionDeniedError,
    UnsupportedError for a server without JetStream.
    """

    def __init__(self, ask: Ask, features: Callable[[Session], Awaitable[ServerFeatures]]) -> None:
        self._ask = ask
        self._features = features

    async def exists(self, name: str) -> bool:
        """There is such a bucket. Raises: InvalidKeyError for an illegal name."""
        check_bucket(name)

        async def work(session: Session, api: JetStreamApi) -> bool:
            await self._features(session)
            return await find_bucket(api, name) is not None

        return await self._ask(work, store=name)

    async def drift(self, config: StoreConfig) -> list[Drift]:
        """Where the bucket differs from what was asked for in so many words. Raises: StoreNotFoundError."""

        async def work(session: Session, api: JetStreamApi) -> list[Drift]:
            await self._features(session)
            return drift(config, from_stream((await _existing(api, config.name)).config))

        return await self._ask(work, store=config.name)

    async def update_store(self, config: StoreConfig) -> list[Drift]:
        """Change the bucket to what was asked for, as far as a bucket can be changed; what is still different.

        A lower limit drops what exceeds it. Timed out or cancelled, it may have been changed or not.

        Raises: StoreNotFoundError; UnsupportedError for a field that the server does not have; OperationFailedError
            when it refuses.
        """

        async def work(session: Session, api: JetStreamApi) -> list[Drift]:
            features = await self._features(session)
            found = await _existing(api, config.name)
            body = updated_stream(found.config, config, features)
            if body != dict(found.config):
                if body.get("num_replicas") != found.config.get("num_replicas"):
                    await _check_clustered(api, config)
                await api.call(f"STREAM.UPDATE.{stream_name(config.name)}", body)
                found = await _existing(api, config.name)
            return drift(config, from_stream(found.config))

        return await self._ask(work, store=config.name)

    async def abilities(self, name: str) -> Abilities:
        """What this bucket can do on this server, and why not. Raises: StoreNotFoundError."""

        async def work(session: Session, api: JetStreamApi) -> Abilities:
            features = await self._features(session)
            return abilities(features, (await _existing(api, name)).config)

        return await self._ask(work, store=name)

    async def watchers(self, name: str) -> list[Watcher]:
        """The watches, scans and listings that slipstream has under way on the bucket, the one most behind first.

        Of the first thousand consumers. Raises: StoreNotFoundError.
        """

        async def work(_: Session, api: JetStreamApi) -> list[Watcher]:
            return await read_watchers(api, name)

        return await self._ask(work, store=name)

    async def check_write(self, name: str, key: str) -> None:
        """Return if these credentials may write the key. Nothing is stored: the write names a stream that is not it.

        Raises: PermissionDeniedError.
        """

        async def work(session: Session, api: JetStreamApi) -> None:
            headers = {"Nats-Expected-Stream": "-"}  # no name of a stream
            message = await api.lane.request(f"{subject_prefix(name)}{key}", headers=headers)
            error = parse_api_error(json.loads(message.data))
            if error is not None and error.err_code != _EXPECTED_STREAM_DIFFERS:
                raise error

        await self._ask(work, store=name)

    async def server(self) -> ServerReport:
        """The server as it greeted when the connection was made; nothing is sent."""

        async def work(session: Session, api: JetStreamApi) -> ServerReport:
            await asyncio.sleep(0)
            return ServerReport(
                version=session.server_version,
                address=session.where,
                jetstream=session.features is not None,
                max_payload=api.lane.max_payload,
            )

        return await self._ask(work)

    async def round_trip(self) -> float:
        """Seconds from a ping to its pong. It needs no permission."""

        async def work(session: Session, _: JetStreamApi) -> float:
            began = time.perf_counter()
            await session.client.flush()
            return time.perf_counter() - began

        return await self._ask(work)

    async def identity(self) -> Identity:
        """Who the server takes this connection for, and what time it is there."""

        async def work(_: Session, api: JetStreamApi) -> Identity:
            asked = datetime.now(UTC)
            answer = json.loads((await api.lane.request("$SYS.REQ.USER.INFO")).data)
            heard = datetime.now(UTC)
            data, server = answer.get("data") or {}, answer.get("server") or {}
            there = parse_time(str(server.get("time", "")))
            half = (heard - asked) / 2
            return Identity(
                user=str(data.get("user") or ""),
                account=str(data.get("account_name") or data.get("account") or ""),
                clock_offset=None if there is None else there - (asked + half),
                uncertainty=half,
            )

        return await self._ask(work)

    async def account(self) -> AccountReport:
        """What the account may use of JetStream, and uses."""

        async def work(session: Session, api: JetStreamApi) -> AccountReport:
            await self._features(session)
            answer = await api.call("INFO")
            limits = answer.get("limits") or {}
            return AccountReport(
                api_level=int((answer.get("api") or {}).get("level", 0)),
                storage_used=int(answer.get("storage", 0)),
                storage_limit=_limit(limits.get("max_storage")),
                memory_used=int(answer.get("memory", 0)),
                memory_limit=_limit(limits.get("max_memory")),
                streams=int(answer.get("streams", 0)),
                streams_limit=_limit(limits.get("max_streams")),
            )

        return await self._ask(work)


async def _existing(api: JetStreamApi, name: str) -> StreamInfo:
    found = await find_bucket(api, name)
    if found is None:
        raise StoreNotFoundError(store=name)
    return found


async def _check_clustered(api: JetStreamApi, config: StoreConfig) -> None:
    # Servers before 2.14 take any number in an update, though they are alone (2.10.26, 2.11.11, 2.12.8).
    if config.num_replicas > 1:
        answer = await api.call(f"STREAM.INFO.{stream_name(config.name)}")
        if not (answer.get("cluster") or {}).get("name"):
            raise UnsupportedError(store=config.name, message="num_replicas above 1 needs a cluster")


def _limit(number: Any) -> int | None:
    return number if isinstance(number, int) and number >= 0 else None
