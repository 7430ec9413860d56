"""The contract, through the wrapper: nothing is lost by it."""

import secrets

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from slipstream.otel import instrument_connection
from slipstream.stores.memory import MemoryConnection
from slipstream.testing.contract import NewConnection, StoreContract


class TestInstrumented(StoreContract):
    @pytest.fixture
    def new_connection(self) -> NewConnection:
        name = secrets.token_hex(8)
        traces = TracerProvider(shutdown_on_exit=False)
        meters = MeterProvider(shutdown_on_exit=False)
        return lambda *, op_timeout: instrument_connection(
            MemoryConnection(name, op_timeout=op_timeout), keys=True, tracer_provider=traces, meter_provider=meters
        )
