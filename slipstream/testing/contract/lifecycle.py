"""The life of a connection: connect, shutdown, and what both do to everything that hangs on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from slipstream.errors import KvError, NotConnectedError
from slipstream.interfaces import Connection, KvStore
from slipstream.model import ConnectionState, VersionToken
from slipstream.testing._waiting import LIMIT, bounded, collect, ticks
from slipstream.testing.contract.base import BackendContract, ConnectAgain, NewConnection


async def _iterate(store: KvStore) -> None:
    async for _ in store.iter_scan():
        pass


async def _enter_a_watch(store: KvStore) -> None:
    async with store.watch():
        pass


async def _outcome(write: Awaitable[object]) -> KvError | None:
    """The error that a write ended with, None if it was done."""
    try:
        await write
    except KvError as error:
        return error
    return None


StoreOperation = Callable[[KvStore], Awaitable[object]]

STORE_OPERATIONS: dict[str, StoreOperation] = {
    "get": lambda store: store.get("k"),
    "get min_version": lambda store: store.get("k", min_version=VersionToken.from_u64(1)),
    "entry": lambda store: store.entry("k"),
    "get_many": lambda store: store.get_many(["k", "other"]),
    "keys": lambda store: store.keys(),
    "scan": lambda store: store.scan("k"),
    "iter_scan": _iterate,
    "history": lambda store: store.history("k"),
    "revision": lambda store: store.revision("k", VersionToken.from_u64(1)),
    "put": lambda store: store.put("k", b"value"),
    "create": lambda store: store.create("k", b"value"),
    "update": lambda store: store.update("k", b"value", VersionToken.from_u64(1)),
    "delete": lambda store: store.delete("k"),
    "delete_with_version": lambda store: store.delete_with_version("k", VersionToken.from_u64(1)),
    "purge": lambda store: store.purge("k"),
    "purge expected": lambda store: store.purge("k", expected=VersionToken.from_u64(1)),
    "purge_deletes": lambda store: store.purge_deletes(),
    "watch": _enter_a_watch,
    "status": lambda store: store.status(),
}
"""Everything that talks to the server, but for put_many (its failures come as BulkWriteError)."""

ConnectionOperation = Callable[[Connection, str], Awaitable[object]]

CONNECTION_OPERATIONS: dict[str, ConnectionOperation] = {
    "store": lambda connection, bucket: connection.store(bucket),
    "stores": lambda connection, _: connection.stores(),
    "delete_store": lambda connection, bucket: connection.delete_store(bucket),
}


def each_connection_operation() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("operation", list(CONNECTION_OPERATIONS.values()), ids=list(CONNECTION_OPERATIONS))


class LifecycleContract(BackendContract):
    """`connect`, `shutdown`, `is_healthy`, `events` and `capabilities`."""

    async def test_a_connection_is_healthy_between_connect_and_shutdown(self, new_connection: NewConnection) -> None:
        connection = new_connection(op_timeout=LIMIT)
        assert not connection.is_healthy()
        await connection.connect()
        assert connection.is_healthy()
        await connection.shutdown()
        assert not connection.is_healthy()

    async def test_events_begin_with_connected_and_end_after_shutdown(self, new_connection: NewConnection) -> None:
        connection = new_connection(op_timeout=LIMIT)
        before = connection.events()
        await connection.connect()
        after = connection.events()
        async with bounded():
            for events in (before, after):
                assert (await anext(events)).state is ConnectionState.CONNECTED
            await connection.shutdown()
            for events in (before, after, connection.events()):
                assert [event.state async for event in events] == [ConnectionState.CLOSED]

    async def test_a_cancelled_wait_for_an_event_loses_none(self, connect_again: ConnectAgain) -> None:
        connection = await connect_again()
        events = connection.events()
        async with bounded():
            await anext(events)
            for turns in range(4):
                waiting = asyncio.ensure_future(anext(events))
                await ticks(turns)
                assert not waiting.done()
                waiting.cancel()
                await asyncio.wait({waiting})
            await connection.shutdown()
            assert (await anext(events)).state is ConnectionState.CLOSED

    async def test_shutdown_wakes_whoever_waits_for_an_event(self, connect_again: ConnectAgain) -> None:
        connection = await connect_again()

        async def follow() -> list[ConnectionState]:
            return [event.state async for event in connection.events()]

        async with bounded(), asyncio.TaskGroup() as group:
            followers = [group.create_task(follow()) for _ in range(3)]
            await ticks(20)
            await connection.shutdown()
        for follower in followers:
            assert follower.result() == [ConnectionState.CONNECTED, ConnectionState.CLOSED]

    async def test_before_connect_capabilities_are_not_known(self, new_connection: NewConnection) -> None:
        with pytest.raises(NotConnectedError):
            _ = new_connection(op_timeout=LIMIT).capabilities

    @each_connection_operation()
    async def test_before_connect_operations_are_refused(
        self, new_connection: NewConnection, bucket: str, operation: ConnectionOperation
    ) -> None:
        async with bounded():
            with pytest.raises(NotConnectedError):
                await operation(new_connection(op_timeout=LIMIT), bucket)

    async def test_connect_can_be_repeated(self, connection: Connection, store: KvStore) -> None:
        await connection.connect()
        await connection.connect()
        assert (await store.put("k", b"value")).as_u64() == 1

    async def test_many_tasks_may_connect_at_once(self, new_connection: NewConnection, bucket: str) -> None:
        connection = new_connection(op_timeout=LIMIT)
        try:
            async with bounded():
                await asyncio.gather(*(connection.connect() for _ in range(10)))
            assert connection.is_healthy()
            await (await connection.store(bucket)).put("k", b"value")
        finally:
            await connection.shutdown()

    async def test_the_block_of_a_connection_connects_and_shuts_down(
        self, new_connection: NewConnection, bucket: str
    ) -> None:
        async with new_connection(op_timeout=LIMIT) as connection:
            assert connection.is_healthy()
            store = await connection.store(bucket)
            await store.put("k", b"value")
        assert not connection.is_healthy()
        with pytest.raises(NotConnectedError):
            await store.get("k")

    async def test_an_exception_in_the_block_of_a_connection_comes_out_as_it_is(
        self, new_connection: NewConnection
    ) -> None:
        connection = new_connection(op_timeout=LIMIT)
        with pytest.raises(LookupError, match="from the block"):
            async with connection:
                raise LookupError("from the block")
        assert not connection.is_healthy()

    async def test_shutdown_can_be_repeated_also_at_once(self, connect_again: ConnectAgain) -> None:
        connection = await connect_again()
        async with bounded():
            await asyncio.gather(*(connection.shutdown() for _ in range(5)))
            await connection.shutdown()
        assert not connection.is_healthy()

    async def test_a_connection_that_was_never_connected_can_be_shut_down(self, new_connection: NewConnection) -> None:
        connection = new_connection(op_timeout=LIMIT)
        await connection.shutdown()
        with pytest.raises(NotConnectedError):
            await connection.connect()

    async def test_connect_after_shutdown_is_refused(self, connect_again: ConnectAgain) -> None:
        connection = await connect_again()
        await connection.shutdown()
        with pytest.raises(NotConnectedError):
            await connection.connect()
        assert not connection.is_healthy()

    async def test_after_shutdown_every_operation_of_a_store_is_refused(
        self, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        await store.put("k", b"value")
        other = await connect_again()
        theirs = await other.store(store.name)
        await other.shutdown()
        for name, operation in STORE_OPERATIONS.items():
            async with bounded():
                with pytest.raises(NotConnectedError) as caught:
                    await operation(theirs)
            assert caught.value.retryable, name
            assert not caught.value.outcome_unknown, name
        assert (await store.status()).last_revision == 1

    @each_connection_operation()
    async def test_after_shutdown_every_operation_of_the_connection_is_refused(
        self, store: KvStore, connect_again: ConnectAgain, operation: ConnectionOperation
    ) -> None:
        other = await connect_again()
        await other.shutdown()
        async with bounded():
            with pytest.raises(NotConnectedError):
                await operation(other, store.name)

    async def test_shutdown_ends_a_watch_that_waits(self, store: KvStore, connect_again: ConnectAgain) -> None:
        await store.put("k", b"value")
        other = await connect_again()
        async with (await other.store(store.name)).watch() as watch:
            await collect(watch, 1)

            async def wait() -> None:
                with pytest.raises(NotConnectedError):
                    await anext(watch)

            async with bounded(), asyncio.TaskGroup() as group:
                waiting = group.create_task(wait())
                await ticks(20)
                assert not waiting.done()
                await other.shutdown()
            with pytest.raises(NotConnectedError):
                await collect(watch, 1)

    async def test_shutdown_fails_an_operation_that_waits(self, store: KvStore, connect_again: ConnectAgain) -> None:
        version = await store.put("k", b"value")
        other = await connect_again(op_timeout=10 * LIMIT)
        theirs = await other.store(store.name)

        async def wait() -> None:
            with pytest.raises(NotConnectedError):
                await theirs.get("k", min_version=VersionToken.from_u64((version.as_u64() or 0) + 1))

        async with bounded(), asyncio.TaskGroup() as group:
            waiting = group.create_task(wait())
            await ticks(20)
            assert not waiting.done()
            await other.shutdown()

    async def test_writes_under_way_at_shutdown_are_done_or_fail_with_not_connected(
        self, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        other = await connect_again()
        theirs = await other.store(store.name)
        keys = [f"k.{number}" for number in range(100)]
        async with bounded(), asyncio.TaskGroup() as group:
            writes = {key: group.create_task(_outcome(theirs.put(key, b"value"))) for key in keys}
            await ticks(2)
            await other.shutdown()
        stored = set(await store.keys())
        for key, write in writes.items():
            error = write.result()
            assert error is None or isinstance(error, NotConnectedError)
            if error is None or not error.outcome_unknown:
                assert (key in stored) == (error is None)

    async def test_the_shutdown_of_one_connection_does_not_touch_another(
        self, store: KvStore, connect_again: ConnectAgain
    ) -> None:
        other = await connect_again()
        await (await other.store(store.name)).put("k", b"value")
        async with store.watch() as watch:
            await other.shutdown()
            await store.put("after", b"value")
            assert [update.key for update in await collect(watch, 2)] == ["k", "after"]
