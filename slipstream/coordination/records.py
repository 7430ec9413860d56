"""What coordination stores, and what follows from it. Pure."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from slipstream.errors import DeserializationError
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken

SAFETY = 0.1
"""The part of a ttl that the holder gives up: what it began is cancelled before the server lets another in, also where
the two clocks do not run equally fast."""
RENEWALS_PER_TTL = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOKEN = re.compile(r"([0-9]{1,18})-([0-9]{1,20})")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class FencingToken:
    """Which winning write a holder has: the later of two holders has the greater token, within a life of the bucket.

    Attributes:
        incarnation: which life of the bucket it was won in.
        revision: that of the winning write.
    """

    incarnation: datetime
    revision: int

    @property
    def version(self) -> VersionToken:
        """For `require` and `fenced`, together with the key of the lease."""
        return VersionToken.from_u64(self.revision)

    def __str__(self) -> str:
        return f"{(self.incarnation - _EPOCH) // timedelta(microseconds=1)}-{self.revision}"

    @classmethod
    def parse(cls, text: str) -> FencingToken:
        """The token that `str` gave. Raises: ValueError for anything else."""
        found = _TOKEN.fullmatch(text)
        if found is None:
            raise ValueError(f"not a fencing token: {text!r}")
        return cls(incarnation=_EPOCH + timedelta(microseconds=int(found[1])), revision=int(found[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """The value of a key that somebody keeps alive.

    Attributes:
        id: new for every time that the key is made, so that its owner knows its own write when its answer was lost.
        ttl: seconds after which it is over unless renewed; whoever has seen it unchanged for so long may remove it.
        number: its place in a queue: the revision of its first write, None in that write itself.
        won: the revision of the winning write, once there is one.
        value: of the application.
    """

    id: str
    ttl: float
    number: int | None = None
    won: int | None = None
    value: bytes = b""

    def encode(self) -> bytes:
        fields = {
            "id": self.id,
            "ttl": self.ttl,
            "number": self.number,
            "won": self.won,
            "value": base64.b64encode(self.value).decode(),
        }
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, raw: bytes, *, key: str) -> Presence:
        """Raises: DeserializationError for what `encode` did not make."""
        fields = _fields(raw, key)
        try:
            return cls(**{**fields, "ttl": float(fields["ttl"]), "value": base64.b64decode(fields["value"])})
        except (KeyError, TypeError, ValueError):
            raise foreign(key) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The value of the winning write: who holds the lease, and the ticket that shows that it lives.

    Attributes:
        name: what the holder calls itself.
        ticket: the key of its place in the queue.
        id: that of the ticket's `Presence`.
        number: the ticket's.
    """

    name: str
    ticket: str
    id: str
    number: int

    def encode(self) -> bytes:
        return json.dumps({"name": self.name, "ticket": self.ticket, "id": self.id, "number": self.number}).encode()

    @classmethod
    def decode(cls, raw: bytes, *, key: str) -> Holder:
        """Raises: DeserializationError for what `encode` did not make."""
        try:
            return cls(**_fields(raw, key))
        except TypeError:
            raise foreign(key) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A place in a queue, as it was last seen.

    Attributes:
        number: places are in the order of their numbers.
        seen: when this version of it was seen first, by the clock of whoever waits behind it.
    """

    key: str
    number: int
    version: VersionToken
    presence: Presence
    seen: float

    @property
    def silent_at(self) -> float:
        """Unchanged until then, its owner has lost it: every renewal sets out before it can be seen."""
        return self.seen + self.presence.ttl


@dataclass(slots=True)
class TicketView:
    """The tickets of a queue that are there, as far as was seen."""

    tickets: dict[str, Ticket] = field(default_factory=dict)

    def see(self, found: KvEntry | KvUpdate, *, at: float) -> None:
        """Take in a record. An older one than is known changes nothing, neither does the same one."""
        known = self.tickets.get(found.key)
        revision = found.revision
        if revision is None or (known is not None and revision <= (known.version.as_u64() or 0)):
            return
        if isinstance(found, KvUpdate) and found.operation is not Operation.PUT:
            self.tickets.pop(found.key, None)
            return
        presence = Presence.decode(found.value, key=found.key)
        number = revision if presence.number is None else presence.number
        self.tickets[found.key] = Ticket(
            key=found.key, number=number, version=found.version, presence=presence, seen=at
        )

    def keep(self, entries: Iterable[KvEntry], *, at: float) -> None:
        """Take in what a read found: whatever else was known is gone."""
        found = {entry.key: entry for entry in entries}
        for key in self.tickets.keys() - found.keys():
            del self.tickets[key]
        for entry in found.values():
            self.see(entry, at=at)

    def older_than(self, number: int) -> list[Ticket]:
        """In their order, the oldest first."""
        older = (ticket for ticket in self.tickets.values() if ticket.number < number)
        return sorted(older, key=lambda ticket: ticket.number)


def valid_until(*, started: float, ttl: float) -> float:
    """When the owner has to take a key for lost that was renewed by a request begun at `started`.

    From its beginning, not its end: the server counts from the moment when it has it, and when that was only the
    beginning bounds.
    """
    return started + ttl * (1 - SAFETY)


def new_id() -> str:
    return secrets.token_hex(8)


def _fields(raw: bytes, key: str) -> dict[str, Any]:
    try:
        fields = json.loads(raw)
    except ValueError:
        raise foreign(key) from None
    if not isinstance(fields, dict):
        raise foreign(key)
    return fields


def foreign(key: str) -> DeserializationError:
    """Somebody else wrote it."""
    return DeserializationError(
        key=key, message="not a record of slipstream.coordination: give coordination a prefix of its own"
    )
