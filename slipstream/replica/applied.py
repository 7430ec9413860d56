"""`watch_applied`: follow a bucket with a function of one's own, and know how far that has come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from slipstream.interfaces import KvStore
from slipstream.model import KvUpdate, WatchCursor
from slipstream.replica.apply import Applier, Apply, OnApplied, Parse
from slipstream.replica.batch import BatchConfig
from slipstream.replica.follow import Follower
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore

T = TypeVar("T")
_DEFAULT_BATCH = BatchConfig()


@overload
async def watch_applied(
    store: KvStore,
    prefix: str | Iterable[str] | WatchScope = "",
    *,
    apply: Apply[KvUpdate],
    parse: None = None,
    snapshot: SnapshotStore | None = None,
    cursor: WatchCursor | None = None,
    batch: BatchConfig = ...,
    on_applied: OnApplied | None = None,
    stop: asyncio.Event | None = None,
) -> WatchCursor: ...


@overload
async def watch_applied(
    store: KvStore,
    prefix: str | Iterable[str] | WatchScope = "",
    *,
    apply: Apply[T],
    parse: Parse[T],
    snapshot: SnapshotStore | None = None,
    cursor: WatchCursor | None = None,
    batch: BatchConfig = ...,
    on_applied: OnApplied | None = None,
    stop: asyncio.Event | None = None,
) -> WatchCursor: ...


async def watch_applied(
    store: KvStore,
    prefix: str | Iterable[str] | WatchScope = "",
    *,
    apply: Apply[Any],
    parse: Parse[Any] | None = None,
    snapshot: SnapshotStore | None = None,
    cursor: WatchCursor | None = None,
    batch: BatchConfig = _DEFAULT_BATCH,
    on_applied: OnApplied | None = None,
    stop: asyncio.Event | None = None,
) -> WatchCursor:
    """Apply every change of the keys, batch by batch, and move the cursor only then; the cursor at the end.

    A cursor C that was saved or announced means that `apply` has returned for every update up to C. One flush is
    `apply(items)`, then the snapshot takes batch and cursor in one step, then `on_applied(cursor)`. So a batch may be
    applied again after a crash, and none is left out. An atomic commit is within one batch. What is cancelled was
    not announced; set `stop` to end with a flush of what has arrived.

    Where the cursor has expired and there is a snapshot, the keys of the snapshot that are no more come as a DELETE of
    unknown version, before any PUT that follows, then what has changed. Without one nobody knows what vanished:
    CursorExpiredError.

    State of the caller's that outlives the process begins by being made equal to the snapshot: a batch that was applied
    and not stored comes again only as far as its keys are still there.

    Args:
        prefix: as `watch` takes it, or a `WatchScope`.
        apply: gets 1 to `batch.max_items` items in revision order (of a large commit more); may be async. What it
            raises ends the watch; the cursor stays before its batch.
        parse: makes an item of an update; None drops it, and the cursor moves on all the same. Without it items are
            the updates. The snapshot takes every update, dropped or not.
        snapshot: an open one, of this bucket and these prefixes alone; it stays open. One that fails is tried again
            with the same batch, 16 times in a row with pauses up to a second.
        cursor: where to begin; None is the cursor of the snapshot, else the whole state.
        on_applied: told the cursor after each flush that moved it; may be async. An update of unknown version never
            does; progress of the server in a quiet prefix does.
        stop: ends the watch. None: it goes on until it fails or is cancelled.
    Raises: CursorExpiredError without a snapshot; StoreNotFoundError when the bucket is gone, and not made again at
        once; SnapshotError; NotConnectedError; OperationTimeoutError and WatchError, after 16 attempts in a row once
        it has been followed; InvalidKeyError for a prefix; what `apply`, `parse` and `on_applied` raise.
    """
    stop = asyncio.Event() if stop is None else stop
    if cursor is None:
        cursor = WatchCursor.none() if snapshot is None else snapshot.cursor
    applier = Applier(
        apply=apply,
        parse=_as_it_is if parse is None else parse,
        snapshot=snapshot,
        cursor=cursor,
        stop=stop,
        on_applied=on_applied,
    )
    follower = Follower(store, WatchScope.of(prefix), applier, snapshot=snapshot, batch=batch, stop=stop)
    await follower.run()
    return applier.cursor


def _as_it_is(update: KvUpdate) -> KvUpdate:
    return update
