"""What a key holds, and what happened to it. Made by the hundred thousand: see `new_entry`."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import repeat, starmap
from operator import attrgetter
from typing import Any, cast

from slipstream.model.times import Moment, to_datetime
from slipstream.model.tokens import VersionToken

_UNKNOWN = VersionToken.unknown()


class Operation(Enum):
    """What happened to a key."""

    PUT = "PUT"
    DELETE = "DELETE"
    PURGE = "PURGE"


def _version_of(value: "_EntryParts | _UpdateParts") -> VersionToken:
    version = value._version
    return VersionToken.from_u64(version) if isinstance(version, int) else version


def _revision_of(value: "_EntryParts | _UpdateParts") -> int | None:
    version = value._version
    return version if isinstance(version, int) else version.as_u64()


def _created_of(value: "_EntryParts | _UpdateParts") -> datetime | None:
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
