"""Every decision of `slipstream.resume`, in every situation that a small bucket and a follower can get into.

The model has a stream (a history of one, as JetStream keeps it), what removes records from it, a consumer and a
follower that asks the decisions what to do. All reachable states within the bounds are visited, and in each:

    whoever is level with the server and was told nothing holds what the server holds;
    whoever goes on after a decision holds no key that has gone and of which nothing more will come;
    whoever is told that something is missing, misses something, or could not know better.

A mutation of each guard has to break one of the two: without that, the guard would be for nothing, or the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from slipstream import resume
from slipstream.model import WatchCursor
from slipstream.resume import BucketView, Retention, Seen

_BIRTH = datetime(2026, 1, 1, tzinfo=UTC)
_LIFE = timedelta(seconds=1)
_TICK = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What is under test; a mutation replaces one of them."""

    cursor_expiry: Callable[..., str | None] = resume.cursor_expiry
    resume_expiry: Callable[..., str | None] = resume.resume_expiry
    gap_is_benign: Callable[..., bool] = resume.gap_is_benign
    looked: Callable[[Seen, BucketView, datetime], Seen] = Seen.looked
    received: Callable[[Seen, int], Seen] = Seen.received


KEEPS = Retention()
EVICTS = Retention(evicts=True)
MARKS = Retention(marker_seconds=2)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far to go, and what may happen.

    Attributes:
        purges: tombstones are removed through the API, at the front of the stream.
        holes: records go from behind the front, too, and while they wait to be delivered, where nothing shows it.
    """

    retention: Retention = KEEPS
    keys: str = "ab"
    writes: int = 4
    ticks: int = 0
    breaks: int = 1
    lives: int = 1
    evictions: int = 0
    rollbacks: int = 0
    purges: int = 0
    restarts: bool = False
    holes: bool = False


class Record(NamedTuple):
    revision: int
    key: str
    live: bool
    born: int


class World(NamedTuple):
    """One situation.

    Attributes:
        life, last, records: the stream; `undo`: its records before the last write, which a crash may take back.
        gone: the highest revision that was removed; `lost`: the highest that no newer record of its key replaced.
        fold: what the follower holds: key, life and revision; `orphans`: what of it was removed since without a word.
        position, of: up to where it has received, and in which life.
        seen: what it knows of the bucket; None for one that only has its cursor.
        known: the same without any mutation.
        state: `live`, `away` (the connection is down), `stopped` (the process is), or `told`.
    """

    life: int = 0
    last: int = 0
    records: tuple[Record, ...] = ()
    gone: int = 0
    lost: int = 0
    clock: int = 0
    undo: tuple[Record, ...] | None = None
    fold: frozenset[tuple[str, int, int]] = frozenset()
    orphans: frozenset[tuple[str, int, int]] = frozenset()
    position: int = 0
    of: int = 0
    seen: Seen | None = None
    known: Seen | None = None
    state: str = "live"
    writes: int = 0
    breaks: int = 0
    evictions: int = 0
    rollbacks: int = 0
    purges: int = 0
    new_keys: bool = False  # since the last look

    @property
    def view(self) -> BucketView:
        return BucketView(
            first_revision=self.records[0].revision if self.records else self.last + 1,
            last_revision=self.last,
            keys=len(self.records),
            incarnation=_BIRTH + self.life * _LIFE,
        )

    @property
    def now(self) -> datetime:
        return _BIRTH + self.clock * _TICK

    @property
    def cursor(self) -> WatchCursor:
        return WatchCursor(revision=self.position, incarnation=_BIRTH + self.of * _LIFE)

    @property
    def next(self) -> Record | None:
        return next((record for record in self.records if record.revision > self.position), None)

    @property
    def content(self) -> frozenset[tuple[str, int, int]]:
        return frozenset((record.key, self.life, record.revision) for record in self.records if record.live)


class Violated(AssertionError):
    """What was promised does not hold at the end of these steps."""


class Model:
    """The steps that are possible in a world. Every one is a name and the world after it."""

    def __init__(self, bounds: Bounds, decisions: Decisions | None = None) -> None:
        self._bounds = bounds
        self._decide = decisions if decisions is not None else Decisions()

    def begin(self) -> World:
        """An empty bucket, and a follower that watches it from the beginning."""
        world = World()
        seen = Seen.first(world.view, world.now, level_at=world.now)
        return world._replace(seen=seen, known=seen)

    def steps(self, world: World) -> Iterator[tuple[str, World]]:
        if world.state == "told":
            return
        yield from self._server(world)
        yield from self._follower(world)

    # What happens to the bucket.

    def _server(self, world: World) -> Iterator[tuple[str, World]]:
        bounds = self._bounds
        # Revisions that are given out anew before the follower looked cannot be told from those that were lost.
        unseen_loss = world.state != "live" and world.life == world.of and world.position > world.last
        if world.writes < bounds.writes and not unseen_loss:
            for key in bounds.keys:
                held = any(record.key == key for record in world.records)
                # What is left of the count of keys when one comes for one that goes.
                if held or bounds.holes or not world.purges:
                    yield f"put {key}", _written(world, key, live=True)
                if any(record.key == key and record.live for record in world.records):
                    yield f"delete {key}", _written(world, key, live=False)
        if world.evictions < bounds.evictions and world.records:
            oldest = world.records[0]
            yield f"evict {oldest.key}", _removed(world, oldest)._replace(evictions=world.evictions + 1)
        yield from self._purges(world)
        behind = world.state == "live" and world.position < world.last
        if world.clock < bounds.ticks and (bounds.holes or not behind):
            yield "tick", self._ticked(world)
        if world.life + 1 < bounds.lives:
            again = world._replace(life=world.life + 1, last=0, records=(), undo=None, gone=0, lost=0)
            yield "make again", again._replace(state="away" if world.state == "live" else world.state)
        if world.rollbacks < bounds.rollbacks and world.undo is not None and not _brings_back_skipped(world):
            rolled = world._replace(last=world.last - 1, records=world.undo, undo=None, rollbacks=world.rollbacks + 1)
            yield "roll back", rolled._replace(state="away" if world.state == "live" else world.state)

    def _purges(self, world: World) -> Iterator[tuple[str, World]]:
        bounds = self._bounds
        if world.purges == bounds.purges or not (bounds.holes or (world.state != "live" and not world.new_keys)):
            return
        for record in world.records if bounds.holes else world.records[:1]:
            if not record.live:
                yield f"purge {record.key}", _removed(world, record)._replace(purges=world.purges + 1)

    def _ticked(self, world: World) -> World:
        """Time passes; marks whose time is up go, behind the front only where holes are allowed."""
        world = world._replace(clock=world.clock + 1)
        life = self._bounds.retention.marker_seconds
        for record in world.records:
            over = not record.live and life is not None and world.clock - record.born >= life
            if over:
                world = _removed(world, record)
            elif not self._bounds.holes:
                break
        return world

    # What the follower does.

    def _follower(self, world: World) -> Iterator[tuple[str, World]]:
        if world.state == "live":
            if world.position < world.last:
                yield "deliver", self._delivered(world)
            time_counts = self._bounds.retention.marker_seconds is not None
            if time_counts and world.known is not None and world.known.looked_at != world.now:
                yield "look", self._looked(world)
            if world.breaks < self._bounds.breaks:
                yield "disconnect", world._replace(state="away", breaks=world.breaks + 1)
                if self._bounds.restarts:
                    yield "stop", world._replace(state="stopped", seen=None, breaks=world.breaks + 1)
        elif world.state == "away":
            yield "resume", self._resumed(world)
        else:
            yield "start", self._started(world)

    def _delivered(self, world: World) -> World:
        record = world.next
        revision = world.last if record is None else record.revision
        if record is None or revision != world.position + 1:
            # Something between was skipped, or the server says that nothing more comes up to its end.
            benign = self._decide.gap_is_benign(
                position=world.position,
                first_revision=world.view.first_revision,
                retention=self._bounds.retention,
            )
            if not benign:
                passed = world.view.first_revision > world.position + 1
                return self._told(world, justified=self._bounds.retention.evicts and passed)
            _check_nothing_missing(world)
        fold = world.fold
        if record is not None:
            fold = frozenset(each for each in fold if each[0] != record.key)
            fold |= {(record.key, world.life, record.revision)} if record.live else set()
        return self._received(world._replace(fold=fold, position=revision))

    def _resumed(self, world: World) -> World:
        assert world.seen is not None
        assert world.known is not None
        now, retention = world.view, self._bounds.retention
        reason = self._decide.resume_expiry(
            world.cursor, seen=world.seen.view, now=now, retention=retention, away=world.seen.away(world.now)
        )
        if reason is None:
            return self._goes_on(world)
        overdue = retention.marker_seconds is not None and world.known.away(world.now) >= retention.marker_seconds
        cannot_know = retention.evicts or overdue or now.keys < world.known.view.keys
        missed = world.gone > world.position if cannot_know else world.lost > world.position
        return self._told(world, justified=missed or self._another_stream(world))

    def _started(self, world: World) -> World:
        now = world.view
        reason = self._decide.cursor_expiry(
            world.cursor,
            first_revision=now.first_revision,
            last_revision=now.last_revision,
            incarnation=now.incarnation,
        )
        if reason is None:
            seen = Seen.first(now, world.now, level_at=None)
            return self._goes_on(world._replace(seen=seen, known=seen))
        return self._told(world, justified=world.gone > world.position or self._another_stream(world))

    def _another_stream(self, world: World) -> bool:
        return world.life != world.of or world.position > world.last

    def _goes_on(self, world: World) -> World:
        _check_nothing_missing(world)
        return self._looked(world)._replace(state="live")

    def _looked(self, world: World) -> World:
        assert world.seen is not None
        assert world.known is not None
        seen = self._decide.looked(world.seen, world.view, world.now)
        known = world.known.looked(world.view, world.now)
        return self._received(world._replace(seen=seen, known=known, new_keys=False))

    def _received(self, world: World) -> World:
        if world.seen is None or world.known is None:
            return world
        seen = self._decide.received(world.seen, world.position)
        return world._replace(seen=seen, known=world.known.received(world.position))

    def _told(self, world: World, *, justified: bool) -> World:
        if not justified:
            raise Violated("told that something is missing, where all is there")
        return world._replace(state="told")


def _written(world: World, key: str, *, live: bool) -> World:
    before = next((record for record in world.records if record.key == key), None)
    kept = tuple(record for record in world.records if record is not before)
    return world._replace(
        last=world.last + 1,
        records=(*kept, Record(world.last + 1, key, live, world.clock)),
        undo=world.records,
        gone=max(world.gone, before.revision if before is not None else 0),
        writes=world.writes + 1,
        new_keys=world.new_keys or before is None,
    )


def _brings_back_skipped(world: World) -> bool:
    """A crash takes the last write back, and what it had replaced, which the follower never saw, is there again."""
    again = set(world.undo or ()) - set(world.records)
    return any(record.revision <= world.position < world.last for record in again)


def _removed(world: World, record: Record) -> World:
    held = (record.key, world.life, record.revision)
    return world._replace(
        records=tuple(each for each in world.records if each is not record),
        undo=None,
        orphans=world.orphans | ({held} & world.fold),
        gone=max(world.gone, record.revision),
        lost=max(world.lost, record.revision),
    )


def _check_level(world: World) -> None:
    if world.state == "live" and world.position >= world.last and world.fold - world.orphans != world.content:
        raise Violated(f"level and told nothing, but holds {_shown(world.fold)}, not {_shown(world.content)}")


def _check_nothing_missing(world: World) -> None:
    coming = {record.key for record in world.records if record.revision > world.position}
    stale = {held for held in world.fold - world.orphans - world.content if held[0] not in coming}
    if stale:
        raise Violated(f"goes on and was told nothing, but {_shown(stale)} is gone for good")


def _shown(entries: Iterable[tuple[str, int, int]]) -> str:
    return ", ".join(f"{key} of {life}:{revision}" for key, life, revision in sorted(entries)) or "nothing"


def explore(bounds: Bounds, decisions: Decisions | None = None) -> int:
    """Visit every situation within the bounds; how many there are. Raises: Violated, with the shortest way there."""
    model = Model(bounds, decisions)
    start = model.begin()
    ways: dict[World, tuple[World, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        world = queue.popleft()
        try:
            _check_level(world)
            for name, after in model.steps(world):
                if after not in ways:
                    ways[after] = (world, name)
                    queue.append(after)
        except Violated as error:
            raise Violated(f"{error}, after: {', '.join(_way(ways, world))}") from None
    return len(ways)


def _way(ways: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    names = []
    while (step := ways[world]) is not None:
        world, name = step
        names.append(name)
    return names[::-1]


SCENES = {
    "overwriting": Bounds(writes=4, breaks=2, restarts=True),
    "eviction": Bounds(retention=EVICTS, writes=4, breaks=2, evictions=2, restarts=True),
    "marks that time out": Bounds(retention=MARKS, writes=4, ticks=3, breaks=2),
    "marks that time out under a saved cursor": Bounds(retention=MARKS, writes=3, ticks=3, breaks=2, restarts=True),
    "purged tombstones": Bounds(writes=4, breaks=2, purges=2, restarts=True),
    "purged tombstones and many breaks": Bounds(writes=5, breaks=3, purges=1),
    "a bucket made again": Bounds(writes=4, breaks=2, lives=2, restarts=True),
    "a lost tail": Bounds(writes=4, breaks=2, rollbacks=2, restarts=True),
}


@pytest.mark.parametrize("bounds", SCENES.values(), ids=SCENES)
def test_whoever_is_told_nothing_misses_nothing(bounds: Bounds) -> None:
    assert explore(bounds) > 1000


def _cursor_expiry(change: Callable[..., dict[str, Any]]) -> Callable[..., str | None]:
    """`cursor_expiry` with what it is asked about changed, so that one of its guards is blind."""

    def mutated(cursor: WatchCursor, **bucket: Any) -> str | None:
        return resume.cursor_expiry(cursor, **bucket | change(cursor, **bucket))

    return mutated


def _resume_expiry(change: Callable[..., dict[str, Any]]) -> Callable[..., str | None]:
    def mutated(cursor: WatchCursor, **asked: Any) -> str | None:
        return resume.resume_expiry(cursor, **asked | change(**asked))

    return mutated


def _gap_is_benign(change: Callable[..., dict[str, Any]]) -> Callable[..., bool]:
    def mutated(**asked: Any) -> bool:
        return resume.gap_is_benign(**asked | change(**asked))

    return mutated


def _view(field: str, move: Callable[[int], int]) -> Callable[..., dict[str, Any]]:
    return lambda *, now, **_: {"now": replace(now, **{field: move(getattr(now, field))})}


def _retention(**changes: Any) -> Callable[..., dict[str, Any]]:
    return lambda *, retention, **_: {"retention": replace(retention, **changes)}


BLIND = {
    "cursor: another life": (
        "a bucket made again",
        Decisions(cursor_expiry=_cursor_expiry(lambda *_, **__: {"incarnation": None})),
    ),
    "cursor: beyond the end": (
        "a lost tail",
        Decisions(cursor_expiry=_cursor_expiry(lambda cursor, **_: {"last_revision": cursor.revision})),
    ),
    "cursor: beyond the end by one": (
        "a lost tail",
        Decisions(cursor_expiry=_cursor_expiry(lambda _, last_revision, **__: {"last_revision": last_revision + 1})),
    ),
    "cursor: before the front": (
        "purged tombstones",
        Decisions(cursor_expiry=_cursor_expiry(lambda *_, **__: {"first_revision": 0})),
    ),
    "cursor: before the front by one": (
        "purged tombstones",
        Decisions(cursor_expiry=_cursor_expiry(lambda _, first_revision, **__: {"first_revision": first_revision - 1})),
    ),
    "resume: another life": (
        "a bucket made again",
        Decisions(resume_expiry=_resume_expiry(lambda *, now, **_: {"now": replace(now, incarnation=None)})),
    ),
    "resume: beyond the end": (
        "a lost tail",
        Decisions(resume_expiry=_resume_expiry(_view("last_revision", lambda last: last + 1))),
    ),
    "resume: before the front": (
        "eviction",
        Decisions(resume_expiry=_resume_expiry(_view("first_revision", lambda _: 0))),
    ),
    "resume: before the front by one": (
        "eviction",
        Decisions(resume_expiry=_resume_expiry(_view("first_revision", lambda first: first - 1))),
    ),
    "resume: limits evict": (
        "eviction",
        Decisions(resume_expiry=_resume_expiry(_retention(evicts=False))),
    ),
    "resume: a key vanished": (
        "purged tombstones",
        Decisions(resume_expiry=_resume_expiry(lambda *, seen, **_: {"seen": replace(seen, keys=0)})),
    ),
    "resume: marks have gone": (
        "marks that time out",
        Decisions(resume_expiry=_resume_expiry(_retention(marker_seconds=None))),
    ),
    "resume: marks have gone just now": (
        "marks that time out",
        Decisions(resume_expiry=_resume_expiry(lambda *, away, **_: {"away": away - 1})),
    ),
    "level: by a mere look": (
        "marks that time out",
        Decisions(received=lambda seen, _: seen.received(seen.last.last_revision)),
    ),
    "level: one revision short": (
        "marks that time out",
        Decisions(received=lambda seen, revision: seen.received(revision + 1)),
    ),
    "level: as many keys as then are enough": (
        "purged tombstones",
        Decisions(looked=lambda seen, view, at: replace(seen.looked(view, at), keys=seen.keys)),
    ),
    "gap: limits evict": (
        "eviction",
        Decisions(gap_is_benign=_gap_is_benign(_retention(evicts=False))),
    ),
    "gap: the front has passed": (
        "eviction",
        Decisions(gap_is_benign=_gap_is_benign(lambda **_: {"first_revision": 0})),
    ),
    "gap: the front has passed by one": (
        "eviction",
        Decisions(gap_is_benign=_gap_is_benign(lambda *, first_revision, **_: {"first_revision": first_revision - 1})),
    ),
}

JUMPY = {
    "cursor: at the end": (
        "overwriting",
        Decisions(cursor_expiry=_cursor_expiry(lambda _, last_revision, **__: {"last_revision": last_revision - 1})),
    ),
    "cursor: at the front": (
        "overwriting",
        Decisions(cursor_expiry=_cursor_expiry(lambda _, first_revision, **__: {"first_revision": first_revision + 1})),
    ),
    "resume: at the end": (
        "overwriting",
        Decisions(resume_expiry=_resume_expiry(_view("last_revision", lambda last: last - 1))),
    ),
    "resume: only overwritten": (
        "overwriting",
        Decisions(resume_expiry=_resume_expiry(_retention(evicts=True))),
    ),
    "resume: as many keys as before": (
        "overwriting",
        Decisions(resume_expiry=_resume_expiry(_view("keys", lambda keys: keys - 1))),
    ),
    "resume: marks are still there": (
        "marks that time out",
        Decisions(resume_expiry=_resume_expiry(lambda *, away, **_: {"away": away + 1})),
    ),
    "level: never": (
        "marks that time out",
        Decisions(received=lambda seen, _: seen),
    ),
    "level: keys that it knows are gone count on": (
        "purged tombstones and many breaks",
        Decisions(received=lambda seen, revision: replace(seen.received(revision), keys=seen.keys)),
    ),
    "gap: the front is before the position": (
        "eviction",
        Decisions(gap_is_benign=_gap_is_benign(lambda *, first_revision, **_: {"first_revision": first_revision + 2})),
    ),
    "gap: only overwritten": (
        "overwriting",
        Decisions(gap_is_benign=_gap_is_benign(_retention(evicts=True))),
    ),
}


@pytest.mark.parametrize(("scene", "decisions"), BLIND.values(), ids=BLIND)
def test_a_blind_guard_is_caught(scene: str, decisions: Decisions) -> None:
    with pytest.raises(Violated, match="told nothing, but"):
        explore(SCENES[scene], decisions)


@pytest.mark.parametrize(("scene", "decisions"), JUMPY.values(), ids=JUMPY)
def test_a_jumpy_guard_is_caught(scene: str, decisions: Decisions) -> None:
    with pytest.raises(Violated, match="where all is there"):
        explore(SCENES[scene], decisions)


BEYOND = {
    "a tombstone is purged behind the front": Bounds(writes=3, purges=1, holes=True),
    "a mark times out behind the front or undelivered": Bounds(retention=MARKS, writes=3, ticks=2, holes=True),
}


@pytest.mark.parametrize("bounds", BEYOND.values(), ids=BEYOND)
def test_what_the_decisions_cannot_see(bounds: Bounds) -> None:
    """Nothing in what they are asked shows it: whoever has to know audits against the list of keys (`Replica` does)."""
    with pytest.raises(Violated, match="told nothing, but"):
        explore(bounds)
