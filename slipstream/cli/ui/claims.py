"""Who holds what and who is there, by the records of `slipstream.coordination`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from slipstream.coordination.records import Holder, Presence
from slipstream.errors import DeserializationError
from slipstream.model import KvEntry

READ_KEYS = 2000
READ_BYTES = 8 * 1024 * 1024
"""Of a store up to so many keys and bytes every value is read: the names of members tell nothing."""

_TICKET = re.compile(r"(?P<name>.+)\.(?P<kind>queue|permits)\.[^.]+\.ticket")
_WAITING = re.compile(r"(?P<name>.+)\.waiting\.[^.]+")
_HOLDER = ".holder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A record of coordination.

    Attributes:
        kind: `lease`, `free lease` (nobody holds it now), `waits` (for a lease), `semaphore` (a holder or one who
            waits), `barrier`, `member`.
        name: of the lease, semaphore, barrier or group.
        who: what the holder or the member calls itself; else a place, or the key of the record.
        ttl: seconds; None where the record has none.
        renewed: when it was written last.
    """

    kind: str
    name: str
    who: str
    ttl: float | None
    renewed: datetime | None


def candidates(keys: Sequence[str], *, stored_bytes: int) -> list[str]:
    """The keys worth reading: all of a small store, else those whose names say what they are, up to a bound."""
    if len(keys) <= READ_KEYS and stored_bytes <= READ_BYTES:
        return list(keys)
    return [key for key in keys if key.endswith(_HOLDER) or _TICKET.fullmatch(key) or _WAITING.fullmatch(key)][
        :READ_KEYS
    ]


def claims(entries: Iterable[KvEntry]) -> list[Claim]:
    """What these entries say, by kind and name; what coordination did not write is left out."""
    presences: dict[str, tuple[KvEntry, Presence]] = {}
    holders: dict[str, tuple[KvEntry, Holder]] = {}
    for entry in entries:
        try:
            if entry.key.endswith(_HOLDER):
                holders[entry.key] = entry, Holder.decode(entry.value, key=entry.key)
                continue
        except DeserializationError:
            pass  # a member may be called `holder`
        try:
            presences[entry.key] = entry, Presence.decode(entry.value, key=entry.key)
        except DeserializationError:
            continue
    found = [_lease(key, entry, holder, presences) for key, (entry, holder) in holders.items()]
    holding = {
        holder.ticket
        for _, holder in holders.values()
        if (ticket := presences.get(holder.ticket)) is not None and ticket[1].id == holder.id
    }
    found += [_presence(entry, presence) for key, (entry, presence) in presences.items() if key not in holding]
    return sorted(found, key=lambda claim: (claim.kind, claim.name, claim.who))


def _lease(key: str, entry: KvEntry, holder: Holder, presences: Mapping[str, tuple[KvEntry, Presence]]) -> Claim:
    name = key.removesuffix(_HOLDER)
    ticket, presence = presences.get(holder.ticket, (None, None))
    # The winning write stays when its holder has gone: only its ticket shows that it lives.
    if ticket is None or presence is None or presence.id != holder.id:
        return Claim(kind="free lease", name=name, who=f"was {holder.name}", ttl=None, renewed=entry.created)
    return Claim(kind="lease", name=name, who=holder.name, ttl=presence.ttl, renewed=ticket.created)


def _presence(entry: KvEntry, presence: Presence) -> Claim:
    kind, name, who = _place(entry, presence)
    return Claim(kind=kind, name=name, who=who, ttl=presence.ttl, renewed=entry.created)


def _place(entry: KvEntry, presence: Presence) -> tuple[str, str, str]:
    ticket = _TICKET.fullmatch(entry.key)
    if ticket is not None:
        number = entry.revision if presence.number is None else presence.number
        return ("waits" if ticket["kind"] == "queue" else "semaphore"), ticket["name"], f"place {number}"
    waiting = _WAITING.fullmatch(entry.key)
    if waiting is not None:
        return "barrier", waiting["name"], entry.key
    # The name of a member is a key itself, and may have dots as the group's has: the last one is the better guess.
    group, _, member = entry.key.rpartition(".")
    return "member", group, member
