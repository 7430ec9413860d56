"""What no backend may lack; what it may lack has a contract of its own: ttl, transactions, fencing."""

from __future__ import annotations

from slipstream.interfaces import Connection
from slipstream.testing.contract.base import BackendContract


class OptionalContract(BackendContract):
    """`capabilities`."""

    async def test_the_core_of_every_backend_is_there(self, connection: Connection) -> None:
        capabilities = connection.capabilities
        assert capabilities.streaming_watch
        assert capabilities.prefix_watch
        assert capabilities.purge
        assert capabilities.cas
        assert capabilities.max_value_size >= 0
        assert not capabilities.global_ordering
