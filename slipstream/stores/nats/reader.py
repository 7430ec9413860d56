"""Reads on NATS: single records by direct get or from the leader, many by a scan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable

from slipstream.channel import ChannelClosed
from slipstream.checks import to_revision
from slipstream.interfaces import KvReader
from slipstream.keys import check_key, check_prefix
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken, WatchCursor, entries_of, expiring
from slipstream.stores.nats.api import StoredMessage
from slipstream.stores.nats.bucket import Bucket, Pauses, deadline
from slipstream.stores.nats.bulk import read_many
from slipstream.stores.nats.feed import Feed
from slipstream.stores.nats.opening import FeedOptions
from slipstream.stores.nats.pipeline import pipelined
from slipstream.stores.nats.scan import drain, last_updates, scan_options

_log = logging.getLogger(__name__)
_WINDOW = 64
_REMOVAL_SECONDS = 0.5
"""Twice what a server takes at most to remove what has expired."""
_MAX_OWN_WRITES = 10_000


class NatsReader(KvReader):
    """The reading role on one bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def get(self, key: str, *, min_version: VersionToken | None = None) -> KvEntry | None:
        check_key(key, store=self._bucket.name)
        revision = None if min_version is None else to_revision(min_version, store=self._bucket.name, key=key)
        entry = await self._bucket.read(lambda: self._entry(key, revision), key=key)
        return entry if entry is not None and entry.value else None

    async def entry(self, key: str) -> KvEntry | None:
        check_key(key, store=self._bucket.name)
        return await self._bucket.read(lambda: self._entry(key, None), key=key)

    async def get_many(self, keys: Iterable[str]) -> dict[str, KvEntry]:
        bucket = self._bucket
        wanted = list(dict.fromkeys(check_key(key, store=bucket.name) for key in keys))
        singly = wanted
        found: dict[str, KvEntry] = {}
        async with deadline(bucket.op_timeout, store=bucket.name):
            if len(wanted) > 1 and bucket.batched_gets and self._may_read_anywhere():
                singly = await read_many(bucket, wanted, found)

            async def one(key: str) -> KvEntry | None:
                return await bucket.read(lambda: self._entry(key, None), key=key)

            for entry in await pipelined(singly, one, window=_WINDOW):
                if entry is not None:
                    found[entry.key] = entry
        return {key: entry for key in wanted if (entry := found.get(key)) is not None and entry.value}

    async def keys(self, prefix: str = "") -> list[str]:
        return [
            update.key for update in await self._living(await last_updates(self._bucket, prefix, headers_only=True))
        ]

    async def scan(self, prefix: str = "") -> list[KvEntry]:
        return entries_of(await self._living(await last_updates(self._bucket, prefix)))

    async def iter_scan(self, prefix: str = "") -> AsyncIterator[KvEntry]:
        check_prefix(prefix, store=self._bucket.name)
        feed = Feed(self._bucket, scan_options(self._bucket, prefix))
        await feed.open()
        try:
            while True:
                try:
                    async with deadline(self._bucket.op_timeout, store=self._bucket.name):
                        update = await feed.next()
                except ChannelClosed:
                    return
                if (entry := update.entry) is not None and not await self._bucket.has_expired(update.expires):
                    yield entry
        finally:
            await feed.aclose()

    async def history(self, key: str) -> list[KvUpdate]:
        check_key(key, store=self._bucket.name)
        options = FeedOptions(
            purpose="history",
            filters=[self._bucket.subject(key)],
            accepts=None,
            cursor=WatchCursor.none(),
            every_message=True,
            ends=True,
        )
        async with deadline(self._bucket.op_timeout, store=self._bucket.name, key=key):
            updates, _ = await drain(self._bucket, options)
        return updates

    async def revision(self, key: str, version: VersionToken) -> KvUpdate | None:
        check_key(key, store=self._bucket.name)
        sequence = to_revision(version, store=self._bucket.name, key=key)
        if sequence == 0:
            return None  # the server takes 0 for no sequence at all
        bucket = self._bucket
        message = await bucket.read(
            lambda: bucket.at_leader(lambda: bucket.api.message(bucket.stream, sequence)), key=key
        )
        if message is None or message.subject != self._bucket.subject(key):
            return None
        return self._bucket.update(message)

    # Single records.

    async def _entry(self, key: str, min_revision: int | None) -> KvEntry | None:
        bucket = self._bucket
        message = await self._last(key)
        if min_revision is not None and (message is None or message.sequence < min_revision):
            # The key's own revision tells nothing of the bucket's: wait until the leader has come so far, ask it.
            pauses = Pauses()
            while (await bucket.api.stream_info(bucket.stream)).view.last_revision < min_revision:
                await pauses.pause()
            subject = bucket.subject(key)
            message = await bucket.at_leader(lambda: bucket.api.last_at_leader(bucket.stream, subject))
        if message is None or await self._is_gone(key, message):
            return None
        return bucket.entry(message)

    async def _is_gone(self, key: str, message: StoredMessage) -> bool:
        """Its ttl has ended. Waits a moment for the server to remove it: then a write at its version fails, too."""
        bucket = self._bucket
        if not await bucket.has_expired(message.expires):
            return False
        try:
            async with asyncio.timeout(_REMOVAL_SECONDS):
                pauses = Pauses()
                while True:
                    last = await bucket.api.last_at_leader(bucket.stream, bucket.subject(key))
                    if last is None or last.sequence != message.sequence:
                        break
                    await pauses.pause()
        except TimeoutError:
            _log.debug("%s of bucket %s has expired and is still there", key, bucket.name)
        return True

    def _may_read_anywhere(self) -> bool:
        """Whichever replica answers will do, or what it misses of this handle's own writes can be told."""
        bucket = self._bucket
        return bucket.reads != "leader" and bucket.direct and len(bucket.own_writes) <= _MAX_OWN_WRITES

    async def _last(self, key: str) -> StoredMessage | None:
        bucket = self._bucket
        subject = bucket.subject(key)

        async def at_leader() -> StoredMessage | None:
            return await bucket.at_leader(lambda: bucket.api.last_at_leader(bucket.written, subject))

        if not self._may_read_anywhere():
            return await at_leader()
        message = await bucket.api.last_direct(bucket.stream, subject)
        own = bucket.own_writes.get(key)
        if own is not None and (message is None or message.sequence < own):
            return await at_leader()
        return message

    async def _living(self, updates: dict[str, KvUpdate]) -> list[KvUpdate]:
        """Those that are not gone, in key order."""
        put = Operation.PUT
        living = [updates[key] for key in sorted(updates) if updates[key].operation is put]
        gone = {update.key for update in expiring(living) if await self._bucket.has_expired(update.expires)}
        return [update for update in living if update.key not in gone] if gone else living
