"""The connection to NATS: one nats-py client, one lane over it, and the stores opened on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from nats.aio.client import Client

from slipstream.checks import drift
from slipstream.errors import (
    NotConnectedError,
    UnsupportedError,
)
from slipstream.events import ConnectionEvents
from slipstream.interfaces import Connection, KvStore, Reads
from slipstream.keys import check_bucket
from slipstream.model import ConnectionCapabilities, ConnectionEvent, StoreConfig
from slipstream.stores.nats.abilities import abilities
from slipstream.stores.nats.admin import NatsAdmin
from slipstream.stores.nats.api import JetStreamApi, StreamInfo
from slipstream.stores.nats.bucket import LANE_FAILURES, Bucket, Pauses, deadline, largest_value, settle
from slipstream.stores.nats.cleanup import uninterrupted
from slipstream.stores.nats.config import NatsConnectionConfig
from slipstream.stores.nats.error_map import NOT_ENABLED_FOR_ACCOUNT, ApiError
from slipstream.stores.nats.features import MINIMUM, ServerFeatures
from slipstream.stores.nats.lane import Disconnected, NoResponders
from slipstream.stores.nats.provision import find_origin, open_bucket
from slipstream.stores.nats.session import Session
from slipstream.stores.nats.store import NatsStore
from slipstream.stores.nats.stream_config import NANOSECONDS, from_stream, retention
from slipstream.stores.nats.subjects import bucket_name, stream_name

T = TypeVar("T")
_log = logging.getLogger(__name__)
_CREATE_SECONDS = 5.0
"""How long nats-py may take to make a bucket before the same request, which may be repeated, is made raw."""
_FAREWELL_SECONDS = 0.5
"""How long `shutdown` lets the removal of consumers finish."""


class NatsConnection(Connection):
    """A connection to a NATS server or cluster; reconnects by itself until `shutdown`."""

    def __init__(self, config: NatsConnectionConfig | None = None) -> None:
        self._config = config if config is not None else NatsConnectionConfig()
        self._borrowed: Client | None = None
        self._session: Session | None = None
        self._opening: set[Session] = set()
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._events = ConnectionEvents()
        self._warned: set[tuple[str, str]] = set()

    @classmethod
    def from_client(cls, client: Client, *, op_timeout: float = 30.0, domain: str | None = None) -> NatsConnection:
        """A connection over a nats-py client that you connected. It is never closed, redialled or set up anew.

        It is as healthy as the client, and opened by its first use; `connect()` only tells early what is wrong.
        Its callbacks are its owner's: a disconnect is noticed within half a second, by looking, and `events()` tells
        neither of attempts to reconnect nor of a lame duck.
        """
        connection = cls(NatsConnectionConfig(op_timeout=op_timeout, domain=domain))
        connection._borrowed = client
        return connection

    async def connect(self) -> None:
        if self._closed:
            raise NotConnectedError(message="this connection was shut down: make a new one")
        if not self._wants_session():
            return
        # No lock: several tasks may dial at once, the first to finish wins. A lock would make shutdown() wait.
        ends_at = asyncio.get_running_loop().time() + self._config.op_timeout
        if self._borrowed is not None:
            opened = await Session.borrow(self._borrowed)
        else:
            opened = await Session.dial(self._config)
        superfluous: Session | None = opened
        self._opening.add(opened)
        try:
            if not self._closed:
                await self._learn_features(opened, ends_at)
            if self._wants_session():
                self._session, superfluous = opened, self._session
                opened.report_to(self._events.emit)
        finally:
            self._opening.discard(opened)
            if superfluous is not None:
                await uninterrupted(superfluous.aclose())
        self._open_session()  # raises if it was shut down meanwhile

    async def shutdown(self) -> None:
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="slipstream-shutdown")
        # Shielded: a cancelled shutdown goes on, and the next one waits for the same end.
        await asyncio.shield(self._closing)

    def is_healthy(self) -> bool:
        if self._session is None:
            return not self._closed and self._borrowed is not None and self._borrowed.is_connected
        return not self._closed and self._session.lane.is_connected

    def events(self) -> AsyncIterator[ConnectionEvent]:
        return self._events.subscribe()

    @property
    def capabilities(self) -> ConnectionCapabilities:
        session = self._open_session()
        features = session.features
        working = features is not None
        return ConnectionCapabilities(
            streaming_watch=working,
            prefix_watch=working,
            ttl=features is not None and features.markers,
            purge=working,
            cas=working,
            transactions=features is not None and features.atomic_batches,
            fencing=features is not None and features.guards_on_others,
            max_value_size=largest_value(session.lane),
        )

    async def store(self, config: str | StoreConfig, *, reads: Reads | None = None) -> KvStore:
        wanted = StoreConfig(name=config) if isinstance(config, str) else config
        if reads not in (None, "leader", "session", "any"):
            raise ValueError(f"reads is 'leader', 'session' or 'any', not {reads!r}")
        session = await self._ready_session()
        timeout = self._config.op_timeout

        async def attempt() -> Bucket:
            features = await self._features(session)
            info = await open_bucket(
                self._api(session),
                session.client,
                wanted,
                features,
                domain=self._config.domain,
                create_timeout=min(timeout / 3, _CREATE_SECONDS),
            )
            origin, written = await find_origin(self._api(session), info)
            return self._bucket(session, features, wanted, info, origin, written, reads)

        return NatsStore(await self._run(attempt, store=wanted.name))

    async def stores(self) -> list[str]:
        session = await self._ready_session()

        async def attempt() -> list[str]:
            await self._features(session)
            return await self._api(session).stream_names()

        names = await self._run(attempt, store=None)
        return sorted(name for stream in names if (name := bucket_name(stream)) is not None)

    async def delete_store(self, name: str) -> None:
        check_bucket(name)
        session = await self._ready_session()

        doubt = False

        async def attempt() -> None:
            nonlocal doubt
            await self._features(session)
            try:
                await self._api(session).delete_stream(stream_name(name))
            except Disconnected as error:
                doubt = doubt or error.sent
                raise
            except ApiError as error:
                if not (doubt and error.is_stream_missing):
                    raise
                # Gone: only the answer to the first request was lost.

        await self._run(attempt, store=name)

    def admin(self) -> NatsAdmin:
        """What an operator does beside reading and writing: change a bucket, look at the server and the account."""
        return NatsAdmin(self._ask, self._features)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    def __repr__(self) -> str:
        state = "shut down" if self._closed else "healthy" if self.is_healthy() else "not connected"
        return f"NatsConnection({self._config.safe_url if self._borrowed is None else 'borrowed client'}, {state})"

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run work that outlives the call which needed it; `shutdown` ends it."""
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # Inside.

    async def _close(self) -> None:
        try:
            await self._end()
        finally:
            self._events.close()

    async def _end(self) -> None:
        session = self._session
        if self._background and session is not None and session.lane.is_connected:
            await asyncio.wait(self._background, timeout=_FAREWELL_SECONDS)
        for opened in self._opening | ({session} if session is not None else set()):
            await opened.aclose()
        # There may be more by now: a scan that is cut off spawns the removal of its consumer.
        while self._background:
            for task in self._background:
                task.cancel()
            await asyncio.wait(self._background)

    def _wants_session(self) -> bool:
        """There is none, or its client closed by itself; and it may still be opened."""
        return not self._closed and (self._session is None or self._session.is_closed)

    async def _ready_session(self) -> Session:
        """The session. Whoever hands in a client is connected already: it is opened by its first use."""
        if self._borrowed is not None and self._session is None and not self._closed:
            await self.connect()
        return self._open_session()

    def _open_session(self) -> Session:
        if self._closed:
            raise NotConnectedError(message="the connection was shut down")
        if self._session is None:
            raise NotConnectedError(message="not connected yet: await connect(), or use `async with`")
        return self._session

    def _api(self, session: Session, *, clustered: bool = True) -> JetStreamApi:
        return JetStreamApi(session.lane, domain=self._config.domain, clustered=clustered)

    async def _learn_features(self, session: Session, ends_at: float) -> None:
        """Ask what the server can do. A server without JetStream is connected to, but opens no store."""
        try:
            async with asyncio.timeout_at(ends_at):
                await self._features(session)
        except (TimeoutError, UnsupportedError, ApiError, *LANE_FAILURES) as error:
            _log.debug("JetStream does not answer on %s: %s", self._config.safe_url, error)

    async def _features(self, session: Session) -> ServerFeatures:
        if session.features is None or session.outdated:
            try:
                session.features = await self._ask_features(session)
            except UnsupportedError:
                session.features = None
                raise
            session.outdated = False
        return session.features

    async def _ask_features(self, session: Session) -> ServerFeatures:
        try:
            level = await self._api(session).api_level()
        except NoResponders:
            raise UnsupportedError(message=f"{self._where(session)} has no JetStream: start it with -js") from None
        except ApiError as error:
            if error.err_code == NOT_ENABLED_FOR_ACCOUNT:
                raise UnsupportedError(
                    message=f"JetStream is not enabled for this account on {self._where(session)}"
                ) from None
            raise
        version = session.server_version
        if version < MINIMUM:
            raise UnsupportedError(message=f"nats-server {'.'.join(map(str, version))} is older than 2.10")
        return ServerFeatures(version=version, api_level=level)

    def _where(self, session: Session) -> str:
        return f"nats-server {'.'.join(map(str, session.server_version))} at {session.where}"

    async def _ask(self, work: Callable[[Session, JetStreamApi], Awaitable[T]], *, store: str | None = None) -> T:
        session = await self._ready_session()
        answer: T = await self._run(lambda: work(session, self._api(session)), store=store)
        return answer

    async def _run(self, attempt: Any, *, store: str | None) -> Any:
        """An attempt at something that may be repeated, within `op_timeout`, while nobody answers."""
        session = self._open_session()
        async with deadline(self._config.op_timeout, store=store):
            pauses = Pauses()
            while True:
                try:
                    return await attempt()
                except Disconnected:
                    try:
                        await session.lane.wait_connected()
                    except LANE_FAILURES as error:
                        raise settle(error, store=store, key=None) from None
                except NoResponders:
                    await pauses.pause()
                except ApiError as error:
                    if not error.is_temporary:
                        raise settle(error, store=store, key=None) from None
                    await pauses.pause()
                except LANE_FAILURES as error:
                    raise settle(error, store=store, key=None) from None

    def _bucket(
        self,
        session: Session,
        features: ServerFeatures,
        wanted: StoreConfig,
        info: StreamInfo,
        origin: str,
        written: Mapping[str, Any],
        reads: Reads | None,
    ) -> Bucket:
        actual = from_stream(info.config)
        differences = drift(wanted, actual)
        for difference in differences:
            if (wanted.name, repr(difference)) not in self._warned:
                self._warned.add((wanted.name, repr(difference)))
                _log.warning(
                    "bucket %s exists with %s=%r, not %r: it is used as it is",
                    wanted.name,
                    difference.field,
                    difference.actual,
                    difference.wanted,
                )
        window = written.get("duplicate_window", 0) / NANOSECONDS
        api = self._api(session, clustered=info.clustered)
        copies = int(written.get("num_replicas", 1))
        return Bucket(
            name=wanted.name,
            origin=origin,
            stream=stream_name(wanted.name),
            api=api,
            clustered=info.clustered,
            leadership=session.quorum.leadership(api, stream_name(origin)) if copies > 1 else None,
            background=self,
            op_timeout=self._config.op_timeout,
            heartbeat=self._config.heartbeat,
            reads=reads or ("leader" if info.replicas > 1 else "any"),
            direct=bool(info.config.get("allow_direct") or info.config.get("mirror_direct")),
            max_value_size=from_stream(written).max_value_size,
            retention=retention(info.config),
            abilities=abilities(features, written),
            resend_seconds=window if self._config.retry_writes else 0.0,
            drift=differences,
            batched_gets=session.features is not None and session.features.batched_gets,
            application=self._config.name,
        )
