"""What the areas share: batches whose outcome is known, and how a folder is read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken, WatchCursor
from slipstream.replica.snapshot import SnapshotStore
from slipstream.testing._waiting import bounded

LIFE = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class State:
    """A cursor and the fold that belongs to it."""

    cursor: WatchCursor = field(default_factory=WatchCursor.none)
    fold: dict[str, KvEntry] = field(default_factory=dict)

    def after(self, batch: Sequence[KvUpdate], cursor: WatchCursor) -> State:
        """The definition of what `apply` does."""
        fold = dict(self.fold)
        for update in batch:
            if update.entry is None:
                fold.pop(update.key, None)
            else:
                fold[update.key] = update.entry
        return State(cursor=cursor, fold=fold)


def put(key: str, value: bytes, revision: int | None = None, *, created: datetime | None = None) -> KvUpdate:
    version = VersionToken.unknown() if revision is None else VersionToken.from_u64(revision)
    return KvUpdate(operation=Operation.PUT, key=key, value=value, version=version, created=created)


def removal(operation: Operation, key: str, revision: int | None = None) -> KvUpdate:
    version = VersionToken.unknown() if revision is None else VersionToken.from_u64(revision)
    return KvUpdate(operation=operation, key=key, version=version)


def batch_number(number: int, *, keys: int = 50, size: int = 20, value_bytes: int = 400) -> list[KvUpdate]:
    """The same updates for the same number, in whichever process: revisions from `number * 1000` on."""
    dice = random.Random(number)
    updates = []
    for revision in range(number * 1000, number * 1000 + dice.randint(1, size)):
        key = f"k.{dice.randrange(keys)}"
        if dice.random() < 0.25:
            updates.append(removal(dice.choice([Operation.DELETE, Operation.PURGE]), key, revision))
        else:
            value = dice.randbytes(dice.randint(1, value_bytes))
            updates.append(put(key, value, revision, created=LIFE + timedelta(microseconds=revision)))
    return updates


def cursor_number(number: int) -> WatchCursor:
    """The cursor after that batch; `none()` after number 0."""
    return WatchCursor(revision=number * 1000 + 999, incarnation=LIFE) if number else WatchCursor.none()


def number_of(cursor: WatchCursor) -> int:
    """The number of the batch that the cursor comes after."""
    assert cursor.is_none or (cursor.incarnation == LIFE and cursor.revision is not None)
    return 0 if cursor.revision is None else cursor.revision // 1000


async def apply_numbers(store: SnapshotStore, first: int, last: int, *, states: list[State] | None = None) -> None:
    """Apply these batches; `states`, which ends with the one before, gets those after each."""
    for number in range(first, last + 1):
        batch, cursor = batch_number(number), cursor_number(number)
        await store.apply(batch, cursor)
        if states is not None:
            states.append(states[-1].after(batch, cursor))


def state_of(store: SnapshotStore) -> State:
    """Everything that an open store says of itself, which has to agree."""
    entries = list(store.range())
    assert [entry.key for entry in entries] == sorted({entry.key for entry in entries})
    assert len(store) == len(entries)
    for entry in entries:
        assert store.get(entry.key) == entry
    return State(cursor=store.cursor, fold={entry.key: entry for entry in entries})


class SnapshotBackend:
    """What a store says of itself."""

    kind: ClassVar[type[SnapshotStore]]
    """The class under test; child processes import it by its name."""
    rewriting: ClassVar[str | None] = None
    """The name of its method that writes anew what it holds, as a compaction; awaited. None without one."""

    def tail(self, folder: Path) -> Path:
        """The file that the last `apply` wrote to, while the store is open."""
        raise NotImplementedError("the test class of a store says where its last write is")

    def make_newer(self, folder: Path) -> None:
        """Make the closed store in the folder one of a schema that does not exist yet."""
        raise NotImplementedError("the test class of a store says how a newer one would look")

    async def open(self, folder: Path) -> SnapshotStore:
        async with bounded():
            store, cursor = await self.kind.open(folder)
        assert store.cursor == cursor
        return store

    async def read(self, folder: Path) -> State:
        """What opening the folder gives."""
        async with await self.open(folder) as store:
            return state_of(store)
