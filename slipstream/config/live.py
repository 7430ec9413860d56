"""LiveConfig: a pydantic model that follows the store."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from pydantic import BaseModel

from slipstream.codecs.values import Codec
from slipstream.config.assemble import Rejected, assemble, is_prefix
from slipstream.config.restore import restore
from slipstream.config.revisions import ConfigRevision, RejectedRevision
from slipstream.errors import DeserializationError, KeyNotFoundError
from slipstream.follow import Change, Following, SnapshotFile, State
from slipstream.interfaces import KvStore
from slipstream.keys import check_key, check_prefix
from slipstream.model import KvEntry, Operation, VersionToken, WatchCursor

_log = logging.getLogger(__name__)

S = TypeVar("S", bound=BaseModel)
F = TypeVar("F", bound=Callable[[Any, Any], object])
OpenKvStore = Callable[[], Awaitable[KvStore]]


class LiveConfig(Generic[S]):
    """Settings as the store has them: `async with LiveConfig(store, "shop.", Settings) as config: config.current.vat`.

    Every change is validated as a whole before it is taken; what one commit changed is taken at once. `current` is
    always a valid model, replaced and never changed; where the store holds something invalid it stays the last that
    was valid, and `rejected` says what is wrong. Lost connections and buckets made again are survived as by a cache.

    `current` may be read from any thread. All else belongs to the event loop.
    """

    def __init__(
        self,
        store: KvStore | OpenKvStore,
        key_or_prefix: str,
        model: type[S],
        *,
        codec: Codec | None = None,
        default: S | None = None,
        snapshot: SnapshotFile | None = None,
        offline_after: float = 5.0,
        keep: int = 20,
        timeout: float = 30.0,
    ) -> None:
        """Settings that are read when it is entered.

        Args:
            store: a store, or an async function that opens one; the function makes a start without a server possible.
            key_or_prefix: a key that holds the whole model as an object; or a prefix, empty or ending in a dot, under
                which each field is a key: `shop.db.host` under `shop.` is `settings.db.host`. A value there is JSON,
                or text where it is no JSON or where the field wants text.
            model: a pydantic model. What is not in the store has its default there; without one it is required.
            codec: how values are written; None: as said above. See `slipstream.codecs`.
            default: in force as long as nothing valid has been read. None: entering fails instead.
            snapshot: a file that the stored values are saved to and started from while the store cannot be read, or
                not within `offline_after` seconds. Secrets are in it as they are in the store.
            keep: how many revisions `history` holds, >= 1.
            timeout: seconds, > 0, for the first read, and for waiting unless it is given another.
        Raises: InvalidKeyError; ValueError for `keep`.
        """
        if keep < 1:
            raise ValueError(f"keep is at least 1, not {keep}")
        (check_prefix if is_prefix(key_or_prefix) else check_key)(key_or_prefix)
        self._where = key_or_prefix
        self._model = model
        self._codec = codec
        self._timeout = timeout
        self._offline_after = offline_after
        self._given = store
        self._store: KvStore | None = None
        self._current = default
        self._version = VersionToken.unknown()
        self._history: deque[ConfigRevision[S]] = deque(maxlen=keep)
        self._rejected: RejectedRevision | None = None
        self._seen = False
        self._callbacks: list[tuple[tuple[str, ...], Callable[[Any, Any], object]]] = []
        self._on_rejected: list[Callable[[RejectedRevision], object]] = []
        self._state = State()
        self._following = Following(
            self._open, (key_or_prefix,), self._state, on_changes=self._on_changes, snapshot=snapshot
        )

    async def __aenter__(self) -> Self:
        """Read the settings.

        Raises: DeserializationError where they are not valid and there is no `default`; what reading the store raised,
            where there is no snapshot to start from; OperationTimeoutError.
        """
        await self._following.start(timeout=self._timeout, offline_after=self._offline_after)
        if not self._seen:
            self._take(VersionToken.unknown())  # nothing is stored: it is all defaults
        if self._current is None:
            await self.aclose()
            raise DeserializationError(key=self._where, message=f"there are no valid settings: {self._rejected}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Follow no longer, and save what is new. `current` stays readable. Safe to repeat."""
        await self._following.aclose()

    def __repr__(self) -> str:
        # No settings: they may be secret.
        state = "stale" if self.stale else "current"
        return f"<LiveConfig {self._where!r}: {self._model.__name__}, revision {self.revision}, {state}>"

    # What is in force.

    @property
    def current(self) -> S:
        """The last valid settings; never changed in place."""
        if self._current is None:
            raise RuntimeError("enter it first: async with LiveConfig(...) as config")
        return self._current

    @property
    def revision(self) -> int | None:
        """Of the write that completed `current`; None before any."""
        return self._version.as_u64()

    @property
    def rejected(self) -> RejectedRevision | None:
        """What the store holds now, if that is not valid; None while `current` is what it holds."""
        return self._rejected

    @property
    def history(self) -> tuple[ConfigRevision[S], ...]:
        """The valid settings that this object has seen, oldest first."""
        return tuple(self._history)

    @property
    def stale(self) -> bool:
        """The settings are from a snapshot, or the watch has ended and is being set up again."""
        return not self._following.current

    @property
    def staleness(self) -> float:
        """Seconds since the server was last heard from. Infinite before."""
        return self._following.staleness

    @property
    def cursor(self) -> WatchCursor:
        """Up to where every change was looked at."""
        return self._following.cursor

    @property
    def failure(self) -> BaseException | None:
        """What ended the following for good, None while it goes on."""
        return self._following.failure

    async def wait_for(self, version: VersionToken, *, timeout: float | None = None) -> None:
        """Return once that write was looked at: it is in `current`, or `rejected` says why not.

        Raises: OperationTimeoutError; ValueError for a version without a revision.
        """
        await self._following.wait_for(version, timeout=self._timeout if timeout is None else timeout)

    async def wait_current(self, *, timeout: float | None = None) -> None:
        """Return once it is not `stale`. Raises: OperationTimeoutError."""
        await self._following.wait_current(timeout=self._timeout if timeout is None else timeout)

    # Being told.

    @overload
    def on_change(self, field: str = ...) -> Callable[[F], F]: ...

    @overload
    def on_change(self, field: str, callback: Callable[[Any, Any], object]) -> Callable[[], None]: ...

    def on_change(self, field: str = "", callback: Callable[[Any, Any], object] | None = None) -> Any:
        """Call `callback(old, new)` whenever that field has another value than before.

        Called in the event loop after the swap, once per change of the whole: do not block. What it raises is logged
        and hurts nobody else.

        Args:
            field: a dotted path, `db.pool`; empty for the whole model.
            callback: None makes a decorator: `@config.on_change("db.pool")`.
        Returns: a function that ends it; the decorator returns the decorated function.
        Raises: ValueError for a field that the model does not have.
        """
        path = tuple(field.split(".")) if field else ()
        if path and path[0] not in self._model.model_fields:
            raise ValueError(
                f"{self._model.__name__} has no field {path[0]!r}, only {sorted(self._model.model_fields)}"
            )
        if callback is None:

            def decorate(decorated: F) -> F:
                self._callbacks.append((path, decorated))
                return decorated

            return decorate
        return _registered(self._callbacks, (path, callback))

    def on_rejected(self, callback: Callable[[RejectedRevision], object]) -> Callable[[], None]:
        """Call `callback(rejected)` for every revision that is not valid; as `on_change`. Returns: what ends it."""
        return _registered(self._on_rejected, callback)

    # Going back.

    async def rollback(self, revision: int) -> VersionToken:
        """Write the settings of an earlier revision again, as a new one; return once that is in force here.

        Under a prefix this is one transaction. Where somebody writes at the same time, nothing is written.

        Args:
            revision: one of `history`; of a single key also one that the bucket still holds (`max_history`).
        Returns: the version of the new revision; of the present one, where nothing had to be written.
        Raises: KeyNotFoundError for a revision that is not held any more; DeserializationError where its settings are
            no longer valid; ConflictError; UnsupportedError where the server has no transactions; what a write raises;
            OperationTimeoutError, also where it is written and does not arrive here in time.
        """
        store = self._store
        if store is None:
            raise RuntimeError("enter it first, and have it read the store once")
        stored = await self._stored_at(store, revision)
        version = await restore(store, self._entries(), stored, single=not is_prefix(self._where))
        if version is None:
            return self._version
        await self.wait_for(version)
        return version

    async def _stored_at(self, store: KvStore, revision: int) -> dict[str, bytes]:
        for known in self._history:
            if known.revision == revision:
                return dict(known.stored)
        if not is_prefix(self._where):
            update = await store.revision(self._where, VersionToken.from_u64(revision))
            if update is not None and update.operation is Operation.PUT:
                stored = {self._where: update.value}
                try:
                    assemble(self._model, stored, self._where, self._codec)
                except Rejected as error:
                    raise DeserializationError(
                        store=store.name, key=self._where, message=f"revision {revision} is not valid: {error}"
                    ) from None
                return stored
        raise KeyNotFoundError(
            store=store.name,
            key=self._where,
            message=f"revision {revision} is not held any more: history has {[one.revision for one in self._history]}",
        )

    # Following.

    async def _open(self) -> KvStore:
        self._store = await self._given() if callable(self._given) else self._given
        return self._store

    def _entries(self) -> dict[str, KvEntry]:
        if is_prefix(self._where):
            return dict(self._state.entries)
        entry = self._state.entries.get(self._where)
        return {} if entry is None else {self._where: entry}

    def _on_changes(self, changes: list[Change]) -> None:
        if not is_prefix(self._where):
            changes = [change for change in changes if change.key == self._where]  # "a" is a prefix of "ab", too
        if changes:
            written = [change.version for change in changes]
            # Where keys were only found missing, the newest that is left tells what this is a state of.
            written += [entry.version for entry in self._entries().values()]
            self._take(max(written, key=lambda version: version.as_u64() or 0))

    def _take(self, version: VersionToken) -> None:
        """Validate what is stored now, and swap or reject it."""
        self._seen = True
        stored = {key: entry.value for key, entry in self._entries().items()}
        received = datetime.now(UTC)
        try:
            new = assemble(self._model, stored, self._where, self._codec)
        except Rejected as error:
            rejected = RejectedRevision(revision=version.as_u64(), errors=error.errors, received=received)
            self._rejected = rejected
            _log.warning("the settings at %r stay as they are: %s", self._where, rejected)
            for told in tuple(self._on_rejected):
                self._call(told, rejected)
            return
        old, self._current = self._current, new
        self._version, self._rejected = version, None
        self._history.append(ConfigRevision(revision=version.as_u64(), settings=new, received=received, stored=stored))
        if old is None:
            return
        for path, callback in tuple(self._callbacks):
            before, after = _at(old, path), _at(new, path)
            if before != after:
                self._call(callback, before, after)

    def _call(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001 - the caller's code must not stop the following
            _log.exception("a callback of the settings at %r failed", self._where)


def _at(model: BaseModel, path: tuple[str, ...]) -> Any:
    """The value there; None where something on the way is None or missing."""
    value: Any = model
    for name in path:
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    return value


T = TypeVar("T")


def _registered(callbacks: list[T], callback: T) -> Callable[[], None]:
    callbacks.append(callback)

    def end() -> None:
        if callback in callbacks:
            callbacks.remove(callback)

    return end
