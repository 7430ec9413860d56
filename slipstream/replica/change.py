"""What a batch of updates does to a fold. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from slipstream.model import KvEntry, KvUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is there afterwards, and what is not: a key is in one of the two, once."""

    puts: dict[str, KvEntry]
    removed: list[str]


def change_of(batch: Iterable[KvUpdate]) -> Change:
    """Of several updates of a key the last one counts, by its place in the batch: versions may be unknown."""
    last: dict[str, KvEntry | None] = {update.key: update.entry for update in batch}
    return Change(
        puts={key: entry for key, entry in last.items() if entry is not None},
        removed=[key for key, entry in last.items() if entry is None],
    )
