"""Writing earlier values again, unless somebody else writes."""

from __future__ import annotations

from collections.abc import Mapping

from slipstream.interfaces import KvStore
from slipstream.model import KvEntry, VersionToken


async def restore(
    store: KvStore, now: Mapping[str, KvEntry], wanted: Mapping[str, bytes], *, single: bool
) -> VersionToken | None:
    """Write what differs from what is there now; the version of the last write, None if nothing differs.

    Raises: ConflictError if something is not as in `now`; UnsupportedError where several keys need a transaction.
    """
    if {key: entry.value for key, entry in now.items()} == wanted:
        return None
    if single and wanted:
        ((key, value),) = wanted.items()
        entry = now.get(key)
        return await (store.create(key, value) if entry is None else store.update(key, value, entry.version))
    async with store.transaction() as txn:
        for key, value in wanted.items():
            entry = now.get(key)
            if entry is None:
                txn.create(key, value)
            elif entry.value != value:
                txn.update(key, value, entry.version)
            else:
                txn.require(key, entry.version)
        for key in now.keys() - wanted.keys():
            txn.require(key, now[key].version)
            txn.delete(key)
    return max(txn.versions.values(), key=lambda version: version.as_u64() or 0)
