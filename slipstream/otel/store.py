"""A store, observed."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from slipstream.interfaces import KvReader, KvStore, KvWatcher, KvWriter
from slipstream.model import StoreStatus, VersionToken
from slipstream.otel.operations import Operations, Telemetry
from slipstream.otel.reader import InstrumentedReader
from slipstream.otel.watcher import InstrumentedWatcher
from slipstream.otel.writer import InstrumentedWriter


@runtime_checkable
class _ListsVersions(Protocol):
    """What a store may have beside its roles: a replica asks for it, so that its comparisons move no values."""

    async def versions(self, prefix: str = "") -> dict[str, VersionToken]: ...


class InstrumentedStore(InstrumentedReader, InstrumentedWriter, InstrumentedWatcher, KvStore):
    def __init__(self, store: KvStore, operations: Operations) -> None:
        InstrumentedReader.__init__(self, store, operations)
        InstrumentedWriter.__init__(self, store, operations)
        InstrumentedWatcher.__init__(self, store, operations)
        self._store = store

    @property
    def name(self) -> str:
        return self._store.name

    async def status(self) -> StoreStatus:
        with self._operations.begin("status"):
            return await self._store.status()

    def reader(self) -> KvReader:
        return InstrumentedReader(self._store.reader(), self._operations)

    def writer(self) -> KvWriter:
        return InstrumentedWriter(self._store.writer(), self._operations)

    def watcher(self) -> KvWatcher:
        return InstrumentedWatcher(self._store.watcher(), self._operations)

    def __repr__(self) -> str:
        return f"instrument({self._store!r})"


class ListingStore(InstrumentedStore):
    """Of a store that lists versions."""

    def __init__(self, store: KvStore, listing: _ListsVersions, operations: Operations) -> None:
        super().__init__(store, operations)
        self._listing = listing

    async def versions(self, prefix: str = "") -> dict[str, VersionToken]:
        """As of the store."""
        with self._operations.begin("versions", prefix=prefix):
            return await self._listing.versions(prefix)


def instrument(
    store: KvStore,
    *,
    keys: bool = False,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> KvStore:
    """The same store, with a span and a measurement of every operation, also on all handles that it hands out.

    What it does, raises and promises is what the store does. Values are never in a span or a metric, nor are messages
    of errors. Without an SDK nothing is recorded.

    Args:
        keys: keys and prefixes are attributes of spans (never of metrics); they may be personal data.
        tracer_provider, meter_provider: None: those of the process, also if they are set later.
    Cost: some microseconds for each operation with an SDK, most of them the SDK's; none for an update of a watch, but
        for `anext(watch)`, which is one call more.
    """
    return observed(store, Telemetry(keys=keys, tracer_provider=tracer_provider, meter_provider=meter_provider))


def observed(store: KvStore, telemetry: Telemetry) -> KvStore:
    """As `instrument`."""
    operations = telemetry.of_bucket(store.name)
    if isinstance(store, _ListsVersions):
        return ListingStore(store, store, operations)
    return InstrumentedStore(store, operations)
