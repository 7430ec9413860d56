"""The keys of a store, live: listed once without their values, then followed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn

from slipstream.cli.ui.index import KeyIndex
from slipstream.errors import CursorExpiredError, NotConnectedError
from slipstream.interfaces import KvStore
from slipstream.model import KvUpdate, WatchCursor

LIMIT = 250_000
"""Keys that are listed: of more, nobody finds one by looking."""
_BATCH_SECONDS = 0.1
_RELIST_SECONDS = 0.5


class TooManyKeysError(Exception):
    """More keys than are listed."""


async def follow_keys(
    store: KvStore,
    prefix: str,
    *,
    listed: Callable[[KeyIndex], None],
    changed: Callable[[Sequence[KvUpdate]], None],
) -> NoReturn:
    """Keep an index of the keys; it ends by an error or by being cancelled.

    Args:
        listed: called with the index at first, and with another one when the store no longer tells what has changed
            since, or was made again.
        changed: called with every batch of changes after the index has taken it in.
    Raises: TooManyKeysError; StoreNotFoundError and what else ends a watch.
    """
    while True:
        status = await store.status()
        if not prefix and status.keys > LIMIT:
            raise TooManyKeysError(f"{status.keys:,} keys are more than the {LIMIT:,} that are listed: give a --prefix")
        # The cursor is taken before they are listed: what the watch tells again changes nothing.
        cursor = WatchCursor(revision=status.last_revision, incarnation=status.incarnation)
        index = KeyIndex(await store.keys(prefix))
        try:
            async with store.watch(prefix, cursor=cursor if status.last_revision else None) as watch:
                listed(index)
                async for batch in watch.batches(max_wait=_BATCH_SECONDS):
                    index.apply(batch)
                    if len(index) > LIMIT:
                        raise TooManyKeysError(f"more than {LIMIT:,} keys have come: give a --prefix")
                    changed(batch)
        except CursorExpiredError:
            # A pause, so that a store that drops all it gets at once is not listed again and again.
            await asyncio.sleep(_RELIST_SECONDS)
        else:
            raise NotConnectedError(store=store.name, message="the watch has ended")
