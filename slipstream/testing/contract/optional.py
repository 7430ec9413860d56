"""What a backend may lack: it says so in `capabilities`, and refuses before anything is sent."""

from __future__ import annotations

import pytest

from slipstream.errors import UnsupportedError
from slipstream.interfaces import Connection, KvStore, Transaction
from slipstream.testing.contract.base import BackendContract


class OptionalContract(BackendContract):
    """Transactions and fencing."""

    async def test_a_transaction_commits_or_is_refused_at_once(self, connection: Connection, store: KvStore) -> None:
        if connection.capabilities.transactions:
            async with store.transaction() as txn:
                txn.put("a", b"1")
                txn.put("b", b"2")
            assert await store.keys() == ["a", "b"]
        else:
            with pytest.raises(UnsupportedError):
                store.transaction()
            assert (await store.status()).last_revision == 0

    async def test_atomically_commits_or_is_refused_before_the_function_runs(
        self, connection: Connection, store: KvStore
    ) -> None:
        calls: list[str] = []

        async def write(txn: Transaction) -> str:
            calls.append("called")
            txn.put("k", b"value")
            return "returned"

        if connection.capabilities.transactions:
            assert await store.atomically(write) == "returned"
            assert await store.keys() == ["k"]
        else:
            with pytest.raises(UnsupportedError):
                await store.atomically(write)
            assert calls == []
            assert (await store.status()).last_revision == 0

    async def test_a_fenced_writer_writes_or_is_refused_at_once(self, connection: Connection, store: KvStore) -> None:
        version = await store.put("fence", b"1")
        if connection.capabilities.fencing:
            await store.fenced("fence", version).put("k", b"value")
            assert await store.keys() == ["fence", "k"]
        else:
            with pytest.raises(UnsupportedError):
                store.fenced("fence", version)

    async def test_the_core_of_every_backend_is_there(self, connection: Connection) -> None:
        capabilities = connection.capabilities
        assert capabilities.streaming_watch
        assert capabilities.prefix_watch
        assert capabilities.purge
        assert capabilities.cas
        assert capabilities.max_value_size >= 0
        assert not capabilities.global_ordering
