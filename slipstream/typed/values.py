"""Entries and updates with a model for value, how they are made of stored ones, and what to do if that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar, get_args

from slipstream.codecs.keys import KeyCodec
from slipstream.errors import DeserializationError
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken
from slipstream.typed.schema import Schema

_log = logging.getLogger(__name__)

M = TypeVar("M")
T = TypeVar("T")
R = TypeVar("R")
_Named = Literal["raise", "skip"]
Poison = _Named | Callable[[DeserializationError, KvEntry], object]
"""What becomes of a stored value that does not decode, where others come after it: raise the error; skip it, with a
warning in the log; or call a function with the error and the entry as stored, then skip it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedEntry(Generic[M]):
    """As `KvEntry`, with a model for value."""

    __match_args__ = ("key", "value", "version")  # no annotation: type checkers read the names

    key: str
    value: M
    version: VersionToken
    created: datetime | None = None

    @property
    def revision(self) -> int | None:
        return self.version.as_u64()


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedUpdate(Generic[M]):
    """As `KvUpdate`, with a model for value; None unless the operation is PUT."""

    __match_args__ = ("operation", "key", "value")

    operation: Operation
    key: str
    value: M | None
    version: VersionToken
    expired: bool = False
    transaction: str | None = None
    commit: bool = False
    created: datetime | None = None
    expires: datetime | None = None

    @property
    def revision(self) -> int | None:
        return self.version.as_u64()

    @property
    def entry(self) -> TypedEntry[M] | None:
        """The entry that a PUT left behind, None after a DELETE or PURGE."""
        if self.operation is not Operation.PUT or self.value is None:
            return None
        return TypedEntry(key=self.key, value=self.value, version=self.version, created=self.created)


class SameKeys(KeyCodec):
    """Keys that are legal as they are."""

    def encode(self, key: str) -> str:
        return key

    def decode(self, key: str) -> str:
        return key

    def encode_prefix(self, prefix: str) -> str:
        return prefix


class Format(Generic[M]):
    """Everything between a model and the store."""

    def __init__(self, schema: Schema[M], keys: KeyCodec, poison: Poison, *, store: str) -> None:
        if not callable(poison) and poison not in get_args(_Named):
            raise ValueError(f"poison is 'raise', 'skip' or a function, not {poison!r}")
        self.schema = schema
        self.keys = keys
        self._poison = poison
        self._store = store

    def dump(self, key: str, value: M) -> tuple[str, bytes]:
        """Key and value as they are stored. Raises: SerializationError."""
        stored = self.keys.encode(key)
        return stored, self.schema.dump(value, key=stored)

    def value(self, entry: KvEntry) -> M:
        """Raises: DeserializationError, which names store, key and revision."""
        return self._named(lambda: self.schema.load(entry.value, key=entry.key), entry.version)

    def key(self, stored: str, version: VersionToken) -> str:
        return self._named(lambda: self.keys.decode(stored), version)

    def entry(self, entry: KvEntry) -> TypedEntry[M]:
        """Raises: DeserializationError."""
        return TypedEntry(
            key=self.key(entry.key, entry.version),
            value=self.value(entry),
            version=entry.version,
            created=entry.created,
        )

    def update(self, update: KvUpdate) -> TypedUpdate[M]:
        """Raises: DeserializationError."""
        entry = update.entry
        return TypedUpdate(
            operation=update.operation,
            key=self.key(update.key, update.version),
            value=None if entry is None else self.value(entry),
            version=update.version,
            expired=update.expired,
            transaction=update.transaction,
            commit=update.commit,
            created=update.created,
            expires=update.expires,
        )

    def entries(self, entries: Iterable[KvEntry]) -> list[TypedEntry[M]]:
        return [typed for entry in entries if (typed := self.or_poison(self.entry, entry)) is not None]

    def updates(self, updates: Iterable[KvUpdate]) -> list[TypedUpdate[M]]:
        return [typed for update in updates if (typed := self.or_poison(self.update, update)) is not None]

    def or_poison(self, decode: Callable[[T], R], stored: T) -> R | None:
        """What it decodes to, None where it was skipped. Raises: DeserializationError where the policy is to raise."""
        try:
            return decode(stored)
        except DeserializationError as error:
            if self._poison == "raise":
                raise
            if self._poison == "skip":
                _log.warning("skipped: %s", error)
            elif callable(self._poison):
                self._poison(error, _as_entry(stored))
            return None

    def _named(self, decode: Callable[[], R], version: VersionToken) -> R:
        try:
            return decode()
        except DeserializationError as error:
            raise DeserializationError(
                store=self._store, key=error.key, message=f"revision {version}: {error.message}"
            ) from None


def _as_entry(stored: object) -> KvEntry:
    if isinstance(stored, KvEntry):
        return stored
    if isinstance(stored, KvUpdate):
        return KvEntry(key=stored.key, value=stored.value, version=stored.version, created=stored.created)
    return KvEntry(key=str(stored), value=b"", version=VersionToken.unknown())  # a key alone
