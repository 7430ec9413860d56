"""A handle on a bucket in memory."""

from __future__ import annotations

from slipstream.checks import drift
from slipstream.interfaces import KvReader, KvStore, KvWatcher, KvWriter
from slipstream.model import StoreStatus
from slipstream.stores.memory.reader import MemoryReader
from slipstream.stores.memory.watcher import MemoryWatcher
from slipstream.stores.memory.writer import MemoryWriter


class MemoryStore(MemoryReader, MemoryWriter, MemoryWatcher, KvStore):
    """A handle on one bucket; if that is deleted and made again, on the new one."""

    @property
    def name(self) -> str:
        return self._ref.name

    async def status(self) -> StoreStatus:
        stream = (await self._ref.open()).stream
        return StoreStatus(
            keys=stream.key_count,
            bytes=stream.bytes,
            first_revision=stream.first_seq,
            last_revision=stream.last_seq,
            incarnation=stream.incarnation,
            replicas=1,
            leader=None,
            config=stream.config,
            drift=drift(self._ref.wanted, stream.config),
        )

    def reader(self) -> KvReader:
        return MemoryReader(self._ref)

    def writer(self) -> KvWriter:
        return MemoryWriter(self._ref)

    def watcher(self) -> KvWatcher:
        return MemoryWatcher(self._ref)
