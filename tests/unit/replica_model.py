"""A bucket, a writer and a follower as a state machine, small enough to look at every state.

The decisions are those of production (`Rules`), so that a mutant of one of them is a mutant of the machine. What is
modelled is `slipstream.replica`: one step of a flush, of a repair or of a watch is one move, and a crash, a failing
snapshot and a write may come between any two. A bucket keeps one record of a key, and forgets tombstones on request:
a watch that has not come so far has expired, as in `slipstream.stores.memory`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from slipstream.errors import ExpiryReason
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken, WatchCursor
from slipstream.replica import difference, flush
from slipstream.replica.difference import Recovery, put_of, removal
from slipstream.replica.flush import Flush, Step
from slipstream.resume import cursor_expiry

_BORN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The decisions that the machine obeys; by default production's."""

    next_step: Callable[[Flush], Step] = flush.next_step
    advance: Callable[[WatchCursor, WatchCursor], WatchCursor] = flush.advance
    recovery: Callable[..., Recovery] = difference.recovery
    begins_after: Callable[..., bool] = difference.begins_after
    compare: Callable[..., difference.Difference] = difference.compare
    # The order of things, which production's `repair` and `follow` have in their code.
    removals_first: bool = True
    watch_before_listing: bool = True
    repair_moves_cursor: bool = False
    batch_kept_on_failure: bool = True


class Bucket(NamedTuple):
    """One life of it. `log` is everything ever written, `records` what is left; `lost` as in the memory backend."""

    life: int = 0
    log: tuple[KvUpdate, ...] = ()
    records: tuple[KvUpdate, ...] = ()
    lost: int = 0

    @property
    def incarnation(self) -> datetime:
        return _BORN + timedelta(days=self.life)

    @property
    def first(self) -> int:
        return min((revision_of(record) for record in self.records), default=len(self.log) + 1)

    def cursor(self, revision: int) -> WatchCursor:
        return WatchCursor(revision=revision, incarnation=self.incarnation)

    def live(self) -> dict[str, KvEntry]:
        return {record.key: entry for record in self.records if (entry := record.entry) is not None}

    def written(self, key: str, operation: Operation) -> Bucket:
        revision = len(self.log) + 1
        update = KvUpdate(
            operation=operation,
            key=key,
            value=b"%d:%d" % (self.life, revision) if operation is Operation.PUT else b"",
            version=VersionToken.from_u64(revision),
        )
        kept = tuple(record for record in self.records if record.key != key)
        return self._replace(log=(*self.log, update), records=(*kept, update))

    def swept(self, key: str) -> Bucket:
        gone = next(record for record in self.records if record.key == key)
        kept = tuple(record for record in self.records if record is not gone)
        return self._replace(records=kept, lost=max(self.lost, revision_of(gone)))


class Watching(NamedTuple):
    """A watch after `position`; `initial` is where the bucket stood when it was entered, for one without a cursor."""

    life: int
    position: int
    initial: int


class Flushing(NamedTuple):
    """A batch under way, and what comes after it."""

    batch: tuple[KvUpdate, ...]
    cursor: WatchCursor
    flush: Flush
    then: Phase


class Clearing(NamedTuple):
    """The fold is emptied; the watch that comes after it."""


class Expired(NamedTuple):
    reason: ExpiryReason


class Entering(NamedTuple):
    """A repair has decided where its watch begins; a watch that was entered too early is carried along."""

    cursor: WatchCursor
    listed: tuple[tuple[str, VersionToken], ...] | None = None


class Mending(NamedTuple):
    """The watch has been entered; what is to be read singly, None before the listing."""

    watch: Watching
    cursor: WatchCursor
    wanted: tuple[str, ...] | None = None
    vanished: tuple[str, ...] = ()


Phase = Watching | Flushing | Clearing | Expired | Entering | Mending


class State(NamedTuple):
    """Everything there is; `phase` None is a follower that is down, `fold` and `cursor` are its snapshot."""

    bucket: Bucket = Bucket()
    phase: Phase | None = None
    fold: tuple[KvEntry, ...] = ()
    cursor: WatchCursor = WatchCursor.none()
    table: tuple[KvUpdate, ...] = ()
    announced: WatchCursor = WatchCursor.none()
    writes: int = 3
    lives: int = 1
    crashes: int = 1
    failures: int = 1
    keys: tuple[str, ...] = ("a", "b")

    def held(self) -> dict[str, KvEntry]:
        return {entry.key: entry for entry in self.fold}


def followed(keys: tuple[str, ...], **bounds: int) -> State:
    """A follower that has written down all of a bucket with these keys, and is down."""
    bucket = Bucket()
    for key in keys:
        bucket = bucket.written(key, Operation.PUT)
    cursor = bucket.cursor(len(keys))
    fold = tuple(bucket.live().values())
    start = State(bucket=bucket, fold=fold, cursor=cursor, table=bucket.log, announced=cursor, keys=keys)
    return start._replace(**bounds)  # type: ignore[arg-type]


def revision_of(item: KvUpdate | KvEntry) -> int:
    return item.revision or 0


def versions_of(entries: Mapping[str, KvEntry]) -> dict[str, VersionToken]:
    return {key: entry.version for key, entry in entries.items()}


def moves(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """Every state that may come next, with what led there."""
    yield from _writer(state)
    if state.phase is None:
        yield "start", _started(state)
        return
    if state.crashes:
        yield "crash", state._replace(phase=None, crashes=state.crashes - 1)
    yield from _follower(state, rules)


def _writer(state: State) -> Iterator[tuple[str, State]]:
    bucket = state.bucket
    if state.lives:
        yield "make again", state._replace(bucket=Bucket(life=bucket.life + 1), lives=state.lives - 1)
    for record in bucket.records:
        if record.entry is None:
            yield f"sweep {record.key}", state._replace(bucket=bucket.swept(record.key))
    if not state.writes:
        return
    spent = state._replace(writes=state.writes - 1)
    for key in state.keys:
        yield f"put {key}", spent._replace(bucket=bucket.written(key, Operation.PUT))
        if key in bucket.live():
            yield f"delete {key}", spent._replace(bucket=bucket.written(key, Operation.DELETE))


def _refusal(cursor: WatchCursor, bucket: Bucket) -> ExpiryReason | None:
    if cursor.revision is None:
        return None
    reason = cursor_expiry(
        cursor, first_revision=bucket.first, last_revision=len(bucket.log), incarnation=bucket.incarnation
    )
    return "compacted" if reason is None and cursor.revision < bucket.lost else reason


def _watch(cursor: WatchCursor, bucket: Bucket) -> Watching | Expired:
    reason = _refusal(cursor, bucket)
    if reason is not None:
        return Expired(reason)
    if cursor.revision is None:
        return Watching(bucket.life, 0, len(bucket.log))
    return Watching(bucket.life, cursor.revision, 0)


def _started(state: State) -> State:
    """An application begins with what is in its snapshot: it may have applied more, of which nobody will tell."""
    table = tuple(put_of(entry) for entry in state.fold)
    return state._replace(phase=_watch(state.cursor, state.bucket), table=table)


def _follower(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    bucket, phase = state.bucket, state.phase
    match phase:
        case Watching():
            yield from _take(state, phase, rules)
        case Flushing():
            yield from _flush(state, phase, rules)
        case Expired(reason):
            how = rules.recovery(
                state.cursor,
                reason,
                first_revision=bucket.first,
                last_revision=len(bucket.log),
                incarnation=bucket.incarnation,
            )
            if how is Recovery.REBUILD:
                batch = tuple(removal(key) for key in sorted(state.held()))
                yield "empty", state._replace(phase=Flushing(batch, state.cursor, Flush(), Clearing()))
            else:
                whole = rules.begins_after(state.cursor, first_revision=bucket.first)
                cursor = WatchCursor.none() if whole else bucket.cursor(len(bucket.log))
                yield "plan", state._replace(phase=Entering(cursor))
        case Clearing():
            cleared = state._replace(fold=(), cursor=WatchCursor.none())
            yield "clear", cleared._replace(phase=_watch(WatchCursor.none(), bucket))
        case Entering(cursor, listed):
            if listed is None and not rules.watch_before_listing:
                early = tuple(versions_of(bucket.live()).items())
                yield "list too early", state._replace(phase=Entering(cursor, early))
                return
            watch = _watch(cursor, bucket)
            entered: Phase = watch
            if isinstance(watch, Watching):
                entered = Mending(watch, cursor)
                if listed is not None:
                    entered = _compared(state, entered, dict(listed), rules)
            yield "enter", state._replace(phase=entered)
        case Mending():
            yield from _mend(state, phase, rules)


def _take(state: State, watch: Watching, rules: Rules) -> Iterator[tuple[str, State]]:
    bucket = state.bucket
    if watch.life != bucket.life:
        yield "the watch expires", state._replace(phase=Expired("recreated"))
        return
    waiting = sorted((r for r in bucket.records if revision_of(r) > watch.position), key=revision_of)
    if bucket.lost > max(watch.position, watch.initial):
        # Handed out is what came before the gap; to end at once is one of the things that may happen.
        yield "the watch expires", state._replace(phase=Expired("compacted"))
        return
    for size in range(1, len(waiting) + 1):
        batch = tuple(waiting[:size])
        position = revision_of(batch[-1])
        cursor = rules.advance(state.cursor, bucket.cursor(position))
        then = watch._replace(position=position)
        yield f"take {size}", state._replace(phase=Flushing(batch, cursor, Flush(), then))


def _flush(state: State, phase: Flushing, rules: Rules) -> Iterator[tuple[str, State]]:
    def went(**fields: bool) -> Flushing:
        return phase._replace(flush=replace(phase.flush, **fields))  # type: ignore[arg-type]

    step = rules.next_step(phase.flush)
    match step:
        case Step.APPLY:
            table = {update.key: update for update in state.table}
            table.update({update.key: update for update in phase.batch})
            done = tuple(table[key] for key in sorted(table) if table[key].entry is not None)
            yield "apply", state._replace(table=done, phase=went(applied=True))
        case Step.STORE:
            fold = state.held()
            for update in phase.batch:
                if (entry := update.entry) is not None:
                    fold[update.key] = entry
                else:
                    fold.pop(update.key, None)
            kept = tuple(fold[key] for key in sorted(fold))
            yield "store", state._replace(fold=kept, cursor=phase.cursor, phase=went(stored=True))
            if state.failures:
                after = phase if rules.batch_kept_on_failure else phase.then
                yield "store fails", state._replace(phase=after, failures=state.failures - 1)
        case Step.ANNOUNCE:
            yield "announce", state._replace(announced=phase.cursor, phase=went(announced=True))
        case _:
            yield "go on", state._replace(phase=phase.then)


def _compared(state: State, phase: Mending, live: Mapping[str, VersionToken], rules: Rules) -> Mending:
    found = rules.compare(versions_of(state.held()), live)
    wanted = () if phase.cursor.is_none else tuple(sorted(found.changed))
    return phase._replace(wanted=wanted, vanished=tuple(sorted(found.vanished)))


def _mend(state: State, phase: Mending, rules: Rules) -> Iterator[tuple[str, State]]:
    bucket = state.bucket
    if bucket.incarnation != state.cursor.incarnation:
        yield "made again meanwhile", state._replace(phase=Expired("recreated"))
        return
    if phase.wanted is None:
        yield "list", state._replace(phase=_compared(state, phase, versions_of(bucket.live()), rules))
        return
    if not rules.removals_first:
        for label, taken in _take(state, phase.watch, rules):
            if isinstance(taken.phase, Flushing) and isinstance(taken.phase.then, Watching):
                late = phase._replace(watch=taken.phase.then)
                yield label, taken._replace(phase=taken.phase._replace(then=late))
    at = phase.cursor if rules.repair_moves_cursor and not phase.cursor.is_none else state.cursor
    if phase.vanished:
        batch = tuple(removal(key) for key in phase.vanished)
        yield "remove", state._replace(phase=Flushing(batch, at, Flush(), phase._replace(vanished=())))
        return
    if phase.wanted:
        key, rest = phase.wanted[0], phase._replace(wanted=phase.wanted[1:])
        entry = bucket.live().get(key)
        if entry is not None:
            yield "fetch", state._replace(phase=Flushing((put_of(entry),), at, Flush(), rest))
        else:
            yield "fetch none", state._replace(phase=Flushing((removal(key),), at, Flush(), rest))
        return
    if phase.cursor.is_none:
        yield "follow", state._replace(phase=phase.watch)
    else:
        yield "follow", state._replace(phase=Flushing((), phase.cursor, Flush(), phase.watch))


# What has to hold.


def broken(state: State) -> str | None:
    """What is wrong with the state, None if nothing is."""
    bucket = state.bucket
    stored, announced = state.cursor, state.announced
    if stored.incarnation == bucket.incarnation:
        for name, values in (("fold", state.held()), ("table", {u.key: u for u in state.table})):
            wrong = _behind(state, values)
            if wrong is not None:
                return f"the cursor {stored} names {wrong}, and the {name} has it otherwise"
    if announced.incarnation == stored.incarnation and announced > stored:
        return f"{announced} was announced, {stored} is stored"
    if isinstance(state.phase, Watching) and not _has_more(state):
        live = {key: entry.value for key, entry in bucket.live().items()}
        if {entry.key: entry.value for entry in state.fold} != live:
            return "it waits for more, and its fold is not the bucket"
        if {update.key: update.value for update in state.table} != live:
            return "it waits for more, and its table is not the bucket"
    return None


def _behind(state: State, values: Mapping[str, KvEntry | KvUpdate]) -> str | None:
    """A key that is not as its last write left it, though that lies before the cursor; or is of another life.

    A key that was written again after the cursor may be at any of its values before: the watch will bring the last.
    """
    bucket, cursor = state.bucket, state.cursor
    for key in state.keys:
        held = values.get(key)
        if held is not None and not held.value.startswith(b"%d:" % bucket.life):
            return f"{key}, of another life"
        last = next((update for update in reversed(bucket.log) if update.key == key), None)
        if last is None or revision_of(last) > (cursor.revision or 0):
            continue
        if (None if held is None else held.value) != (last.value or None):
            return f"{key} at {last.version}"
    return None


def _has_more(state: State) -> bool:
    assert isinstance(state.phase, Watching)
    return any(True for _ in _take(state, state.phase, Rules()))


class Found(NamedTuple):
    """What the search came to: how many states there are, and the shortest way to a broken one."""

    states: int
    wrong: str | None = None
    way: tuple[str, ...] = ()


_TROUBLE = ("put", "delete", "sweep", "make again", "crash", "store fails")


def search(start: State, rules: Rules) -> Found:
    """Look at every state that can be reached, nearest first; from each the follower has to come to rest by itself."""
    came: dict[State, tuple[State, str] | None] = {start: None}
    before: dict[State, list[State]] = {}
    at_rest: list[State] = []
    queue = deque([start])
    while queue:
        state = queue.popleft()
        wrong = broken(state)
        if wrong is not None:
            return Found(len(came), wrong, _way(came, state))
        if isinstance(state.phase, Watching) and not _has_more(state):
            at_rest.append(state)
        for label, following in moves(state, rules):
            if not label.startswith(_TROUBLE):
                before.setdefault(following, []).append(state)
            if following not in came:
                came[following] = (state, label)
                queue.append(following)
    calm = set(at_rest)
    while at_rest:
        for state in before.get(at_rest.pop(), ()):
            if state not in calm:
                calm.add(state)
                at_rest.append(state)
    restless = next((state for state in came if state not in calm), None)
    if restless is not None:
        return Found(len(came), "it never comes to rest", _way(came, restless))
    return Found(len(came))


def _way(came: Mapping[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    way: list[str] = []
    while (back := came[state]) is not None:
        state, label = back
        way.append(label)
    return tuple(reversed(way))
