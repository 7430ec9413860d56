"""Reads on NATS: single records by direct get or from the leader, many by a scan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable

from slipstream.channel import ChannelClosed
from slipstream.checks import to_revision
from slipstream.interfaces import KvReader
from slipstream.keys import check_key, check_prefix
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken, WatchCursor
from slipstream.stores.nats.api import StoredMessage
from slipstream.stores.nats.bucket import Bucket, Pauses, deadline
from slipstream.stores.nats.decode import expiry_of
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
        wanted = list(dict.fromkeys(check_key(key, store=self._bucket.name) for key in keys))

        async def one(key: str) -> KvEntry | None:
            return await self._bucket.read(lambda: self._entry(key, None), key=key)

        async with deadline(self._bucket.op_timeout, store=self._bucket.name):
            entries = await pipelined(wanted, one, window=_WINDOW)
        return {entry.key: entry for entry in entries if entry is not None and entry.value}

    async def keys(self, prefix: str = "") -> list[str]:
        return sorted(await self._living(await last_updates(self._bucket, prefix, headers_only=True)))

    async def scan(self, prefix: str = "") -> list[KvEntry]:
        found = await self._living(await last_updates(self._bucket, prefix))
        return [entry for _, update in sorted(found.items()) if (entry := update.entry) is not None]

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
            accepts=lambda _: True,
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
        message = await self._bucket.read(lambda: self._bucket.api.message(self._bucket.stream, sequence), key=key)
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
            message = await bucket.api.last_at_leader(bucket.stream, bucket.subject(key))
        if message is None or await self._is_gone(key, message):
            return None
        return bucket.entry(message)

    async def _is_gone(self, key: str, message: StoredMessage) -> bool:
        """Its ttl has ended. Waits a moment for the server to remove it: then a write at its version fails, too."""
        bucket = self._bucket
        if not await bucket.has_expired(expiry_of(message.headers, message.created)):
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

    async def _last(self, key: str) -> StoredMessage | None:
        bucket = self._bucket
        subject = bucket.subject(key)
        if bucket.reads == "leader" or not bucket.direct or len(bucket.own_writes) > _MAX_OWN_WRITES:
            return await bucket.api.last_at_leader(bucket.written, subject)
        message = await bucket.api.last_direct(bucket.stream, subject)
        own = bucket.own_writes.get(key)
        if own is not None and (message is None or message.sequence < own):
            return await bucket.api.last_at_leader(bucket.written, subject)
        return message

    async def _living(self, updates: dict[str, KvUpdate]) -> dict[str, KvUpdate]:
        return {
            key: update
            for key, update in updates.items()
            if update.operation is Operation.PUT and not await self._bucket.has_expired(update.expires)
        }
