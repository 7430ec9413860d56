"""Reads on NATS: single records by direct get or from the leader, many by a scan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from slipstream.channel import ChannelClosed
from slipstream.errors import CursorExpiredError, OperationFailedError
from slipstream.interfaces import KvReader
from slipstream.keys import check_key, check_prefix
from slipstream.model import KvEntry, KvUpdate, Operation, VersionToken, WatchCursor
from slipstream.stores.nats.api import StoredMessage
from slipstream.stores.nats.bucket import Bucket, Pauses, deadline
from slipstream.stores.nats.decode import make_update
from slipstream.stores.nats.feed import Feed
from slipstream.stores.nats.opening import FeedOptions
from slipstream.stores.nats.pipeline import pipelined

_WINDOW = 64
_TAIL_READS = 8
"""After so many failed proofs a scan asks for the list of keys instead: writers are quicker than the questions."""
_MAX_OWN_WRITES = 10_000


class NatsReader(KvReader):
    """The reading role on one bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def get(self, key: str, *, min_version: VersionToken | None = None) -> KvEntry | None:
        check_key(key, store=self._bucket.name)
        revision = _revision(self._bucket.name, key, min_version)
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
        return sorted(await self._scan(prefix, headers_only=True))

    async def scan(self, prefix: str = "") -> list[KvEntry]:
        found = await self._scan(prefix, headers_only=False)
        return [entry for _, update in sorted(found.items()) if (entry := update.entry) is not None]

    async def iter_scan(self, prefix: str = "") -> AsyncIterator[KvEntry]:
        check_prefix(prefix, store=self._bucket.name)
        feed = Feed(self._bucket, self._options(prefix, purpose="scan"))
        await feed.open()
        try:
            while True:
                try:
                    async with deadline(self._bucket.op_timeout, store=self._bucket.name):
                        update = await feed.next()
                except ChannelClosed:
                    return
                if (entry := update.entry) is not None:
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
            return await self._drain(Feed(self._bucket, options))

    async def revision(self, key: str, version: VersionToken) -> KvUpdate | None:
        check_key(key, store=self._bucket.name)
        sequence = _revision(self._bucket.name, key, version)
        if not sequence:
            return None
        message = await self._bucket.read(lambda: self._bucket.api.message(self._bucket.stream, sequence), key=key)
        if message is None or message.subject != self._bucket.subject(key):
            return None
        return self._update(message)

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
        return None if message is None else bucket.entry(message)

    async def _last(self, key: str) -> StoredMessage | None:
        bucket = self._bucket
        subject = bucket.subject(key)
        if bucket.reads == "leader" or not bucket.direct or len(bucket.own_writes) > _MAX_OWN_WRITES:
            return await bucket.api.last_at_leader(bucket.stream, subject)
        message = await bucket.api.last_direct(bucket.stream, subject)
        own = bucket.own_writes.get(key)
        if own is not None and (message is None or message.sequence < own):
            return await bucket.api.last_at_leader(bucket.stream, subject)
        return message

    def _update(self, message: StoredMessage) -> KvUpdate:
        return make_update(
            key=self._bucket.key(message.subject),
            headers=message.headers,
            data=message.data,
            version=VersionToken.from_u64(message.sequence),
            created=message.created,
        )

    # Scans.

    def _options(self, prefix: str, *, purpose: str, headers_only: bool = False) -> FeedOptions:
        return FeedOptions(
            purpose=purpose,
            filters=[self._bucket.filter(prefix)],
            accepts=lambda key: key.startswith(prefix),
            cursor=WatchCursor.none(),
            headers_only=headers_only,
            ends=True,
        )

    async def _scan(self, prefix: str, *, headers_only: bool) -> dict[str, KvUpdate]:
        """The last update of every key that lives, by key. With headers only, values are left empty."""
        records = await self.last_updates(prefix, headers_only=headers_only)
        return {key: update for key, update in records.items() if update.operation is Operation.PUT}

    async def last_updates(self, prefix: str, *, headers_only: bool) -> dict[str, KvUpdate]:
        """The last update of every key with a record, tombstones included, by key."""
        check_prefix(prefix, store=self._bucket.name)
        async with deadline(self._bucket.op_timeout, store=self._bucket.name):
            while True:
                options = self._options(prefix, purpose="scan", headers_only=headers_only)
                options.max_tail_reads = _TAIL_READS
                feed = Feed(self._bucket, options)
                try:
                    updates = await self._drain(feed)
                except CursorExpiredError as error:
                    if error.reason == "compacted":
                        continue  # the connection went and retention went on: begin again
                    raise
                folded = {update.key: update for update in updates}
                if not feed.complete:
                    await self._add_missing(prefix, folded)
                return folded

    async def _drain(self, feed: Feed) -> list[KvUpdate]:
        updates: list[KvUpdate] = []
        try:
            await feed.open()
            while True:
                updates.append(await feed.next())
        except ChannelClosed:
            return updates
        finally:
            await feed.aclose()

    async def _add_missing(self, prefix: str, found: dict[str, KvUpdate]) -> None:
        """Complete a scan by the server's list of keys, where ever new writes keep the tail from being empty.

        A key that lives throughout is in the list, which is of one moment; what the scan has not seen is read singly.
        """
        listed = await self._list_keys(prefix)
        missing = [key for key in listed if key not in found]

        async def last(key: str) -> StoredMessage | None:
            return await self._bucket.read(
                lambda: self._bucket.api.last_at_leader(self._bucket.stream, self._bucket.subject(key)), key=key
            )

        for message in await pipelined(missing, last, window=_WINDOW):
            if message is not None:
                update = self._update(message)
                found[update.key] = update

    async def _list_keys(self, prefix: str) -> list[str]:
        bucket = self._bucket
        while True:
            keys: list[str] = []
            total: int | None = None
            while True:
                offset = len(keys)
                info = await bucket.read(
                    lambda offset=offset: bucket.api.stream_info(  # type: ignore[misc]
                        bucket.stream, subjects_filter=bucket.filter(prefix), offset=offset
                    )
                )
                keys.extend(bucket.key(subject) for subject in info.subjects)
                if total is not None and info.subjects_total < total:
                    break  # keys were removed between two pages: what came after them has moved
                total = info.subjects_total
                if not info.subjects or len(keys) >= total:
                    return [key for key in keys if key.startswith(prefix)]
            await asyncio.sleep(0)


def _revision(store: str, key: str, version: VersionToken | None) -> int | None:
    """The revision in a token, None for none or an unknown one. Raises: OperationFailedError where it holds none."""
    if version is None or version.is_unknown:
        return None
    revision = version.as_u64()
    if revision is None:
        raise OperationFailedError(store=store, key=key, message=f"version {version} is no revision of this bucket")
    return revision
