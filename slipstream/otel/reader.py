"""The reading role, observed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sized

from opentelemetry import context

from slipstream.interfaces import KvReader
from slipstream.model import KvEntry, KvUpdate, VersionToken
from slipstream.otel.operations import Operations


class InstrumentedReader(KvReader):
    def __init__(self, reader: KvReader, operations: Operations) -> None:
        self._reader = reader
        self._operations = operations

    async def get(self, key: str, *, min_version: VersionToken | None = None) -> KvEntry | None:
        with self._operations.begin("get", key=key):
            return await self._reader.get(key, min_version=min_version)

    async def entry(self, key: str) -> KvEntry | None:
        with self._operations.begin("entry", key=key):
            return await self._reader.entry(key)

    async def get_many(self, keys: Iterable[str]) -> dict[str, KvEntry]:
        wanted = keys if isinstance(keys, Sized) else list(keys)
        with self._operations.begin("get_many") as operation:
            operation.set_size(len(wanted))
            return await self._reader.get_many(wanted)

    async def keys(self, prefix: str = "") -> list[str]:
        with self._operations.begin("keys", prefix=prefix):
            return await self._reader.keys(prefix)

    async def scan(self, prefix: str = "") -> list[KvEntry]:
        with self._operations.begin("scan", prefix=prefix):
            return await self._reader.scan(prefix)

    def iter_scan(self, prefix: str = "") -> AsyncIterator[KvEntry]:
        """One operation from its first step to its end: the time that the caller takes between two steps is in it."""
        return self._iter_scan(self._reader.iter_scan(prefix), prefix)

    async def _iter_scan(self, entries: AsyncIterator[KvEntry], prefix: str) -> AsyncIterator[KvEntry]:
        with self._operations.begin("iter_scan", prefix=prefix).aside() as operation:
            try:
                while True:
                    token = operation.step()
                    try:
                        entry = await anext(entries, None)
                    finally:
                        context.detach(token)
                    if entry is None:
                        return
                    yield entry
            finally:
                if isinstance(entries, AsyncGenerator):
                    await entries.aclose()

    async def history(self, key: str) -> list[KvUpdate]:
        with self._operations.begin("history", key=key):
            return await self._reader.history(key)

    async def revision(self, key: str, version: VersionToken) -> KvUpdate | None:
        with self._operations.begin("revision", key=key):
            return await self._reader.revision(key, version)
