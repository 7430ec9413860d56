"""KvCache: the keys under a prefix as a mapping."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Generic, Self, TypeVar, cast, overload

from slipstream.cache.index import Index
from slipstream.errors import DeserializationError
from slipstream.follow import Change, Following, OpenStore, SnapshotFile, State
from slipstream.interfaces import KvWatcher
from slipstream.keys import check_prefix
from slipstream.model import KvEntry, VersionToken, WatchCursor

_log = logging.getLogger(__name__)

V = TypeVar("V")
T = TypeVar("T", bound=Hashable)
OnChange = Callable[[str, V | None, V | None], object]
"""Called with the key, its old and its new value; None where it is absent."""


class KvCache(Mapping[str, V], Generic[V]):
    """The values under one or more prefixes, in memory: `async with KvCache(store, "user.") as cache: cache.get(key)`.

    It is handed out when it holds the whole current state, and follows every change from then on. What one commit
    changed is seen all at once. A lost connection, an expired cursor and a bucket made again are survived: the values
    stay as they are meanwhile, and `staleness` says since when nobody has confirmed them. What vanished unseen is
    removed then, with callbacks as for any other removal.

    Reads never wait and never fail; they may be done from other threads. All else belongs to the event loop.
    """

    @overload
    def __init__(
        self: KvCache[bytes],
        store: KvWatcher | OpenStore,
        prefix: str | Iterable[str] = ...,
        *,
        decode: None = ...,
        snapshot: SnapshotFile | None = ...,
        offline_after: float = ...,
        max_bytes: int | None = ...,
        timeout: float = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        store: KvWatcher | OpenStore,
        prefix: str | Iterable[str] = ...,
        *,
        decode: Callable[[KvEntry], V],
        snapshot: SnapshotFile | None = ...,
        offline_after: float = ...,
        max_bytes: int | None = ...,
        timeout: float = ...,
    ) -> None: ...

    def __init__(
        self,
        store: KvWatcher | OpenStore,
        prefix: str | Iterable[str] = "",
        *,
        decode: Callable[[KvEntry], Any] | None = None,
        snapshot: SnapshotFile | None = None,
        offline_after: float = 5.0,
        max_bytes: int | None = None,
        timeout: float = 30.0,
    ) -> None:
        """A cache that is filled when it is entered.

        Args:
            store: a store, or an async function that opens one; the function makes a start without a server possible,
                since opening a store needs one.
            prefix: one prefix or several, `""` is every key.
            decode: makes the value that is handed out of an entry, once per change. A value that it fails on is left
                out, logged, and listed in `undecodable`. None: the bytes as stored.
            snapshot: a file that the state is saved to (every minute, and at the end) and started from. Where the
                store cannot be read at once, or not within `offline_after` seconds, the cache is handed out `stale`.
            max_bytes: bound on what is kept: keys, values as stored, and 400 bytes an entry. Beyond it the cache ends
                with StoreFullError instead of dropping values: an incomplete cache would call keys absent that are
                there.
            timeout: seconds, > 0, for the initial state, and for `wait_for` unless it is given another.
        Raises: InvalidKeyError; ValueError for no prefix at all.
        """
        prefixes = (prefix,) if isinstance(prefix, str) else tuple(prefix)
        if not prefixes:
            raise ValueError('no prefix to follow: "" is every key')
        for one in prefixes:
            check_prefix(one)
        self._prefixes = prefixes
        self._decode = decode
        self._offline_after = offline_after
        self._timeout = timeout
        self._values: dict[str, V] = {}
        self._undecodable: dict[str, DeserializationError] = {}
        self._callbacks: list[OnChange[V]] = []
        self._indexes: list[Index[V, Any]] = []
        self._state = State(max_bytes=max_bytes)
        self._following = Following(
            store if callable(store) else _opened(store),
            prefixes,
            self._state,
            on_changes=self._on_changes,
            snapshot=snapshot,
        )
        # The dict's own method on the instance: a method of this class around it would cost as much again.
        self.get = self._values.get  # type: ignore[method-assign]

    async def __aenter__(self) -> Self:
        """Fill the cache.

        Raises: what reading the store raised, where there is no snapshot to start from; OperationTimeoutError;
            StoreFullError. Cancelled, it has ended and left nothing behind.
        """
        await self._following.start(timeout=self._timeout, offline_after=self._offline_after)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Follow no longer, and save what is new. The values stay readable. Safe to repeat."""
        await self._following.aclose()

    # Reading.

    def __getitem__(self, key: str) -> V:
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        state = "stale" if self.stale else "current"
        # No values: they may be secret.
        return f"<KvCache {', '.join(map(repr, self._prefixes))}: {len(self)} keys, {state}>"

    def entry(self, key: str) -> KvEntry | None:
        """The entry as stored, for its version; None where the key is absent. Also of a value that was not decoded."""
        return self._state.entries.get(key)

    @property
    def undecodable(self) -> Mapping[str, DeserializationError]:
        """The keys that are in the store with a value that `decode` failed on; they are absent here."""
        return MappingProxyType(self._undecodable)

    # How current it is.

    @property
    def stale(self) -> bool:
        """The state is from a snapshot, or the watch has ended and is being set up again."""
        return not self._following.current

    @property
    def staleness(self) -> float:
        """Seconds since the server was last heard from: the values are at least as new as that. Infinite before."""
        return self._following.staleness

    @property
    def cursor(self) -> WatchCursor:
        """Up to where every change is in the cache."""
        return self._following.cursor

    @property
    def failure(self) -> BaseException | None:
        """What ended the cache for good, None while it follows."""
        return self._following.failure

    @property
    def bytes(self) -> int:
        """What `max_bytes` bounds."""
        return self._state.bytes

    async def wait_for(self, version: VersionToken, *, timeout: float | None = None) -> None:
        """Return once the cache is at least as new as this write: read your own writes.

        A write of another prefix counts too, but arrives only with the server's next sign of life (two seconds).
        Revisions begin anew where a bucket is made again: wait for those of the bucket that is there now.

        Args:
            timeout: seconds, > 0; None: the cache's own.
        Raises: OperationTimeoutError; StoreFullError and whatever else ended the cache; ValueError for a version
            without a revision.
        """
        await self._following.wait_for(version, timeout=self._timeout if timeout is None else timeout)

    async def wait_current(self, *, timeout: float | None = None) -> None:
        """Return once it is not `stale`. Raises: OperationTimeoutError; what ended the cache."""
        await self._following.wait_current(timeout=self._timeout if timeout is None else timeout)

    # Being told.

    def on_change(self, callback: OnChange[V]) -> Callable[[], None]:
        """Call `callback(key, old, new)` for every change from now on; None stands for absent.

        Changes come in revision order, after all that changed with them is in the cache; what vanished unseen comes
        first. Called in the event loop: do not block. What it raises is logged and hurts nobody else.

        Returns: a function that ends it.
        """
        self._callbacks.append(callback)

        def end() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return end

    def index(self, terms_of: Callable[[str, V], Iterable[T]]) -> Index[V, T]:
        """Keys by what a function finds in their values: `by_city = cache.index(lambda key, user: [user.city])`.

        Changes with the cache, before callbacks are called. Where the function raises later on, the key is under no
        term and the error is logged.

        Raises: what the function raises for a value that is there now.
        """
        index: Index[V, T] = Index(terms_of)
        for key, value in self._values.items():
            index._set(key, value)
        self._indexes.append(index)
        return index

    def _on_changes(self, changes: list[Change]) -> None:
        values = self._values
        told = []
        for change in changes:
            key, old = change.key, values.get(change.key)
            self._undecodable.pop(key, None)
            new = self._decoded(change.new)
            if new is None:
                values.pop(key, None)
            else:
                values[key] = new
            for index in self._indexes:
                self._update(index, key, new)
            if old is not None or new is not None:
                told.append((key, old, new))
        for callback in tuple(self._callbacks) if told else ():
            for key, old, new in told:
                try:
                    callback(key, old, new)
                except Exception:  # noqa: BLE001 - the caller's code must not stop the cache
                    _log.exception("a callback failed on the change of %r", key)

    def _decoded(self, entry: KvEntry | None) -> V | None:
        if entry is None:
            return None
        if self._decode is None:
            return cast("V", entry.value)  # V is bytes, by the overloads of the constructor
        try:
            value: V = self._decode(entry)
        except Exception as error:  # noqa: BLE001 - whatever the caller's function raises
            # The type alone of an error that is not ours: its text may show the value.
            failed = (
                error
                if isinstance(error, DeserializationError)
                else DeserializationError(
                    key=entry.key, message=f"revision {entry.version} cannot be decoded: {type(error).__name__}"
                )
            )
            self._undecodable[entry.key] = failed
            _log.warning("left out of the cache: %s", failed)
            return None
        return value

    def _update(self, index: Index[V, Any], key: str, value: V | None) -> None:
        try:
            if value is None:
                index._remove(key)
            else:
                index._set(key, value)
        except Exception:  # noqa: BLE001 - as callbacks
            _log.exception("the function of an index failed on %r", key)


def _opened(store: KvWatcher) -> OpenStore:
    async def opened() -> KvWatcher:
        return store

    return opened
