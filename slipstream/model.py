"""L0: the values that every layer speaks in. All are immutable; constructors take keywords only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import repeat, starmap
from operator import attrgetter
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from slipstream.keys import check_bucket

MAX_HISTORY = 64
_U64 = 2**64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VersionToken:
    """Which write a value came from: compare-and-swap hands it back. Opaque, 0 to 10 bytes, hashable."""

    raw: bytes = b""

    def __post_init__(self) -> None:
        if len(self.raw) > 10:
            raise ValueError(f"a version token has at most 10 bytes, not {len(self.raw)}")

    @classmethod
    def unknown(cls) -> VersionToken:
        """The token of a write whose revision could not be read; it never moves a cursor."""
        return _UNKNOWN

    @classmethod
    def from_u64(cls, revision: int) -> VersionToken:
        """The token of a revision, 0 to 2**64 - 1. Raises: ValueError outside of that."""
        if not 0 <= revision < _U64:
            raise ValueError(f"a revision lies between 0 and 2**64 - 1, not {revision}")
        token = object.__new__(cls)
        object.__setattr__(token, "raw", revision.to_bytes(8, "big"))  # the length is right: nothing to check
        return token

    @classmethod
    def from_bytes(cls, raw: bytes) -> VersionToken:
        """The token that `bytes(token)` gave. Raises: ValueError for more than 10 bytes."""
        return cls(raw=bytes(raw))

    @property
    def is_unknown(self) -> bool:
        return not self.raw

    def as_u64(self) -> int | None:
        """The revision, or None unless the token has exactly 8 bytes."""
        return int.from_bytes(self.raw, "big") if len(self.raw) == 8 else None

    def __bytes__(self) -> bytes:
        return self.raw

    def __str__(self) -> str:
        revision = self.as_u64()
        if revision is not None:
            return str(revision)
        return f"0x{self.raw.hex()}" if self.raw else "unknown"

    def __repr__(self) -> str:
        return f"VersionToken({self})"


_UNKNOWN = VersionToken()

_CURSOR_TEXT = re.compile(r"(?P<revision>[0-9]{1,20})(?:@(?P<micros>[0-9]{1,18}))?")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WatchCursor:
    """A position to resume a watch from: everything up to `revision` has been seen.

    Cursors are compared (`<`, `<=`, ...) within one incarnation only; an unknown incarnation compares with any.

    Attributes:
        revision: the bucket-wide revision, None for "from the beginning".
        incarnation: which life of the bucket it belongs to (the stream's creation time, UTC), None if unknown.
    """

    revision: int | None = None
    incarnation: datetime | None = None

    def __post_init__(self) -> None:
        if self.revision is not None and not 0 <= self.revision < _U64:
            raise ValueError(f"a revision lies between 0 and 2**64 - 1, not {self.revision}")
        if self.incarnation is None:
            return
        if self.revision is None:
            raise ValueError("an incarnation belongs to a revision: without one there is nothing to compare")
        if self.incarnation.tzinfo is None:
            raise ValueError("an incarnation is a time with its zone")
        if self.incarnation < _EPOCH:
            raise ValueError("an incarnation lies after 1970: text and bytes hold no other")

    @classmethod
    def none(cls) -> WatchCursor:
        """The cursor before everything: a watch from it begins with the current state."""
        return _NO_CURSOR

    @classmethod
    def from_version(cls, version: VersionToken) -> WatchCursor:
        """The position right after this write, of an unknown incarnation; `none()` for an unknown version.

        Raises: ValueError for a token that holds no revision.
        """
        if version.is_unknown:
            return _NO_CURSOR
        revision = version.as_u64()
        if revision is None:
            raise ValueError(f"version {version} holds no revision to resume from")
        return cls(revision=revision)

    @classmethod
    def from_u64(cls, revision: int) -> WatchCursor:
        """The position right after this revision, of an unknown incarnation."""
        return cls(revision=revision)

    @property
    def is_none(self) -> bool:
        return self.revision is None

    def as_u64(self) -> int | None:
        return self.revision

    def to_bytes(self) -> bytes:
        """0 bytes for `none()`, else the revision (8) and, where known, the incarnation in microseconds (8)."""
        if self.revision is None:
            return b""
        head = self.revision.to_bytes(8, "big")
        return head if self.incarnation is None else head + _micros(self.incarnation).to_bytes(8, "big")

    @classmethod
    def from_bytes(cls, raw: bytes) -> WatchCursor:
        """The cursor that `to_bytes` gave. Raises: ValueError for anything else."""
        if not raw:
            return _NO_CURSOR
        if len(raw) not in (8, 16):
            raise ValueError(f"a cursor has 0, 8 or 16 bytes, not {len(raw)}")
        incarnation = _from_micros(int.from_bytes(raw[8:], "big")) if len(raw) == 16 else None
        return cls(revision=int.from_bytes(raw[:8], "big"), incarnation=incarnation)

    @classmethod
    def parse(cls, text: str) -> WatchCursor:
        """The cursor that `str` gave. Raises: ValueError for anything else."""
        if text == "none":
            return _NO_CURSOR
        found = _CURSOR_TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"not a cursor: {text!r}")
        micros = found["micros"]
        return cls(revision=int(found["revision"]), incarnation=None if micros is None else _from_micros(int(micros)))

    def __str__(self) -> str:
        if self.revision is None:
            return "none"
        return str(self.revision) if self.incarnation is None else f"{self.revision}@{_micros(self.incarnation)}"

    def __repr__(self) -> str:
        return f"WatchCursor({self})"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, WatchCursor):
            return NotImplemented
        return self._order(other) < other._order(self)

    def __le__(self, other: object) -> bool:
        if not isinstance(other, WatchCursor):
            return NotImplemented
        return self._order(other) <= other._order(self)

    def __gt__(self, other: object) -> bool:
        if not isinstance(other, WatchCursor):
            return NotImplemented
        return self._order(other) > other._order(self)

    def __ge__(self, other: object) -> bool:
        if not isinstance(other, WatchCursor):
            return NotImplemented
        return self._order(other) >= other._order(self)

    def _order(self, other: WatchCursor) -> int:
        if None not in (self.incarnation, other.incarnation) and self.incarnation != other.incarnation:
            raise ValueError("cursors of two incarnations of a bucket do not compare: their revisions restart")
        return -1 if self.revision is None else self.revision


_NO_CURSOR = WatchCursor()


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _from_micros(micros: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        raise ValueError("not a cursor: its incarnation lies outside of the calendar") from None


class Operation(Enum):
    """What happened to a key."""

    PUT = "PUT"
    DELETE = "DELETE"
    PURGE = "PURGE"


Moment = datetime | str | bytes | int | None
"""When something was stored, as far as it was read: a time, nanoseconds since 1970, or the server's text of either."""


def parse_time(text: str) -> datetime | None:
    """A time of the server (RFC 3339, up to nanoseconds) cut to microseconds, None where it cannot be read."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):  # the latter where its zone moves it out of the calendar
        return None


def time_from_ns(nanoseconds: int) -> datetime | None:
    """A time of the server given in nanoseconds since 1970, None where the calendar has no such time."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None


def _version_of(value: _EntryParts | _UpdateParts) -> VersionToken:
    version = value._version
    return VersionToken.from_u64(version) if isinstance(version, int) else version


def _revision_of(value: _EntryParts | _UpdateParts) -> int | None:
    version = value._version
    return version if isinstance(version, int) else version.as_u64()


def to_datetime(moment: Moment) -> datetime | None:
    """The time (UTC), None where it is none."""
    if isinstance(moment, int):
        return time_from_ns(moment)
    if isinstance(moment, bytes):
        moment = moment.decode()
    if isinstance(moment, str):
        return time_from_ns(int(moment)) if moment.isdigit() else parse_time(moment)
    return moment


def _created_of(value: _EntryParts | _UpdateParts) -> datetime | None:
    return to_datetime(value._created)


# Fields that are made when they are asked for. Dataclasses take the properties for defaults: there are none.
_VERSION: Any = property(_version_of)
_CREATED: Any = property(_created_of)
_EXPIRED: Any = property(lambda update: update._marks[0])
_TRANSACTION: Any = property(lambda update: update._marks[1])
_COMMIT: Any = property(lambda update: update._marks[2])
_EXPIRES: Any = property(lambda update: update._marks[3])


class _EntryParts:
    """What an entry keeps. Filled as an ordinary object and only then made a `KvEntry`: see `new_entry`."""

    __slots__ = ("_created", "_version", "key", "value")

    def __init__(self, key: str, value: bytes, version: VersionToken | int, created: Moment) -> None:
        self.key = key
        self.value = value
        self._version = version
        self._created = created


@dataclass(frozen=True, init=False)
class KvEntry(_EntryParts):
    """A key and its value.

    Attributes:
        version: hand it to `update` or `delete_with_version`.
        created: when the server stored it (UTC), None where unknown.
    """

    __slots__ = ()
    __match_args__ = ("key", "value", "version")  # no annotation: type checkers read the names

    key: str
    value: bytes
    version: VersionToken = _VERSION
    created: datetime | None = _CREATED

    def __init__(self, *, key: str, value: bytes, version: VersionToken, created: datetime | None = None) -> None:
        _fill(self, key=key, value=value, _version=version, _created=created)

    @property
    def revision(self) -> int | None:
        return _revision_of(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return new_entry, (self.key, self.value, self._version, self._created)


def new_entry(key: str, value: bytes, version: VersionToken | int, created: Moment) -> KvEntry:
    """As the constructor, for backends: a version may be given as its revision, a time as it is known.

    A frozen class pays for every field that is set; one that is frozen afterwards does not, and a scan makes many.
    """
    entry: Any = _EntryParts(key, value, version, created)
    entry.__class__ = KvEntry
    return cast("KvEntry", entry)


Marks = tuple[bool, str | None, bool, datetime | None]
"""`expired`, `transaction`, `commit` and `expires` of an update; nearly all updates have none of them."""
_NO_MARKS: Marks = (False, None, False, None)


class _UpdateParts:
    """What an update keeps. Filled as an ordinary object and only then made a `KvUpdate`: see `new_update`."""

    __slots__ = ("_created", "_marks", "_version", "key", "operation", "value")

    def __init__(
        self,
        operation: Operation,
        key: str,
        value: bytes,
        version: VersionToken | int,
        created: Moment,
        marks: Marks,
    ) -> None:
        self.operation = operation
        self.key = key
        self.value = value
        self._version = version
        self._created = created
        self._marks = marks


@dataclass(frozen=True, init=False)
class KvUpdate(_UpdateParts):
    """One watched change of one key.

    Attributes:
        value: the new value; empty unless the operation is PUT.
        expired: the server removed the key because its time was up.
        transaction: the atomic commit that it belongs to, None outside of one.
        commit: it is the last update of that commit.
        created: when the server stored it (UTC), None where unknown.
        expires: when the ttl that it was written with ends (UTC), None without one.
    """

    __slots__ = ()
    __match_args__ = ("operation", "key", "value")

    operation: Operation
    key: str
    value: bytes
    version: VersionToken = _VERSION
    expired: bool = _EXPIRED
    transaction: str | None = _TRANSACTION
    commit: bool = _COMMIT
    created: datetime | None = _CREATED
    expires: datetime | None = _EXPIRES

    def __init__(
        self,
        *,
        operation: Operation,
        key: str,
        value: bytes = b"",
        version: VersionToken = _UNKNOWN,
        expired: bool = False,
        transaction: str | None = None,
        commit: bool = False,
        created: datetime | None = None,
        expires: datetime | None = None,
    ) -> None:
        _fill(
            self,
            operation=operation,
            key=key,
            value=value,
            _version=version,
            _created=created,
            _marks=(expired, transaction, commit, expires),
        )

    @property
    def revision(self) -> int | None:
        return _revision_of(self)

    @property
    def entry(self) -> KvEntry | None:
        """The entry that a PUT left behind, None after a DELETE or PURGE."""
        if self.operation is not Operation.PUT:
            return None
        return new_entry(self.key, self.value, self._version, self._created)

    def __reduce__(self) -> tuple[Any, ...]:
        return new_update, (self.operation, self.key, self.value, self._version, self._created, self._marks)


def new_update(
    operation: Operation,
    key: str,
    value: bytes,
    version: VersionToken | int,
    created: Moment,
    marks: Marks = _NO_MARKS,
) -> KvUpdate:
    """As the constructor, for backends: see `new_entry`."""
    update: Any = _UpdateParts(operation, key, value, version, created, marks)
    update.__class__ = KvUpdate
    return cast("KvUpdate", update)


def new_puts(
    keys: Iterable[str], values: Iterable[bytes], revisions: Iterable[int], created: Iterable[Moment]
) -> list[KvUpdate]:
    """As `new_update` for many plain values at once, at a third of the cost for each."""
    updates: list[Any] = list(
        map(_UpdateParts, repeat(Operation.PUT), keys, values, revisions, created, repeat(_NO_MARKS))
    )
    for update in updates:
        update.__class__ = KvUpdate
    return updates


def expiring(updates: Iterable[KvUpdate]) -> list[KvUpdate]:
    """Those with a ttl."""
    return [update for update in updates if update._marks is not _NO_MARKS and update.expires is not None]


_ENTRY_PARTS = attrgetter("key", "value", "_version", "_created")


def entries_of(puts: Iterable[KvUpdate]) -> list[KvEntry]:
    """The entries that these PUTs left behind."""
    entries: list[Any] = list(starmap(_EntryParts, map(_ENTRY_PARTS, puts)))
    for entry in entries:
        entry.__class__ = KvEntry
    return entries


def _fill(target: object, /, **parts: object) -> None:
    for name, part in parts.items():
        object.__setattr__(target, name, part)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _at_least_a_second(value: timedelta | None) -> timedelta | None:
    # "subject delete marker TTL must be at least 1 second" (PROTOCOL.md, a)
    if value is not None and value < timedelta(seconds=1):
        raise ValueError("marker_ttl is at least one second; None turns markers off")
    return value


def _positive_age(value: timedelta | None) -> timedelta | None:
    # "max age needs to be >= 100ms" (PROTOCOL.md, a)
    if value is not None and value < timedelta(milliseconds=100):
        raise ValueError("max_age is at least 0.1 seconds; None keeps values for ever")
    return value


def _no_bool(value: Any) -> Any:
    # bool is an int to Python: max_history=True would pass as 1.
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not a bool")
    return value


def _none_if_empty(text: str | None) -> str | None:
    return text or None  # to the server an empty description is none


_Count = Annotated[int, BeforeValidator(_no_bool)]


class Placement(_Frozen):
    """Where a cluster puts the bucket: the name of the cluster, tags that its servers must carry, or both."""

    cluster: Annotated[str, Field(min_length=1)] | None = None
    tags: tuple[Annotated[str, Field(min_length=1)], ...] = ()


def _none_if_anywhere(placement: Placement | None) -> Placement | None:
    return placement if placement is not None and (placement.cluster or placement.tags) else None


class StoreConfig(_Frozen):
    """How a bucket is made. It applies at creation only: an existing bucket is left as it is.

    Attributes:
        name: letters, digits, `-` and `_`.
        storage: `persistent` (files) or `memory`.
        max_history: how many revisions of a key are kept, 1 to 64.
        max_age: seconds or `timedelta` after which a value expires; None keeps it.
        max_bytes: size of the whole bucket; None for no limit.
        max_value_size: size of one value in bytes; None for no limit but the server's.
        num_replicas: how many servers of a cluster hold the bucket, 1 to 5.
        discard: what a full bucket does: `new` refuses writes, `old` drops its oldest revisions.
        marker_ttl: seconds or `timedelta` for which the mark of an expired key stays, so that watches see the
            expiry; at least 1 s, None for no marks. One hour unless set. Servers before 2.11.2 have no marks.
        placement: where a cluster puts it.
        mirror: the name of a bucket that this one copies; writes through the mirror go to that bucket.
        metadata: text pairs kept with the bucket.

    Raises: pydantic's ValidationError, a ValueError.
    """

    name: Annotated[str, AfterValidator(check_bucket)]
    storage: Literal["persistent", "memory"] = "persistent"
    max_history: Annotated[_Count, Field(ge=1, le=MAX_HISTORY)] = 1
    max_age: Annotated[timedelta | None, BeforeValidator(_no_bool), AfterValidator(_positive_age)] = None
    max_bytes: Annotated[_Count, Field(ge=1)] | None = None
    max_value_size: Annotated[_Count, Field(ge=1)] | None = None
    num_replicas: Annotated[_Count, Field(ge=1, le=5)] = 1
    discard: Literal["new", "old"] = "new"
    description: Annotated[str | None, AfterValidator(_none_if_empty)] = None
    compression: bool = False
    marker_ttl: Annotated[timedelta | None, BeforeValidator(_no_bool), AfterValidator(_at_least_a_second)] = timedelta(
        hours=1
    )
    placement: Annotated[Placement | None, AfterValidator(_none_if_anywhere)] = None
    mirror: Annotated[str, AfterValidator(check_bucket)] | None = None
    metadata: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_mirror_of_itself(self) -> Self:
        if self.mirror == self.name:
            raise ValueError("a bucket cannot mirror itself")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A field in which an existing bucket differs from the configuration that was asked for."""

    field: str
    wanted: Any
    actual: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """A bucket as the server has it.

    Attributes:
        keys: keys with a record, tombstones included.
        bytes: size of what is stored.
        first_revision: the oldest revision held; `last_revision + 1` where nothing is held any more.
        last_revision: the newest revision ever given out; 0 before the first write.
        incarnation: when this bucket was made (UTC); another one is another life of the bucket.
        replicas: how many servers hold it.
        leader: the server that takes its writes, None where unknown or not clustered.
        config: the configuration in force.
        drift: where `config` differs from what was asked for when the store was opened.
    """

    keys: int
    bytes: int
    first_revision: int
    last_revision: int
    incarnation: datetime
    replicas: int
    leader: str | None
    config: StoreConfig
    drift: list[Drift] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchStatistics:
    """How a watch is doing.

    Attributes:
        pending: updates that the server holds for this watch or that wait to be handed out, as last reported.
        delivered: updates handed out.
        resumes: how often the watch was set up anew behind the scenes.
        last_heard: seconds since the server was last heard from on this watch.
    """

    pending: int
    delivered: int
    resumes: int
    last_heard: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionCapabilities:
    """What the server at the other end really does, so that a caller can choose before trying.

    Attributes:
        streaming_watch: `watch` delivers changes as they happen.
        prefix_watch: `watch` filters by prefix on the server, several prefixes included.
        ttl: keys may expire one by one.
        purge: `purge` removes the history of a key.
        cas: `create`, `update` and `delete_with_version` are atomic.
        transactions: `transaction` and `atomically`.
        fencing: `fenced`.
        max_value_size: bytes, 0 where no limit is known.
        global_ordering: revisions are ordered across stores.
    """

    streaming_watch: bool = True
    prefix_watch: bool = True
    ttl: bool = False
    purge: bool = True
    cas: bool = True
    transactions: bool = False
    fencing: bool = False
    max_value_size: int = 0
    global_ordering: bool = False


class ConnectionState(Enum):
    """What has become of a connection; it works in CONNECTED and, as long as it lasts, in LAME_DUCK."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    RECONNECTING = "reconnecting"
    LAME_DUCK = "lame duck"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionEvent:
    """A connection has come into a state. Works with `match`: `ConnectionEvent(state, server, reason)`.

    Attributes:
        state: CONNECTED, for the first time or again; DISCONNECTED, operations wait for the next connection;
            RECONNECTING, an attempt begins; LAME_DUCK, the server announced that it goes; CLOSED, for good.
        server: which one, `nats://host:port` without secrets; None where there is none or none any more.
        reason: why it was lost, for people; empty for the other states.
        attempt: of RECONNECTING, counted from 1 at every loss; else 0.
        missed: how many events before this one were dropped, because they were not taken in time.
    """

    __match_args__ = ("state", "server", "reason")

    state: ConnectionState
    server: str | None = None
    reason: str = ""
    attempt: int = 0
    missed: int = 0
