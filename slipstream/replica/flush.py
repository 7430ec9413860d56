"""In which order a batch takes effect, and how far the cursor moves. Pure: no I/O, no clock, no asyncio.

    APPLY ──> STORE ──> ANNOUNCE ──> DONE
                │ ^
         failed └─┘  with the same batch, `RETRIES` times in a row, then GIVE_UP

What is stored names no update that was not applied, and what is announced no update that is not stored: whoever is
killed between two steps gets the batch again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from slipstream.model import KvEntry, KvUpdate, WatchCursor

RETRIES = 16
"""How often a snapshot that fails is tried again with the same batch (DESIGN.md section 6)."""
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


class Step(Enum):
    """What to do next with a batch."""

    APPLY = "apply"
    STORE = "store"
    ANNOUNCE = "announce"
    DONE = "done"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush:
    """How far a batch has come.

    Attributes:
        failures: how often in a row the snapshot has refused it.
    """

    applied: bool = False
    stored: bool = False
    announced: bool = False
    failures: int = 0


def next_step(flush: Flush) -> Step:
    """The one step that may come now."""
    if not flush.applied:
        return Step.APPLY
    if not flush.stored:
        return Step.GIVE_UP if flush.failures > RETRIES else Step.STORE
    return Step.DONE if flush.announced else Step.ANNOUNCE


def pause_after(failures: int) -> float:
    """Seconds until the next attempt after so many failures in a row."""
    return min(_FIRST_PAUSE * 2.0 ** (failures - 1), _LONGEST_PAUSE)


def advance(applied: WatchCursor, seen: WatchCursor) -> WatchCursor:
    """The cursor after a batch, of that before it and that of the watch. Backwards only into another incarnation."""
    if seen.is_none:
        return applied
    known = None not in (applied.incarnation, seen.incarnation)
    if known and applied.incarnation != seen.incarnation:
        return seen
    return max(seen, applied)


def already_held(update: KvUpdate, held: KvEntry | None) -> bool:
    """The fold has this write of the key, or a newer one. Of an unknown version that cannot be said."""
    if update.revision is None or held is None or held.revision is None:
        return False
    return held.revision >= update.revision
