"""L1: the roles that every backend plays. Every member is abstract, so that none can be half-implemented.

What the methods mean, on every backend alike, stands here; `slipstream.testing.contract` holds the backends to it.
Each awaited method is bounded by the connection's `op_timeout` and then raises `OperationTimeoutError`. Cancelling one
leaves nothing behind; a write that was cancelled or timed out after it was sent may or may not have been stored.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar

from slipstream.model import (
    ConnectionCapabilities,
    ConnectionEvent,
    KvEntry,
    KvUpdate,
    StoreConfig,
    StoreStatus,
    VersionToken,
    WatchCursor,
    WatchStatistics,
)

T = TypeVar("T")
Reads = Literal["leader", "session", "any"]
"""How fresh a read is: as any acknowledged write, as this handle's own writes, or whatever answers first."""
Ttl = float | timedelta
"""Seconds or a `timedelta`, at least one second; a fraction of a second is rounded up."""


class Watch(Protocol):
    """Changes of the matching keys, in revision order: `async with store.watch(...) as watch: async for update in ...`.

    Without a cursor the current value of every matching key comes first, then what changes, with no gap between the
    two. With one, only what came after it. Reconnects and restarts of the server are resumed inside.

    Entering raises: CursorExpiredError, StoreNotFoundError, UnsupportedError, OperationTimeoutError,
    NotConnectedError. Iterating raises, after everything received has been handed out: CursorExpiredError (what was
    missed is gone, or the bucket was made again), StoreNotFoundError (deleted), NotConnectedError (shut down).
    Cancelling `__anext__` loses no update: the next call returns it.
    """

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[KvUpdate]: ...

    @abstractmethod
    async def __anext__(self) -> KvUpdate: ...

    @abstractmethod
    def batches(self, max_items: int = 1000, max_wait: float = 0.01) -> AsyncIterator[list[KvUpdate]]:
        """The same updates in lists of 1 to `max_items`, each closed `max_wait` seconds after its first update.

        The updates of one atomic commit are never split over two lists; such a list may exceed `max_items`.
        """

    @property
    @abstractmethod
    def cursor(self) -> WatchCursor:
        """The position after the last update handed out; it moves on while the prefix is quiet, too.

        Before the first update it is the cursor that was passed in. Save it only after the update has been applied.
        """

    @property
    @abstractmethod
    def hydrated(self) -> bool:
        """The initial state (with a cursor: the backlog) has been handed out; proven, never taken from silence."""

    @abstractmethod
    async def wait_hydrated(self) -> None:
        """Return once `hydrated`; raise what ended the watch if it ended before.

        Updates are handed out by iterating only: where there are any, another task must iterate meanwhile.
        """

    @abstractmethod
    def statistics(self) -> WatchStatistics:
        """How the watch is doing now; no I/O."""

    @abstractmethod
    async def aclose(self) -> None:
        """End the watch and free what it holds, here and on the server; safe to repeat."""


class Transaction(Protocol):
    """Operations that the server stores all or none of: `async with store.transaction() as txn`.

    Queued and checked locally; committed when the block ends, dropped when it raises. A key is written once, 1000
    operations at most: else ValueError where the operation is queued. What is required or read without being written
    counts only where it outnumbers the writes that have no condition of their own.

    Leaving the block raises: RevisionMismatchError or AlreadyExistsError about the first key, in the order in which
    they were named, whose condition does not hold, then about prefixes; FencedError; StoreFullError;
    OperationTimeoutError and NotConnectedError (see `outcome_unknown`). Then nothing is stored, unless the outcome is
    unknown.
    """

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @abstractmethod
    def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> None:
        """Write whatever the key holds."""

    @abstractmethod
    def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> None:
        """Write only if the key is absent."""

    @abstractmethod
    def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> None:
        """Write only if the last revision of the key is `expected`."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Leave a tombstone."""

    @abstractmethod
    def purge(self, key: str) -> None:
        """Leave a tombstone and drop the key's history."""

    @abstractmethod
    async def get(self, key: str) -> KvEntry | None:
        """The current entry, tracked: the commit fails if the key changes before it. Sees its own queued value."""

    @abstractmethod
    def require(self, key: str, version: VersionToken | None) -> None:
        """Commit only if the key is at `version`; None: only if it is absent."""

    @abstractmethod
    def require_unchanged(self, prefix: str, version: VersionToken) -> None:
        """Commit only if nothing under the prefix, tombstones included, is newer than `version`."""

    @property
    @abstractmethod
    def versions(self) -> dict[str, VersionToken]:
        """After the commit: the version of every key written."""


class KvReader(Protocol):
    """Reading. An empty value, a tombstone and an expired value all read as absent."""

    @abstractmethod
    async def get(self, key: str, *, min_version: VersionToken | None = None) -> KvEntry | None:
        """The current entry, or None if the key is absent.

        Args:
            min_version: do not answer from before this write of the bucket; waits for it.
        Raises: InvalidKeyError; OperationTimeoutError, also when `min_version` never arrives; StoreNotFoundError.
        """

    @abstractmethod
    async def entry(self, key: str) -> KvEntry | None:
        """The raw record for compare-and-swap: as `get`, but an empty value is returned too; None on a tombstone."""

    @abstractmethod
    async def get_many(self, keys: Iterable[str]) -> dict[str, KvEntry]:
        """The current entries of those keys that are not absent, in the order asked for. Not one snapshot in time.

        Raises: InvalidKeyError before anything is sent.
        """

    @abstractmethod
    async def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, sorted. Completeness as `scan`."""

    @abstractmethod
    async def scan(self, prefix: str = "") -> list[KvEntry]:
        """The entries whose key begins with `prefix`, sorted by key.

        Every key that lives throughout the scan is in it, once, with a value that was current during it, also under
        concurrent writes. It is no snapshot: two keys may be from different moments.
        """

    @abstractmethod
    def iter_scan(self, prefix: str = "") -> AsyncIterator[KvEntry]:
        """As `scan`, in revision order and with bounded memory; a key may come again with a newer value.

        `op_timeout` bounds each step, not the whole. Close the iterator (`aclose`) if it is left early.
        """

    @abstractmethod
    async def history(self, key: str) -> list[KvUpdate]:
        """What the bucket still holds of the key, tombstones included, oldest first; empty if nothing."""

    @abstractmethod
    async def revision(self, key: str, version: VersionToken) -> KvUpdate | None:
        """That write of the key, or None if it is not held (any more) or was another key's."""


class KvWriter(Protocol):
    """Writing. A write ends done, refused (an error; nothing was written) or unknown (`error.outcome_unknown`).

    Raises, all of them: InvalidKeyError and ValueTooLargeError before anything is sent; StoreFullError,
    StoreNotFoundError, PermissionDeniedError (refused); OperationTimeoutError, NotConnectedError (see
    `outcome_unknown`); UnsupportedError for a `ttl` that this server or bucket cannot keep; ValueError for one under a
    second.

    A key whose `ttl` has ended reads as absent and is watched as a PURGE with `expired`. When that is, the server's
    clock decides, never the caller's; where servers take turns as leader of a bucket, theirs have to agree.
    """

    @abstractmethod
    async def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        """Write whatever the key holds. An empty value is a tombstone."""

    @abstractmethod
    async def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> VersionToken:
        """Write only if the key is absent, whatever made it so. Raises: AlreadyExistsError."""

    @abstractmethod
    async def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> VersionToken:
        """Write only if the last revision of the key is `expected`.

        Raises: RevisionMismatchError, also when the key is gone; OperationFailedError for a token that is no revision.
        """

    @abstractmethod
    async def touch(self, key: str, expected: VersionToken, *, ttl: Ttl) -> VersionToken:
        """Write the value again with a new ttl, only if the last revision is `expected` and the key is not absent.

        Raises as `update`; ValueError for a ttl of None.
        """

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Leave a tombstone, whether or not the key was there. Always True."""

    @abstractmethod
    async def delete_with_version(self, key: str, expected: VersionToken) -> bool:
        """Write an empty value as tombstone, only if the last revision is `expected`. True; raises as `update`."""

    @abstractmethod
    async def purge(self, key: str, *, expected: VersionToken | None = None) -> None:
        """Leave a tombstone and drop the key's history; with `expected`, only if that is its last revision."""

    @abstractmethod
    async def purge_deletes(self, older_than: Ttl = 0) -> int:
        """Remove the tombstones older than so many seconds; the number of keys removed.

        Nobody is told: a follower that was away while a tombstone was written and removed keeps the key. Choose
        `older_than` longer than any follower's absence. A key written meanwhile is kept.
        """

    @abstractmethod
    async def put_many(self, items: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> list[VersionToken]:
        """Write all items, pipelined; their versions in the order of the items. Not atomic.

        Raises: InvalidKeyError or ValueTooLargeError before anything is sent; BulkWriteError.
        """

    @abstractmethod
    def transaction(self) -> Transaction:
        """Operations that are stored all or not at all. Raises: UnsupportedError at once where it cannot be."""

    @abstractmethod
    async def atomically(self, fn: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `fn(txn)` and commit, again from the start on a conflict; returns what `fn` returned.

        What `fn` reads by `txn.get` is as of one moment, in the attempt that is committed. Attempts are begun with
        growing random pauses, up to 100 within half of the timeout. What `fn` raises is not retried.

        Raises: UnsupportedError; the last conflict when the attempts or the time run out; what `fn` raises.
        """

    @abstractmethod
    def fenced(self, key: str, version: VersionToken) -> KvWriter:
        """A writer whose every write the server refuses (FencedError) once `key` has moved on from `version`.

        Any write of the key moves it on, also one by this writer, its removal, and its expiry. `put_many` raises
        FencedError if nothing was written, else BulkWriteError. A write with a condition of its own (`create`,
        `update`, ...) is a transaction to the server, and UnsupportedError where there are none; so are always
        `purge_deletes`, which has no conditions, and `fenced` itself.

        Raises: UnsupportedError at once where the server cannot enforce it.
        """


class KvWatcher(Protocol):
    """Watching."""

    @abstractmethod
    def watch(self, prefix: str | Iterable[str] = "", *, cursor: WatchCursor | None = None) -> Watch:
        """Follow the keys that begin with one of the prefixes, each change once; see `Watch`.

        Args:
            prefix: one prefix or several, overlapping ones included; `""` is every key; `[]` ends at once.
            cursor: resume after it; None or `WatchCursor.none()` begins with the current state.
        Raises: InvalidKeyError at once; the rest when the watch is entered.
        """


class KvStore(KvReader, KvWriter, KvWatcher, Protocol):
    """A handle on one bucket."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    async def status(self) -> StoreStatus:
        """The bucket as the server has it now."""

    @abstractmethod
    def reader(self) -> KvReader:
        """A handle that can only read."""

    @abstractmethod
    def writer(self) -> KvWriter:
        """A handle that can only write."""

    @abstractmethod
    def watcher(self) -> KvWatcher:
        """A handle that can only watch."""


class Connection(Protocol):
    """A connection to a server: `async with slipstream.connect(url) as conn`. One is enough for a whole process."""

    @abstractmethod
    async def connect(self) -> None:
        """Connect; does nothing if connected, safe to call from many tasks at once.

        Raises: ConnectionFailedError, AuthenticationError, NotConnectedError after `shutdown`.
        """

    @abstractmethod
    async def shutdown(self) -> None:
        """Disconnect for good: watches end, pending operations fail with NotConnectedError. Safe to repeat."""

    @abstractmethod
    def is_healthy(self) -> bool:
        """Connected as far as is known; no I/O."""

    @abstractmethod
    def events(self) -> AsyncIterator[ConnectionEvent]:
        """What becomes of the connection: its present state first (before `connect`, nothing), then each change.

        Every call is an iterator of its own, and none holds the connection up: one that is not read keeps the latest
        256 events, and `missed` of the next one tells how many older ones were dropped. Ends after CLOSED, which
        `shutdown` brings. Cancelling `__anext__` loses none.
        """

    @abstractmethod
    async def store(self, config: str | StoreConfig, *, reads: Reads | None = None) -> KvStore:
        """The store of that name; the bucket is made if there is none.

        Args:
            config: a name (made with defaults), or how to make it. An existing bucket is returned as it is, a
                difference is logged once as a warning and listed in `status().drift`.
            reads: None is `leader` where the bucket has replicas; see `Reads`.
        Raises: pydantic's ValidationError (a ValueError) for a bad configuration; UnsupportedError for a field that
            the server does not know; OperationFailedError when the server refuses to make it.
        """

    @abstractmethod
    async def stores(self) -> list[str]:
        """The names of all buckets, sorted."""

    @abstractmethod
    async def delete_store(self, name: str) -> None:
        """Delete the bucket and all it holds. Raises: StoreNotFoundError, InvalidKeyError for an illegal name."""

    @property
    @abstractmethod
    def capabilities(self) -> ConnectionCapabilities:
        """What the server can do. Raises: NotConnectedError before the first `connect`."""

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
