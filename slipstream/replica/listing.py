"""Keys with their versions and without their values: of the live bucket, and of a fold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol, cast, runtime_checkable

from slipstream.interfaces import KvStore
from slipstream.model import KvEntry, VersionToken
from slipstream.replica.scope import WatchScope
from slipstream.replica.snapshot import SnapshotStore

_ENTRIES_PER_TURN = 1000


@runtime_checkable
class ListsVersions(Protocol):
    """What the store of a backend may have beside its roles: then a listing moves no values."""

    async def versions(self, prefix: str = "") -> dict[str, VersionToken]:
        """The versions of the keys that begin with `prefix`, in no order. Completeness as `scan`."""


async def live_versions(store: KvStore, scope: WatchScope) -> dict[str, VersionToken]:
    """Every key of the scope that lives throughout the call, at a version that was current during it.

    A backend that cannot list versions is scanned, values and all.
    """
    found: dict[str, VersionToken] = {}
    for prefix in scope.prefixes:
        if isinstance(store, ListsVersions):
            found.update(await store.versions(prefix))
        else:
            async with aclosing(cast("AsyncGenerator[KvEntry, None]", store.iter_scan(prefix))) as entries:
                async for entry in entries:
                    found[entry.key] = entry.version
    return found


async def held_versions(snapshot: SnapshotStore, scope: WatchScope) -> dict[str, VersionToken]:
    """The versions of the fold's entries; nothing may be applied meanwhile."""
    held: dict[str, VersionToken] = {}
    for prefix in scope.prefixes:
        for entry in snapshot.range(prefix):
            held[entry.key] = entry.version
            if len(held) % _ENTRIES_PER_TURN == 0:
                await asyncio.sleep(0)  # a large fold: let others run
    return held
