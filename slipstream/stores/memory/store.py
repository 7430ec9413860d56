"""A handle on a bucket in memory."""

from __future__ import annotations

from slipstream.checks import drift
from slipstream.interfaces import KvReader, KvStore, KvWatcher, KvWriter
from slipstream.keys import check_prefix
from slipstream.model import StoreStatus, VersionToken
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

    async def versions(self, prefix: str = "") -> dict[str, VersionToken]:
        """The versions of the keys that begin with `prefix`: what a replica compares itself with."""
        check_prefix(prefix, store=self._ref.name)
        return {record.key: record.version for record in (await self._ref.open()).stream.live(prefix)}

    def reader(self) -> KvReader:
        return MemoryReader(self._ref)

    def writer(self) -> KvWriter:
        return MemoryWriter(self._ref)

    def watcher(self) -> KvWatcher:
        return MemoryWatcher(self._ref)
