"""A connection, observed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from slipstream.interfaces import Connection, KvStore, Reads
from slipstream.model import ConnectionCapabilities, ConnectionEvent, StoreConfig
from slipstream.otel.operations import Telemetry
from slipstream.otel.store import observed


class InstrumentedConnection(Connection):
    def __init__(self, connection: Connection, telemetry: Telemetry) -> None:
        self._connection = connection
        self._telemetry = telemetry
        self._operations = telemetry.of_bucket(None)

    async def connect(self) -> None:
        with self._operations.begin("connect"):
            await self._connection.connect()

    async def shutdown(self) -> None:
        with self._operations.begin("shutdown"):
            await self._connection.shutdown()

    def is_healthy(self) -> bool:
        return self._connection.is_healthy()

    def events(self) -> AsyncIterator[ConnectionEvent]:
        return self._connection.events()

    async def store(self, config: str | StoreConfig, *, reads: Reads | None = None) -> KvStore:
        name = config.name if isinstance(config, StoreConfig) else config
        with self._telemetry.of_bucket(name).begin("store"):
            store = await self._connection.store(config, reads=reads)
        return observed(store, self._telemetry)

    async def stores(self) -> list[str]:
        with self._operations.begin("stores"):
            return await self._connection.stores()

    async def delete_store(self, name: str) -> None:
        with self._telemetry.of_bucket(name).begin("delete_store"):
            await self._connection.delete_store(name)

    @property
    def capabilities(self) -> ConnectionCapabilities:
        return self._connection.capabilities

    async def __aenter__(self) -> Self:
        with self._operations.begin("connect"):
            await self._connection.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._operations.begin("shutdown"):
            await self._connection.__aexit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"instrument_connection({self._connection!r})"


def instrument_connection(
    connection: Connection,
    *,
    keys: bool = False,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Connection:
    """The same connection, whose own operations and all of whose stores are instrumented; see `instrument`.

    It has what the interface `Connection` has: what a backend adds to that is found on the connection itself.
    """
    return InstrumentedConnection(
        connection, Telemetry(keys=keys, tracer_provider=tracer_provider, meter_provider=meter_provider)
    )
