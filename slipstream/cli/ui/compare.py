"""Which keys of two stores differ. Of a value only its digest is kept."""

from __future__ import annotations

from hashlib import blake2b

from slipstream.cli.commands.differences import Difference, differences
from slipstream.interfaces import KvReader


async def compare(left: KvReader, right: KvReader, prefix: str = "") -> list[Difference]:
    """By key, sorted; the values in them are digests. Raises: KvError."""
    return differences(await _digests(left, prefix), await _digests(right, prefix))


async def _digests(store: KvReader, prefix: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    async for entry in store.iter_scan(prefix):
        found[entry.key] = blake2b(entry.value, digest_size=16).digest()
    return found
