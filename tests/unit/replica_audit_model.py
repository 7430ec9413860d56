"""An audit beside a follower and a writer, every interleaving of a small case.

Here nothing tells the follower what was removed: records go without a trace, as by an administrator's purge, and the
audit alone can find them. Its four steps are those of `slipstream.replica.audit`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken
from slipstream.replica import difference
from slipstream.replica.difference import Findings

KEYS = ("a", "b")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The decisions; by default production's."""

    findings: Callable[..., Findings] = difference.findings
    corrections: Callable[..., list[KvUpdate]] = difference.corrections
    fold_listed_first: bool = True


class Audit(NamedTuple):
    """How far it has come: the fold and its cursor, the bucket, what was found and read."""

    held: tuple[KvEntry, ...] | None = None
    applied: int = 0
    live: tuple[KvEntry, ...] | None = None
    fetched: tuple[KvEntry, ...] | None = None


class State(NamedTuple):
    """`records` is the last of each key, `position` the follower's cursor; `audits` is how many may still begin."""

    last: int = 0
    records: tuple[KvUpdate, ...] = ()
    fold: tuple[KvEntry, ...] = ()
    position: int = 0
    audit: Audit | None = None
    writes: int = 3
    removals: int = 1
    audits: int = 1
    mistake: str | None = None


def moves(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    if state.writes:
        for key in KEYS:
            yield f"put {key}", _written(state, key, Operation.PUT)
            if key in _live(state.records):
                yield f"delete {key}", _written(state, key, Operation.DELETE)
    if state.removals:
        for record in state.records:
            kept = tuple(other for other in state.records if other is not record)
            yield f"remove {record.key}", state._replace(records=kept, removals=state.removals - 1)
    waiting = [record for record in state.records if (record.revision or 0) > state.position]
    if waiting:
        update = min(waiting, key=lambda record: record.revision or 0)
        yield "follow", state._replace(fold=_with(state.fold, [update]), position=update.revision or 0)
    elif state.position < state.last:
        yield "progress", state._replace(position=state.last)
    yield from _audit(state, rules)


def _audit(state: State, rules: Rules) -> Iterator[tuple[str, State]]:
    audit = state.audit
    live = tuple(_live(state.records).values())
    if audit is None:
        if state.audits:
            yield "audit", state._replace(audit=Audit(), audits=state.audits - 1)
    elif audit.held is None and (rules.fold_listed_first or audit.live is not None):
        yield "list the fold", state._replace(audit=audit._replace(held=state.fold, applied=state.position))
    elif audit.live is None:
        yield "list the bucket", state._replace(audit=audit._replace(live=live))
    elif audit.fetched is None:
        missed = set(_found(audit, rules).missed)
        fetched = tuple(entry for entry in live if entry.key in missed)
        yield "fetch", state._replace(audit=audit._replace(fetched=fetched))
    else:
        yield "correct", _corrected(state, audit, rules)


def _corrected(state: State, audit: Audit, rules: Rules) -> State:
    assert audit.held is not None
    assert audit.fetched is not None
    now = {entry.key: entry for entry in state.fold}
    updates = rules.corrections(
        _found(audit, rules),
        audit.fetched,
        before={entry.key: entry.version for entry in audit.held},
        now=now.get,
        applied=audit.applied,
    )
    live = _live(state.records)
    mistake = None
    for update in updates:
        ours, theirs = now.get(update.key), live.get(update.key)
        if update.entry is None and ours is not None and ours == theirs:
            mistake = f"{update.key} is removed and lives"
        if update.entry is not None and (update.revision or 0) > state.position:
            mistake = f"{update.key} is put before its turn"
    return state._replace(fold=_with(state.fold, updates), audit=None, mistake=mistake)


def _found(audit: Audit, rules: Rules) -> Findings:
    assert audit.held is not None
    assert audit.live is not None
    return rules.findings(_versions(audit.held), _versions(audit.live), applied=audit.applied)


def _versions(entries: tuple[KvEntry, ...]) -> dict[str, VersionToken]:
    return {entry.key: entry.version for entry in entries}


def _live(records: tuple[KvUpdate, ...]) -> dict[str, KvEntry]:
    return {record.key: entry for record in records if (entry := record.entry) is not None}


def _written(state: State, key: str, operation: Operation) -> State:
    revision = state.last + 1
    value = b"%d" % revision if operation is Operation.PUT else b""
    update = KvUpdate(operation=operation, key=key, value=value, version=VersionToken.from_u64(revision))
    kept = tuple(record for record in state.records if record.key != key)
    return state._replace(last=revision, records=(*kept, update), writes=state.writes - 1)


def _with(fold: tuple[KvEntry, ...], updates: list[KvUpdate]) -> tuple[KvEntry, ...]:
    entries = {entry.key: entry for entry in fold}
    for update in updates:
        if (entry := update.entry) is not None:
            entries[update.key] = entry
        else:
            entries.pop(update.key, None)
    return tuple(entries[key] for key in sorted(entries))


def unrepaired(state: State, rules: Rules) -> bool:
    """Left alone, with one more audit, the follower does not end with the state of the bucket."""
    state = state._replace(writes=0, removals=0, audits=0)
    for audits in (0, 1):
        state = state._replace(audits=audits)
        while (following := next(moves(state, rules), None)) is not None:
            state = following[1]
    return {entry.key: entry for entry in state.fold} != _live(state.records)


def search(start: State, rules: Rules) -> tuple[int, str | None]:
    """How many states there are, and what is wrong with the first one that is."""
    seen: Mapping[State, None] = {}
    queue, seen = deque([start]), {start: None}
    while queue:
        state = queue.popleft()
        if state.mistake is not None:
            return len(seen), state.mistake
        if unrepaired(state, rules):
            return len(seen), "an audit does not repair it"
        for _, following in moves(state, rules):
            if following not in seen:
                seen[following] = None
                queue.append(following)
    return len(seen), None
