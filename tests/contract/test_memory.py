"""The contract, on memory."""

import secrets

import pytest

from slipstream.stores.memory import MemoryConnection
from slipstream.testing.contract import NewConnection, StoreContract


class TestMemory(StoreContract):
    @pytest.fixture
    def new_connection(self) -> NewConnection:
        name = secrets.token_hex(8)
        return lambda *, op_timeout: MemoryConnection(name, op_timeout=op_timeout)
