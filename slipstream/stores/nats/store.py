"""The store on NATS: the three roles on one bucket."""

from __future__ import annotations

from slipstream.interfaces import KvReader, KvStore, KvWatcher, KvWriter
from slipstream.model import StoreStatus, VersionToken
from slipstream.stores.nats.decode import time_from_ns
from slipstream.stores.nats.reader import NatsReader
from slipstream.stores.nats.scan import last_updates
from slipstream.stores.nats.stream_config import from_stream
from slipstream.stores.nats.watcher import NatsWatcher
from slipstream.stores.nats.writer import NatsWriter

_UNKNOWN_TIME = time_from_ns(0)


class NatsStore(NatsReader, NatsWriter, NatsWatcher, KvStore):
    """A handle on one bucket; made by `NatsConnection.store`."""

    @property
    def name(self) -> str:
        return self._bucket.name

    async def status(self) -> StoreStatus:
        bucket = self._bucket
        info = await bucket.read(lambda: bucket.api.stream_info(bucket.stream))
        incarnation = info.view.incarnation or _UNKNOWN_TIME
        assert incarnation is not None
        return StoreStatus(
            keys=info.view.keys,
            bytes=info.bytes,
            first_revision=info.view.first_revision,
            last_revision=info.view.last_revision,
            incarnation=incarnation,
            replicas=info.replicas,
            leader=info.leader,
            config=from_stream(info.config),
            drift=list(bucket.drift),
        )

    async def versions(self, prefix: str = "") -> dict[str, VersionToken]:
        """The versions of the keys that begin with `prefix`, by headers alone; completeness as `scan`.

        What a replica compares itself with.
        """
        found = await self._living(await last_updates(self._bucket, prefix, headers_only=True))
        return {update.key: update.version for update in found}

    def reader(self) -> KvReader:
        return NatsReader(self._bucket)

    def writer(self) -> KvWriter:
        return NatsWriter(self._bucket)

    def watcher(self) -> KvWatcher:
        return NatsWatcher(self._bucket)

    def __repr__(self) -> str:
        return f"NatsStore({self.name!r})"
