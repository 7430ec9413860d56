"""What clients asked of a store, when, and how it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from slipstream.errors import ConflictError, KvError
from slipstream.interfaces import KvStore
from slipstream.model import KvEntry, VersionToken

T = TypeVar("T")


class Kind(Enum):
    """What was asked for; UPDATE stands for every write with an expected version."""

    GET = "get"
    PUT = "put"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Outcome(Enum):
    """DONE: answered. REFUSED: an error, and nothing was written. UNKNOWN: it may or may not have been written."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One operation on one key.

    Attributes:
        client: who asked.
        value: what was written, or what a get saw; empty for nothing.
        expected: the revision that an UPDATE was bound to.
        invoked, returned: seconds of one monotonic clock; it took effect between the two if at all. Of unknown
            outcome, `returned` is infinite: it may take effect yet.
        revision: of what was written or seen, None where nobody said.
        conflict: it was refused because its condition did not hold.
    """

    client: str
    kind: Kind
    key: str
    value: bytes = b""
    expected: int | None = None
    invoked: float
    returned: float
    outcome: Outcome
    revision: int | None = None
    conflict: bool = False

    def __str__(self) -> str:
        bound = "" if self.expected is None else f" at {self.expected}"
        refused = "conflict" if self.conflict else self.outcome.value
        at = "" if self.revision is None else f" at {self.revision}"
        return (
            f"[{self.invoked:.6f}, {self.returned:.6f}] {self.client}: "
            f"{self.kind.value} {self.key} {self.value!r}{bound} -> {refused}{at}"
        )


class History:
    """Every action of its clients, in the order in which they ended.

    Give every write of a history a value of its own: equal values hide what happened.

    Args:
        clock: seconds; the same for all clients.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.actions: list[Action] = []
        self._clock = clock

    def client(self, store: KvStore, name: str) -> Client:
        """The store's operations, recorded under this name; one at a time."""
        return Client(self, store, name)

    async def record(
        self,
        operation: Awaitable[T],
        read: Callable[[T], tuple[bytes, int | None]],
        *,
        client: str,
        kind: Kind,
        key: str,
        value: bytes = b"",
        expected: int | None = None,
    ) -> T:
        """Await it and note how it ended; returns and raises what it does.

        A write that was cancelled, or failed with anything but a `KvError` that says otherwise, is of unknown outcome.

        Args:
            read: value and revision in what was answered.
        """

        def note(
            outcome: Outcome, *, value: bytes = value, revision: int | None = None, conflict: bool = False
        ) -> None:
            self.actions.append(
                Action(
                    client=client,
                    kind=kind,
                    key=key,
                    value=value,
                    expected=expected,
                    invoked=invoked,
                    returned=math.inf if outcome is Outcome.UNKNOWN else self._clock(),
                    outcome=outcome,
                    revision=revision,
                    conflict=conflict,
                )
            )

        invoked = self._clock()
        try:
            answer = await operation
        except BaseException as error:
            known = kind is Kind.GET or (isinstance(error, KvError) and not error.outcome_unknown)
            conflict = known and isinstance(error, ConflictError)
            note(Outcome.REFUSED if known else Outcome.UNKNOWN, conflict=conflict)
            raise
        found, revision = read(answer)
        note(Outcome.DONE, value=found if kind is Kind.GET else value, revision=revision)
        return answer


class Client:
    """The operations that are checked; arguments, results and errors as those of `KvStore`."""

    def __init__(self, history: History, store: KvStore, name: str) -> None:
        self._history = history
        self._store = store
        self._name = name

    async def get(self, key: str) -> KvEntry | None:
        return await self._history.record(self._store.get(key), _read_entry, client=self._name, kind=Kind.GET, key=key)

    async def put(self, key: str, value: bytes) -> VersionToken:
        return await self._history.record(
            self._store.put(key, value), _read_version, client=self._name, kind=Kind.PUT, key=key, value=value
        )

    async def create(self, key: str, value: bytes) -> VersionToken:
        return await self._history.record(
            self._store.create(key, value), _read_version, client=self._name, kind=Kind.CREATE, key=key, value=value
        )

    async def update(self, key: str, value: bytes, expected: VersionToken) -> VersionToken:
        return await self._history.record(
            self._store.update(key, value, expected),
            _read_version,
            client=self._name,
            kind=Kind.UPDATE,
            key=key,
            value=value,
            expected=expected.as_u64(),
        )

    async def delete(self, key: str) -> bool:
        return await self._history.record(
            self._store.delete(key), _read_nothing, client=self._name, kind=Kind.DELETE, key=key
        )

    async def delete_with_version(self, key: str, expected: VersionToken) -> bool:
        return await self._history.record(
            self._store.delete_with_version(key, expected),
            _read_nothing,
            client=self._name,
            kind=Kind.UPDATE,
            key=key,
            expected=expected.as_u64(),
        )


def _read_entry(entry: KvEntry | None) -> tuple[bytes, int | None]:
    return (b"", None) if entry is None else (entry.value, entry.revision)


def _read_version(version: VersionToken) -> tuple[bytes, int | None]:
    return b"", version.as_u64()


def _read_nothing(_: bool) -> tuple[bytes, int | None]:
    return b"", None
