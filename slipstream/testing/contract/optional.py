"""What a backend may lack: it says so in `capabilities`, and refuses before anything is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from slipstream.errors import UnsupportedError
from slipstream.interfaces import Connection, KvStore, Transaction
from slipstream.model import VersionToken
from slipstream.testing.contract.base import BackendContract

TtlWrite = Callable[[KvStore, float | timedelta], Awaitable[VersionToken]]

TTL_WRITES: dict[str, TtlWrite] = {
    "put": lambda store, ttl: store.put("k", b"value", ttl=ttl),
    "create": lambda store, ttl: store.create("new", b"value", ttl=ttl),
    "update": lambda store, ttl: store.update("k", b"value", VersionToken.from_u64(1), ttl=ttl),
    "touch": lambda store, ttl: store.touch("k", VersionToken.from_u64(1), ttl=ttl),
}
"""Each works on a bucket whose only record is `k`, at revision 1."""


class OptionalContract(BackendContract):
    """Per-key ttl, transactions and fencing."""

    @pytest.mark.parametrize("write", list(TTL_WRITES.values()), ids=list(TTL_WRITES))
    @pytest.mark.parametrize("ttl", [5, 60.5, timedelta(minutes=1)])
    async def test_a_ttl_is_kept_or_refused_and_nothing_is_written(
        self, connection: Connection, store: KvStore, write: TtlWrite, ttl: float | timedelta
    ) -> None:
        await store.put("k", b"value")
        if connection.capabilities.ttl:
            assert await write(store, ttl) == VersionToken.from_u64(2)
        else:
            with pytest.raises(UnsupportedError) as caught:
                await write(store, ttl)
            assert not caught.value.outcome_unknown
            assert (await store.status()).last_revision == 1

    @pytest.mark.parametrize("write", list(TTL_WRITES.values()), ids=list(TTL_WRITES))
    @pytest.mark.parametrize("ttl", [0.5, 0, -1, timedelta(milliseconds=999)])
    async def test_a_ttl_under_one_second_is_refused_and_nothing_is_written(
        self, connection: Connection, store: KvStore, write: TtlWrite, ttl: float | timedelta
    ) -> None:
        await store.put("k", b"value")
        with pytest.raises(ValueError if connection.capabilities.ttl else (ValueError, UnsupportedError)):
            await write(store, ttl)
        assert (await store.status()).last_revision == 1

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
