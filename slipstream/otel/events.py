"""What becomes of a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from opentelemetry.metrics import MeterProvider

from slipstream.interfaces import Connection
from slipstream.model import ConnectionEvent, ConnectionState
from slipstream.otel.instruments import instruments
from slipstream.otel.names import CONNECTION, STATE, ConnectionMetrics
from slipstream.otel.sampling import Observation, Point

_log = logging.getLogger(__name__)


class ConnectionObservation:
    """`async with observe_connection(connection):` counts what becomes of it, until the block ends."""

    def __init__(self, events: AsyncIterator[ConnectionEvent], name: str, provider: MeterProvider | None) -> None:
        self._events = events
        self._name = name
        self._instruments = instruments(provider)
        self._state: ConnectionState | None = None
        self._task: asyncio.Task[None] | None = None
        self._observation: Observation | None = None

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("an observation is entered once: make another one")
        self._observation = self._instruments.connections.add(self, _count, {CONNECTION: self._name})
        self._task = asyncio.create_task(self._follow(), name="slipstream-otel-connection")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None  # entered
        assert self._observation is not None
        try:
            await asyncio.sleep(0)  # what has been told already is counted, CLOSED above all: the task is due now
        finally:
            self._observation.close()
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def state(self) -> ConnectionState | None:
        """What it was last heard to be in, None before anything was heard."""
        return self._state

    async def _follow(self) -> None:
        try:
            async for event in self._events:
                self._state = event.state
                self._add(event.state.name.lower(), 1)
                if event.missed:
                    self._add("missed", event.missed)
        except Exception:  # noqa: BLE001 - whatever it is: the program goes on without being observed
            _log.exception("connection %s: its events are not observed any more", self._name)

    def _add(self, state: str, count: int) -> None:
        self._instruments.connection_events.add(count, {CONNECTION: self._name, STATE: state})


def _count(observation: ConnectionObservation) -> list[Point]:
    if observation.state is None:
        return []
    return [
        Point(ConnectionMetrics.COUNT, int(state is observation.state), {STATE: state.name.lower()})
        for state in ConnectionState
    ]


def observe_connection(
    connection: Connection, *, name: str = "default", meter_provider: MeterProvider | None = None
) -> ConnectionObservation:
    """Count the events of the connection, and in which state it is: `async with observe_connection(conn):`.

    Args:
        name: tells connections of one process apart; those with one name are counted together.
        meter_provider: None: that of the process.
    """
    return ConnectionObservation(connection.events(), name, meter_provider)
