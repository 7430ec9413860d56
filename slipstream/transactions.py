"""L1: what a transaction queues, the same on every backend; and optimistic retries."""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Literal, Self, TypeVar

from slipstream.checks import to_revision, to_ttl
from slipstream.commits import Condition, Fence, Last, Queue, QueuedWrite
from slipstream.errors import ConflictError, FencedError, InvalidKeyError, OperationTimeoutError
from slipstream.interfaces import Transaction, Ttl
from slipstream.keys import check_key, check_prefix
from slipstream.model import KvEntry, Operation, VersionToken

T = TypeVar("T")

_ATTEMPTS = 100
_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.05
_RETRY_FRACTION = 0.5
"""Of the timeout; the rest is for the attempt under way, whose outcome would be unknown if it were cut off."""


class QueuedTransaction(Transaction):
    """Queues and checks; a backend says how a key is read and how the queue is committed.

    Attributes:
        outcome_unknown: a commit is under way that may or may not be stored.
    """

    def __init__(self, store: str, *, fence: Fence | None = None) -> None:
        self._store = store
        self._queue = Queue(store, fence=fence)
        self._seen: dict[str, KvEntry | None] = {}
        self._versions: dict[str, VersionToken] = {}
        self._state: Literal["new", "open", "ended"] = "new"
        self.outcome_unknown = False

    @abstractmethod
    def _payload(self, key: str, value: bytes) -> bytes:
        """A copy of the value. Raises: ValueTooLargeError."""

    @abstractmethod
    def _ttl_refusal(self) -> str | None:
        """Why keys cannot have a ttl here, None if they can."""

    @abstractmethod
    async def _read(self, key: str) -> tuple[Last, KvEntry | None]:
        """What the key is at, and its entry; not older than any write acknowledged before."""

    @abstractmethod
    async def _commit(self, queue: Queue) -> dict[str, VersionToken]:
        """Store all of it or nothing; the version of every key written."""

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a transaction is entered once: make another one")
        self._state = "open"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.commit()
        else:
            self.drop()

    async def commit(self) -> None:
        """Commit what is queued; nothing can be queued any more."""
        self._check_open()
        self._state = "ended"
        if not self._queue.is_empty:
            self._versions = await self._commit(self._queue)

    def drop(self) -> None:
        """Forget what is queued."""
        self._state = "ended"

    def put(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> None:
        self._queue.write(self._write(key, value, ttl))

    def create(self, key: str, value: bytes, *, ttl: Ttl | None = None) -> None:
        self._queue.write(self._write(key, value, ttl), Condition(revision=None, wanted_by="create"))

    def update(self, key: str, value: bytes, expected: VersionToken, *, ttl: Ttl | None = None) -> None:
        write = self._write(key, value, ttl)
        self._queue.write(write, Condition(revision=self._revision(expected, key)))

    def delete(self, key: str) -> None:
        self._queue.write(QueuedWrite(key=self._key(key), operation=Operation.DELETE))

    def purge(self, key: str) -> None:
        self._queue.write(QueuedWrite(key=self._key(key), operation=Operation.PURGE))

    async def get(self, key: str) -> KvEntry | None:
        self._key(key)
        queued = self._queue.writes.get(key)
        if queued is not None:
            return KvEntry(key=key, value=queued.value, version=VersionToken.unknown()) if queued.value else None
        if key not in self._seen:
            last, entry = await self._read(key)
            self._check_open()
            self._queue.require(key, Condition(revision=last.revision, wanted_by="require"))
            self._seen.setdefault(key, entry)
        return self._seen[key]

    def require(self, key: str, version: VersionToken | None) -> None:
        self._key(key)
        revision = None if version is None else self._revision(version, key)
        self._queue.require(key, Condition(revision=revision, wanted_by="require"))

    def require_unchanged(self, prefix: str, version: VersionToken) -> None:
        self._check_open()
        check_prefix(prefix, store=self._store)
        if prefix and not prefix.endswith("."):
            raise InvalidKeyError(
                store=self._store, key=prefix, message="this prefix is empty or ends in a dot, between two tokens"
            )
        self._queue.require_unchanged(prefix, self._revision(version, prefix))

    @property
    def versions(self) -> dict[str, VersionToken]:
        return dict(self._versions)

    def _write(self, key: str, value: bytes, ttl: Ttl | None) -> QueuedWrite:
        self._key(key)
        payload = self._payload(key, value)
        seconds = to_ttl(ttl, refusal=self._ttl_refusal(), store=self._store, key=key)
        return QueuedWrite(key=key, value=payload, ttl=seconds)

    def _key(self, key: str) -> str:
        self._check_open()
        return check_key(key, store=self._store)

    def _revision(self, version: VersionToken, key: str) -> int:
        return to_revision(version, store=self._store, key=key)

    def _check_open(self) -> None:
        if self._state == "new":
            raise RuntimeError("enter the transaction first: async with store.transaction() as txn")
        if self._state == "ended":
            raise RuntimeError("the transaction is over: make another one")


async def retried(
    begin: Callable[[], QueuedTransaction], fn: Callable[[Transaction], Awaitable[T]], *, store: str, timeout: float
) -> T:
    """What `fn` returned when its transaction committed; begun anew on a conflict of the commit.

    Raises: the last conflict where it gives up; OperationTimeoutError; what `fn` raises. FencedError is no conflict
        that another attempt could avoid.
    """
    conflict: ConflictError | None = None
    txn: QueuedTransaction | None = None
    limit = asyncio.timeout(timeout)
    loop = asyncio.get_running_loop()
    retry_until = loop.time() + timeout * _RETRY_FRACTION
    try:
        async with limit:
            for attempt in range(_ATTEMPTS):
                txn = begin()
                async with _Uncommitted(txn):
                    result = await fn(txn)
                try:
                    await txn.commit()
                except FencedError:
                    raise
                except ConflictError as error:
                    if error.outcome_unknown or loop.time() > retry_until:
                        raise
                    conflict = error
                else:
                    return result
                longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
                await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 - spreads contenders, guards nothing
    except TimeoutError:
        if not limit.expired():
            raise
        unknown = txn is not None and txn.outcome_unknown
        if conflict is None or unknown:
            raise OperationTimeoutError(
                store=store, message=f"not committed within {timeout:g} s", outcome_unknown=unknown
            ) from None
    assert conflict is not None
    raise conflict


class _Uncommitted:
    """Opens a transaction; at the end of the block it stays open, dropped only if the block raised."""

    def __init__(self, txn: QueuedTransaction) -> None:
        self._txn = txn

    async def __aenter__(self) -> None:
        await self._txn.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._txn.drop()
