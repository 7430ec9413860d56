"""Replicas, terms and connections."""

from __future__ import annotations

import asyncio

import pytest

import slipstream
from slipstream import LeaderElection, Lease, Lock, Replica
from slipstream.errors import FencedError
from slipstream.interfaces import KvStore
from slipstream.model import ConnectionState, WatchCursor
from slipstream.otel import observe_connection, observe_replica, observe_term
from slipstream.stores.memory import MemoryConnection
from slipstream.testing._waiting import bounded, eventually
from slipstream.testing.server import NatsServer
from tests.otel.recorded import Recorded


class TestReplica:
    async def test_its_condition_is_reported(self, store: KvStore, recorded: Recorded) -> None:
        versions = await store.put_many({"a": b"1", "b": b"22"})
        async with bounded(), Replica(store) as replica:
            with observe_replica(replica, name="copy", meter_provider=recorded.meters):
                await replica.ready()
                await replica.wait_for(versions[-1])
                found = {
                    name.removeprefix("slipstream.replica."): points[0].value
                    for name, points in recorded.collect().items()
                    if name.startswith("slipstream.replica.")
                }
                ((attributes, _),) = recorded.points("slipstream.replica.keys")
                assert attributes == {
                    "db.system.name": "slipstream",
                    "db.namespace": store.name,
                    "slipstream.replica.name": "copy",
                }
                assert found.pop("staleness") >= 0
                assert found == {
                    "cursor": 2,
                    "keys": 2,
                    "applied.updates": 2,
                    "applied.size": 5,
                    "pending": 0,
                    "repairs": 0,
                    "rebuilds": 0,
                    "audit.done": 0,
                    "audit.failed": 0,
                    "audit.removed": 0,
                    "audit.restored": 0,
                    "snapshot.failures": 0,
                }
                await replica.audit()
                assert recorded.value("slipstream.replica.audit.done") == 1
        assert recorded.value("slipstream.replica.keys") is None
        assert recorded.value("slipstream.replica.audit.done") == 1

    async def test_of_two_with_one_name_the_worst_is_told(
        self, store: KvStore, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await store.put_many({"a": b"1", "b": b"2"})
        async with bounded(), Replica(store) as one, Replica(store, "a") as two:
            with (
                observe_replica(one, meter_provider=recorded.meters),
                observe_replica(two, meter_provider=recorded.meters),
            ):
                await one.ready()
                await two.ready()
                monkeypatch.setattr(Replica, "cursor", property(lambda it: WatchCursor.from_u64(5 + (it is one))))
                monkeypatch.setattr(Replica, "staleness", property(lambda it: 3.0 + (it is one)))
                assert recorded.value("slipstream.replica.cursor") == 5
                assert recorded.value("slipstream.replica.staleness") == 4.0
                assert recorded.value("slipstream.replica.keys") == 3
                monkeypatch.undo()

    async def test_before_it_is_level_there_is_no_staleness(self, store: KvStore, recorded: Recorded) -> None:
        replica = Replica(store)
        with observe_replica(replica, meter_provider=recorded.meters):
            assert recorded.value("slipstream.replica.keys", slipstream_replica_name=store.name) == 0
            assert recorded.value("slipstream.replica.staleness") is None
            assert recorded.value("slipstream.replica.cursor") is None


class TestTerm:
    async def test_each_is_counted_and_held_while_it_lasts(self, store: KvStore, recorded: Recorded) -> None:
        election = LeaderElection(store, "job", ttl=5)
        async with bounded():
            for terms in (1, 2):
                async with election.campaign() as term:
                    with observe_term(term, name=election.name, meter_provider=recorded.meters):
                        assert recorded.value("slipstream.lease.terms", slipstream_lease_name="job") == terms
                        assert recorded.value("slipstream.lease.held", slipstream_lease_name="job") == 1
                assert recorded.value("slipstream.lease.held") == 0
        assert recorded.points("slipstream.lease.lost") == []

    async def test_one_that_was_taken_away_is_lost(self, store: KvStore, recorded: Recorded) -> None:
        async def hold() -> None:
            async with Lease(store, "job", ttl=1) as lease:
                with observe_term(lease, name="job", meter_provider=recorded.meters):
                    for key in await store.keys("job.queue."):
                        await store.delete(key)
                    await asyncio.Event().wait()

        async with bounded():
            with pytest.raises(FencedError):
                await hold()
        assert recorded.value("slipstream.lease.lost", slipstream_lease_reason="removed") == 1
        assert recorded.value("slipstream.lease.held") == 0

    async def test_one_that_was_resigned_elsewhere_is_lost(self, store: KvStore, recorded: Recorded) -> None:
        election = LeaderElection(store, "job", ttl=5)
        resigning: list[asyncio.Task[None]] = []

        async def lead() -> None:
            async with election.campaign() as term:
                with observe_term(term, name="job", meter_provider=recorded.meters):
                    resigning.append(asyncio.create_task(election.resign()))
                    await asyncio.Event().wait()

        async with bounded():
            with pytest.raises(FencedError):
                await lead()
            await asyncio.gather(*resigning)
        assert recorded.value("slipstream.lease.lost", slipstream_lease_reason="resigned") == 1

    async def test_of_a_lock(self, store: KvStore, recorded: Recorded) -> None:
        async with bounded(), Lock(store, "job", ttl=5) as lease:
            with observe_term(lease, name="job", meter_provider=recorded.meters):
                assert recorded.value("slipstream.lease.held") == 1


class TestConnection:
    async def test_a_restart_is_seen(self, nats_server: NatsServer, recorded: Recorded) -> None:
        async with slipstream.connect(nats_server.url, reconnect_max_wait=0.05) as connection:
            async with bounded(), observe_connection(connection, name="main", meter_provider=recorded.meters) as seen:
                await connection.store("b")
                assert self.states(recorded) == {"connected": 1}
                await nats_server.stop()

                async def is_lost() -> bool:
                    return seen.state is not ConnectionState.CONNECTED

                await eventually(is_lost)
                assert recorded.value("slipstream.connection.count", slipstream_connection_state="connected") == 0
                await nats_server.start()

                async def is_back() -> bool:
                    return seen.state is ConnectionState.CONNECTED

                await eventually(is_back)
                assert recorded.value("slipstream.connection.count", slipstream_connection_state="connected") == 1
            states = self.states(recorded)
            assert (states["connected"], states["disconnected"]) == (2, 1)
            assert states["reconnecting"] >= 1

    async def test_its_end_is_seen_also_if_the_block_ends_at_once(self, recorded: Recorded) -> None:
        connection = MemoryConnection()
        async with observe_connection(connection, meter_provider=recorded.meters), connection:
            pass
        assert self.states(recorded) == {"connected": 1, "closed": 1}
        assert recorded.points("slipstream.connection.count") == []

    async def test_it_leaves_no_task_behind_and_is_entered_once(self, recorded: Recorded) -> None:
        async with MemoryConnection() as connection:
            before = asyncio.all_tasks()
            observation = observe_connection(connection, meter_provider=recorded.meters)
            async with observation:
                assert len(asyncio.all_tasks() - before) == 1
            assert asyncio.all_tasks() == before
            with pytest.raises(RuntimeError, match="entered once"):
                await observation.__aenter__()

    async def test_connections_of_one_name_are_counted_together(self, recorded: Recorded) -> None:
        async with (
            MemoryConnection() as one,
            MemoryConnection() as two,
            observe_connection(one, meter_provider=recorded.meters) as first,
            observe_connection(two, meter_provider=recorded.meters) as second,
        ):

            async def are_there() -> bool:
                return first.state is second.state is ConnectionState.CONNECTED

            await eventually(are_there)
            assert recorded.value("slipstream.connection.count", slipstream_connection_state="connected") == 2
            assert recorded.value("slipstream.connection.count", slipstream_connection_state="lame_duck") == 0

    def states(self, recorded: Recorded) -> dict[str, float]:
        return {
            attributes["slipstream.connection.state"]: point.value
            for attributes, point in recorded.points("slipstream.connection.events")
        }
