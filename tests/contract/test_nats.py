"""The contract, on a NATS server, through either lane."""

import pytest
from pydantic import SecretStr

from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.testing.contract import NewConnection, StoreContract

# A bucket that was deleted is noticed by missed heartbeats, a quiet cursor moves with them: often, to wait less.
HEARTBEAT = 0.5


class TestDataLane(StoreContract):
    @pytest.fixture
    def new_connection(self, nats_url: str) -> NewConnection:
        return lambda *, op_timeout: NatsConnection(
            NatsConnectionConfig(url=SecretStr(nats_url), op_timeout=op_timeout, heartbeat=HEARTBEAT)
        )


class TestSlowLane(StoreContract):
    @pytest.fixture
    def new_connection(self, nats_url: str) -> NewConnection:
        return lambda *, op_timeout: NatsConnection(
            NatsConnectionConfig(url=SecretStr(nats_url), op_timeout=op_timeout, heartbeat=HEARTBEAT, lane="slow")
        )
