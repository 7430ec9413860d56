"""The sequencing of one watch: order, completeness and positions, whatever the consumer, the wire and the reader do."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slipstream.model import Operation, WatchCursor
from slipstream.resume import Retention, gap_is_benign
from slipstream.stores.nats.intake import Arrival, Intake, OutOfStep
from slipstream.stores.nats.lane import Message

FRONT = "$KV.b."
FORMS = (9, 11)
UNHURRIED = settings(deadline=None)  # the machine may be busy


def make_intake(
    cursor: int | None = None, *, evicts: bool = False, headers_only: bool = False, refused: str = "unwanted"
) -> Intake:
    return Intake(
        WatchCursor.none() if cursor is None else WatchCursor.from_u64(cursor),
        subject_prefix=FRONT,
        accepts=lambda key: not key.startswith(refused),
        evicts=evicts,
        headers_only=headers_only,
    )


def delivery(
    revision: int,
    sequence: int,
    *,
    key: str = "k",
    data: bytes = b"value",
    pending: int = 0,
    tokens: int = 9,
    headers: dict[str, str] | None = None,
) -> Message:
    """What a consumer sends for a record, `sequence` being its own count."""
    numbers = f"1.{revision}.{sequence}.1700000000000000000.{pending}"
    reply = {
        9: f"$JS.ACK.KV_b.consumer.{numbers}",
        11: f"$JS.ACK._.a1b2c3d4.KV_b.consumer.{numbers}",
        12: f"$JS.ACK.hub.a1b2c3d4.KV_b.consumer.{numbers}.later",
    }[tokens]
    return Message(FRONT + key, reply, data, headers or {})


def unreadable(sequence: int, *, key: str = "k", data: bytes = b"value") -> Message:
    return Message(FRONT + key, f"$JS.ACK.KV_b.consumer.1.x.{sequence}.1.0", data)


def heartbeat(last_consumer: int | None, last_stream: int | None, *, stalled: str | None = None) -> Message:
    fields = {"Nats-Last-Consumer": last_consumer, "Nats-Last-Stream": last_stream, "Nats-Consumer-Stalled": stalled}
    headers = {name: str(value) for name, value in fields.items() if value is not None}
    return Message("_INBOX.x", "", b"", headers, 100, "Idle Heartbeat")


def flow_control(subject: str) -> Message:
    return Message("_INBOX.x", subject, b"", {}, 100, "FlowControl Request")


class Reader:
    """What a feed does with an intake, with a queue that can be full."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.queue: deque[Arrival] = deque()
        self.taken: list[tuple[int | None, str]] = []
        self.answered: list[str] = []
        self.full = False

    def receive(self, message: Message) -> bool:
        """False where the queue refused something of it."""
        accepted = self._accept(self.intake.message(message))
        self.answered += self.intake.settle()
        return accepted

    def release(self) -> bool:
        accepted = self._accept(self.intake.release())
        self.answered += self.intake.settle()
        return accepted

    def take(self, count: int = 1) -> None:
        for _ in range(count):
            update = self.queue.popleft().update
            assert update is not None
            self.taken.append((update.revision, update.key))
            self.intake.taken(update)
            self.answered += self.intake.settle()

    def take_all(self) -> None:
        self.take(len(self.queue))

    def prove(self) -> None:
        self.intake.proven()
        self.answered += self.intake.settle()

    @property
    def revisions(self) -> list[int | None]:
        return [revision for revision, _ in self.taken]

    def _accept(self, arrivals: Sequence[Arrival]) -> bool:
        for arrival in arrivals:
            if arrival.update is not None:
                if self.full:
                    self.intake.refused(arrival)
                    return False
                self.queue.append(arrival)
            self.intake.queued(arrival)
        return True


def proven_reader(cursor: int | None = 0, **options: Any) -> Reader:
    reader = Reader(make_intake(cursor, **options))
    reader.prove()
    return reader


class TestDeliveries:
    @pytest.mark.parametrize("tokens", [9, 11, 12])
    def test_the_reply_subject_tells_the_revision_in_every_form(self, tokens: int) -> None:
        (arrival,) = make_intake().message(delivery(7, 1, pending=3, tokens=tokens))
        assert arrival.revision == 7
        assert arrival.update is not None
        assert (arrival.update.revision, arrival.update.key, arrival.update.value) == (7, "k", b"value")
        assert arrival.update.created is not None

    @pytest.mark.parametrize("tokens", FORMS)
    def test_the_pending_count_is_the_last_token(self, tokens: int) -> None:
        intake = make_intake()
        intake.message(delivery(7, 1, pending=3, tokens=tokens))
        assert intake.pending == 3

    def test_what_the_client_does_not_match_comes_as_mere_progress(self) -> None:
        reader = proven_reader()
        reader.receive(delivery(1, 1, key="unwanted"))
        assert (reader.queue, reader.intake.received, reader.intake.handed_out) == (deque(), 1, 1)

    def test_a_tombstone_is_an_update(self) -> None:
        (arrival,) = make_intake().message(delivery(7, 1, data=b"", headers={"KV-Operation": "DEL"}))
        assert arrival.update is not None
        assert arrival.update.operation is Operation.DELETE

    @pytest.mark.parametrize("tokens", FORMS)
    def test_a_missing_delivery_is_out_of_step(self, tokens: int) -> None:
        intake = make_intake(0)
        intake.message(delivery(1, 1, tokens=tokens))
        with pytest.raises(OutOfStep):
            intake.message(delivery(3, 3, tokens=tokens))
        assert intake.received == 1

    def test_a_missing_first_delivery_is_out_of_step(self) -> None:
        with pytest.raises(OutOfStep):
            make_intake(0).message(delivery(2, 2))

    def test_a_delivery_that_comes_twice_is_out_of_step(self) -> None:
        intake = make_intake(0)
        intake.message(delivery(1, 1))
        with pytest.raises(OutOfStep):
            intake.message(delivery(1, 1))

    def test_a_revision_that_was_there_before_is_not_handed_on_again(self) -> None:
        # The server sends records again that it listed in the initial state and then met on its way.
        reader = Reader(make_intake())
        for sequence, revision in enumerate((4, 9, 5, 9, 10), start=1):
            reader.receive(delivery(revision, sequence))
        reader.take_all()
        assert reader.revisions == [4, 9, 10]

    def test_other_statuses_bring_nothing(self) -> None:
        reader = proven_reader(3)
        reader.receive(delivery(4, 1, pending=2))
        reader.take()
        reader.receive(Message("_INBOX.x", "", b"", {"Nats-Last-Stream": "9"}, 409, "Consumer Deleted"))
        assert (reader.intake.received, reader.intake.handed_out, reader.intake.pending) == (4, 4, 2)
        reader.receive(delivery(5, 2))  # it did not count as a delivery

    @UNHURRIED
    @given(st.binary(max_size=300), st.integers(0, 2**40))
    def test_the_size_counts_the_value(self, data: bytes, size: int) -> None:
        (plain,) = make_intake().message(delivery(1, 1, data=data))
        (bare,) = make_intake().message(delivery(1, 1, data=b""))
        assert plain.size - bare.size == len(data)
        (headers_only,) = make_intake(headers_only=True).message(
            delivery(1, 1, data=b"", headers={"Nats-Msg-Size": str(size)})
        )
        assert headers_only.size - bare.size == size
        assert headers_only.update is not None
        assert headers_only.update.operation is (Operation.PUT if size else Operation.DELETE)


class TestUnknownVersions:
    @UNHURRIED
    @given(st.lists(st.one_of(st.none(), st.integers(1, 3)), min_size=1, max_size=30), st.booleans())
    def test_they_are_handed_out_and_never_move_a_position(self, steps: list[int | None], evicts: bool) -> None:
        reader = proven_reader(100, evicts=evicts)
        revision = 100
        for sequence, step in enumerate(steps, start=1):
            if step is None:
                reader.receive(unreadable(sequence, key=f"unread.{sequence}"))
            else:
                revision += step
                reader.receive(delivery(revision, sequence, key=f"read.{sequence}"))
            assert reader.intake.received == revision
            reader.release()
            while reader.queue:
                before = reader.intake.handed_out
                reader.take()
                if reader.taken[-1][0] is None:
                    assert reader.intake.handed_out == before
        kinds = ["unread" if step is None else "read" for step in steps]
        assert [key for _, key in reader.taken] == [f"{kind}.{n}" for n, kind in enumerate(kinds, start=1)]
        assert reader.intake.handed_out == revision

    def test_they_count_as_deliveries(self) -> None:
        intake = make_intake(0)
        intake.message(unreadable(1))
        intake.message(delivery(1, 2))
        with pytest.raises(OutOfStep):
            intake.message(heartbeat(3, 1))

    def test_they_are_no_gap(self) -> None:
        reader = proven_reader(3, evicts=True)
        reader.receive(unreadable(1))
        assert (reader.intake.held_after, len(reader.queue)) == (None, 1)
        reader.receive(delivery(5, 2))
        assert reader.intake.held_after == 3, "what they were remains to be seen"

    def test_without_a_position_they_leave_it_open(self) -> None:
        reader = Reader(make_intake(None))
        reader.receive(unreadable(1))
        reader.take()
        assert (reader.intake.received, reader.intake.handed_out) == (None, None)

    def test_one_that_is_not_matched_leaves_progress_alone(self) -> None:
        reader = proven_reader(4)
        reader.receive(unreadable(1, key="unwanted"))
        assert (reader.intake.received, reader.intake.handed_out) == (4, 4)


class TestHeartbeats:
    @UNHURRIED
    @given(st.integers(0, 20), st.integers(0, 25))
    def test_one_that_counts_other_deliveries_than_arrived_is_out_of_step(self, arrived: int, claimed: int) -> None:
        intake = make_intake(0)
        for sequence in range(1, arrived + 1):
            intake.message(delivery(sequence, sequence))
        if arrived == claimed:
            intake.message(heartbeat(claimed, arrived))
        else:
            with pytest.raises(OutOfStep):
                intake.message(heartbeat(claimed, 1000))
            assert intake.received == arrived

    def test_one_of_a_stalled_consumer_is_compared_too(self) -> None:
        intake = make_intake(0)
        with pytest.raises(OutOfStep):
            intake.message(heartbeat(1, 1, stalled="$JS.FC.x"))

    def test_one_without_a_count_proves_nothing(self) -> None:
        reader = proven_reader()
        before = reader.intake.handed_out
        reader.receive(heartbeat(None, 8))
        assert reader.intake.handed_out == before != 8

    @pytest.mark.parametrize("cursor", [None, 3])
    def test_their_progress_is_ignored_before_the_initial_state_is_proven(self, cursor: int | None) -> None:
        reader = Reader(make_intake(cursor))
        reader.receive(heartbeat(0, 9))
        assert (reader.intake.received, reader.intake.handed_out) == (cursor, cursor)
        reader.prove()
        assert reader.intake.handed_out == cursor, "what was ignored stays ignored"
        reader.receive(heartbeat(0, 9))
        assert (reader.intake.received, reader.intake.handed_out) == (9, 9)

    @pytest.mark.parametrize("last_stream", [None, 0, 2, 3])
    def test_progress_never_goes_back(self, last_stream: int | None) -> None:
        reader = proven_reader(3)
        reader.receive(heartbeat(0, last_stream))
        assert (reader.intake.received, reader.intake.handed_out) == (3, 3)

    def test_progress_moves_the_position_only_when_everything_queued_was_taken(self) -> None:
        reader = proven_reader()
        reader.receive(delivery(1, 1))
        reader.receive(delivery(2, 2))
        reader.receive(heartbeat(2, 9))
        assert (reader.intake.received, reader.intake.handed_out) == (9, 0)
        reader.take()
        assert reader.intake.handed_out == 1
        reader.take()
        assert reader.intake.handed_out == 9

    def test_of_two_that_wait_for_the_reader_the_later_counts(self) -> None:
        reader = proven_reader()
        reader.receive(delivery(1, 1))
        reader.receive(heartbeat(1, 5))
        reader.receive(heartbeat(1, 9))
        reader.take()
        assert reader.intake.handed_out == 9

    def test_progress_does_not_hide_behind_what_comes_after_it(self) -> None:
        reader = proven_reader()
        reader.receive(delivery(1, 1))
        reader.receive(heartbeat(1, 5))
        reader.receive(delivery(6, 2))
        reader.take()
        assert reader.intake.handed_out == 1, "5 is known, but 6 is queued: the position stays at what was taken"
        reader.take()
        assert reader.intake.handed_out == 6, "and progress from before never takes it back"

    def test_one_that_says_that_nothing_waits_clears_the_pending_count(self) -> None:
        intake = make_intake(0)
        intake.message(delivery(1, 1, pending=4))
        intake.message(heartbeat(1, 1, stalled="$JS.FC.x"))
        assert intake.pending == 4, "a stalled consumer has more"
        intake.message(heartbeat(1, 1))
        assert intake.pending == 0


class TestFlowControl:
    @UNHURRIED
    @given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.booleans())
    def test_a_request_is_answered_exactly_when_everything_before_it_was_taken(
        self, runs: list[int], stalled: bool
    ) -> None:
        reader = proven_reader()
        due: dict[str, int] = {}
        sequence = 0
        for number, run in enumerate(runs):
            for _ in range(run):
                sequence += 1
                reader.receive(delivery(sequence, sequence))
            name = f"$JS.FC.{number}"
            due[name] = sequence
            reader.receive(heartbeat(sequence, sequence, stalled=name) if stalled else flow_control(name))
        for taken in range(sequence + 1):
            assert reader.answered == [name for name, count in due.items() if count <= taken]
            if taken < sequence:
                reader.take()

    def test_what_is_held_back_counts_as_before_it(self) -> None:
        reader = proven_reader(evicts=True)
        reader.receive(delivery(1, 1))
        reader.receive(delivery(5, 2))
        reader.receive(delivery(6, 3))
        reader.receive(flow_control("$JS.FC.x"))
        reader.take_all()
        assert reader.answered == []
        reader.release()
        reader.take()
        assert reader.answered == []
        reader.take()
        assert reader.answered == ["$JS.FC.x"]

    def test_what_is_held_back_and_not_matched_is_not_waited_for(self) -> None:
        reader = proven_reader(evicts=True)
        reader.receive(delivery(5, 1, key="unwanted"))
        reader.receive(flow_control("$JS.FC.x"))
        assert reader.answered == ["$JS.FC.x"]

    def test_requests_of_the_consumer_before_are_forgotten(self) -> None:
        reader = proven_reader()
        reader.receive(delivery(1, 1))
        reader.receive(flow_control("$JS.FC.old"))
        reader.intake.begin()
        reader.take_all()
        assert reader.answered == []


class TestGaps:
    def test_in_a_bucket_that_evicts_nothing_they_are_of_no_interest(self) -> None:
        reader = proven_reader(evicts=False)
        reader.receive(delivery(5, 1))
        assert reader.intake.held_after is None
        assert len(reader.queue) == 1

    def test_in_an_evicting_bucket_all_that_follows_is_held_until_released(self) -> None:
        reader = proven_reader(3, evicts=True)
        reader.receive(delivery(4, 1))
        reader.receive(delivery(7, 2))
        reader.receive(delivery(8, 3))
        reader.receive(heartbeat(3, 9))
        assert (reader.intake.held_after, len(reader.queue), reader.intake.received) == (4, 1, 9)
        reader.take()
        assert reader.intake.handed_out == 4, "not even progress passes the gap"
        reader.release()
        assert reader.intake.held_after is None
        reader.take_all()
        assert reader.revisions == [4, 7, 8]
        assert reader.intake.handed_out == 9

    def test_progress_is_a_gap_too(self) -> None:
        reader = proven_reader(3, evicts=True)
        reader.receive(heartbeat(0, 9))
        assert (reader.intake.held_after, reader.intake.handed_out) == (3, 3)
        reader.release()
        assert reader.intake.handed_out == 9

    def test_progress_by_a_single_record_is_one(self) -> None:
        # Nothing was delivered there: what stood there may have been watched, and evicted.
        reader = proven_reader(3, evicts=True)
        reader.receive(heartbeat(0, 4))
        assert (reader.intake.held_after, reader.intake.handed_out) == (3, 3)

    def test_a_delivery_that_is_not_matched_is_none(self) -> None:
        reader = proven_reader(3, evicts=True)
        reader.receive(delivery(4, 1, key="unwanted"))
        assert (reader.intake.held_after, reader.intake.handed_out) == (None, 4)

    def test_without_a_position_nothing_is_missing(self) -> None:
        reader = proven_reader(None, evicts=True)
        reader.receive(heartbeat(0, 4))
        assert (reader.intake.held_after, reader.intake.handed_out) == (None, 4)

    def test_the_initial_state_is_full_of_them(self) -> None:
        reader = Reader(make_intake(None, evicts=True))
        for sequence, revision in enumerate((3, 8, 20), start=1):
            reader.receive(delivery(revision, sequence))
        assert reader.intake.held_after is None
        assert len(reader.queue) == 3
        reader.prove()
        reader.receive(delivery(22, 4))
        assert reader.intake.held_after == 20

    def test_beyond_the_end_of_the_initial_state_they_count_before_its_proof(self) -> None:
        reader = Reader(make_intake(None, evicts=True))
        reader.intake.ends_initially(10)
        for sequence, revision in enumerate((3, 8, 10, 11), start=1):
            reader.receive(delivery(revision, sequence))
        assert (reader.intake.held_after, len(reader.queue)) == (None, 4)
        reader.receive(delivery(13, 5))
        assert reader.intake.held_after == 11

    def test_the_first_record_beyond_it_has_to_follow_its_end(self) -> None:
        reader = Reader(make_intake(None, evicts=True))
        reader.intake.ends_initially(10)
        reader.receive(delivery(3, 1))
        reader.receive(delivery(12, 2))
        # What lies between 3 and 10 is of no interest: what was there at the beginning has been sent.
        assert reader.intake.held_after == 10
        reader.release()
        reader.take_all()
        assert (reader.revisions, reader.intake.handed_out) == ([3, 12], 12)

    def test_a_bucket_that_was_empty_at_first_has_no_initial_state(self) -> None:
        reader = Reader(make_intake(None, evicts=True))
        reader.intake.ends_initially(0)
        reader.receive(delivery(1, 1))
        assert reader.intake.held_after is None
        reader.receive(delivery(3, 2))
        assert reader.intake.held_after == 1

    def test_a_consumer_that_goes_on_in_the_initial_state_sends_everything(self) -> None:
        reader = Reader(make_intake(None, evicts=True))
        reader.intake.ends_initially(10)
        reader.receive(delivery(3, 1))
        reader.intake.begin()
        reader.intake.ends_initially(12)
        reader.receive(delivery(5, 1))
        assert reader.intake.held_after == 3

    def test_one_that_starts_over_does_not(self) -> None:
        reader = Reader(make_intake(None, evicts=True))
        reader.intake.ends_initially(10)
        reader.intake.begin()
        reader.intake.ends_initially(12)
        reader.receive(delivery(3, 1))
        reader.receive(delivery(12, 2))
        assert reader.intake.held_after is None

    def test_what_a_scan_reads_has_none(self) -> None:
        reader = Reader(make_intake(None, evicts=True))  # nobody says where it ends
        reader.receive(delivery(3, 1))
        reader.intake.begin()
        reader.receive(delivery(9, 1))
        assert reader.intake.held_after is None

    def test_a_backlog_is_not(self) -> None:
        reader = Reader(make_intake(2, evicts=True))
        reader.intake.ends_initially(10)
        reader.receive(delivery(12, 1))
        assert reader.intake.held_after == 2

    def test_a_new_consumer_starts_before_a_held_gap(self) -> None:
        reader = proven_reader(3, evicts=True)
        reader.receive(delivery(4, 1))
        reader.receive(delivery(7, 2))
        reader.receive(delivery(8, 3))
        reader.intake.begin()
        assert (reader.intake.received, reader.intake.held_after) == (4, None)
        for sequence, revision in enumerate((7, 8), start=1):
            reader.receive(delivery(revision, sequence))
        reader.release()
        reader.take_all()
        assert reader.revisions == [4, 7, 8]


class TestRefused:
    def test_what_could_not_be_queued_is_asked_for_again(self) -> None:
        reader = proven_reader(3)
        reader.receive(delivery(4, 1))
        reader.full = True
        assert not reader.receive(delivery(6, 2))
        assert reader.intake.received == 4
        reader.full = False
        reader.intake.begin()
        reader.receive(delivery(6, 1))
        reader.take_all()
        assert reader.revisions == [4, 6]

    def test_of_what_was_held_back_the_first_that_found_no_room_and_all_after_it(self) -> None:
        reader = proven_reader(3, evicts=True)
        for sequence, revision in enumerate((5, 6, 7), start=1):
            reader.receive(delivery(revision, sequence))
        reader.full = True
        assert not reader.release()
        assert (reader.intake.received, reader.intake.held_after) == (3, None)


class TestInitialState:
    def test_it_is_complete_when_what_was_queued_at_its_proof_was_taken(self) -> None:
        reader = Reader(make_intake())
        reader.receive(delivery(1, 1))
        reader.receive(delivery(2, 2))
        reader.prove()
        reader.receive(delivery(3, 3))
        for complete in (False, False, True):
            assert reader.intake.complete is complete
            reader.take()
        assert reader.intake.complete

    def test_an_empty_one_is_complete_at_its_proof_and_not_before(self) -> None:
        intake = make_intake()
        complete = [intake.complete]
        intake.proven()
        complete.append(intake.complete)
        assert complete == [False, True]

    def test_the_count_of_the_create_reply_yields_to_that_of_a_delivery(self) -> None:
        intake = make_intake()
        intake.counted(9)
        assert intake.pending == 9
        intake.message(delivery(1, 1, pending=4))
        intake.counted(9)
        assert intake.pending == 4
        intake.begin()
        intake.counted(2)
        assert intake.pending == 2

    def test_outstanding_is_what_is_not_handed_out_here_and_there(self) -> None:
        reader = proven_reader(evicts=True)
        reader.receive(delivery(1, 1, pending=6))
        reader.receive(delivery(2, 2, pending=5))
        reader.receive(delivery(4, 3, pending=4))
        reader.take()
        assert (reader.intake.outstanding, reader.intake.delivered) == (4 + 1 + 1, 1)


@dataclass
class OnTheWire:
    message: Message
    counted: bool  # a delivery: the consumer has counted it


class WatchMachine(RuleBasedStateMachine):
    """A stream, its consumer, a wire that loses, a reader that stalls: whatever the order, the reader misses nothing.

    Keys: `w` is watched, `unwanted` reaches the client and is not matched there, `other` is filtered on the server.
    """

    evicts = False

    def __init__(self) -> None:
        super().__init__()
        self.reader = Reader(make_intake(0, evicts=self.evicts))
        self.stored: list[tuple[int, str]] = []
        self.first = 1
        self.expired = False
        self.requests = 0
        self.start_consumer()

    def start_consumer(self) -> None:
        self.reader.intake.begin()
        received = self.reader.intake.received
        assert received is not None
        if self.evicts and not gap_is_benign(
            position=received, first_revision=self.first, retention=Retention(evicts=True)
        ):
            self.expired = True
        self.sent = received
        self.consumer_sequence = 0
        self.lost = False
        self.wire: deque[OnTheWire] = deque()
        self.due: dict[str, int] = {}
        self.reader.answered.clear()

    @property
    def intake(self) -> Intake:
        return self.reader.intake

    @property
    def watched(self) -> list[tuple[int | None, str]]:
        return [(revision, key) for revision, key in self.stored if key == "w"]

    def next_to_send(self) -> tuple[int, str] | None:
        held = (record for record in self.stored if record[0] >= self.first and record[1] != "other")
        return next((record for record in held if record[0] > self.sent), None)

    # The stream.

    @rule(key=st.sampled_from(("w", "w", "unwanted", "other")))
    def store(self, key: str) -> None:
        self.stored.append((len(self.stored) + 1, key))

    @precondition(lambda self: self.evicts)
    @rule(count=st.integers(1, 3))
    def evict(self, count: int) -> None:
        self.first = min(self.first + count, len(self.stored) + 1)

    # The consumer.

    @rule(tokens=st.sampled_from(FORMS))
    def deliver(self, tokens: int) -> None:
        record = self.next_to_send()
        if record is not None:
            self.sent = record[0]
            self.consumer_sequence += 1
            message = delivery(record[0], self.consumer_sequence, key=record[1], tokens=tokens)
            self.wire.append(OnTheWire(message, counted=True))

    @rule()
    def beat(self) -> None:
        if self.next_to_send() is None:
            self.sent = max(self.sent, len(self.stored))
            self.wire.append(OnTheWire(heartbeat(self.consumer_sequence, self.sent), counted=False))

    @rule(stalled=st.booleans())
    def request_flow_control(self, stalled: bool) -> None:
        self.requests += 1
        name = f"$JS.FC.{self.requests}"
        beat = heartbeat(self.consumer_sequence, self.sent, stalled=name)
        self.wire.append(OnTheWire(beat if stalled else flow_control(name), counted=False))

    # The wire.

    @rule()
    def lose(self) -> None:
        if self.wire and self.wire.popleft().counted:
            self.lost = True

    @rule(full=st.sampled_from((False, False, False, True)))
    def receive(self, full: bool) -> None:
        if not self.wire:
            return
        arrived = self.wire.popleft()
        message = arrived.message
        request = message.reply if message.status == 100 else None
        request = request or message.headers.get("Nats-Consumer-Stalled")
        if request:
            self.due[request] = len(self.reader.taken) + len(self.reader.queue) + self.held_updates()
        notices = arrived.counted or "Nats-Last-Consumer" in message.headers
        self.reader.full = full
        try:
            went_in = self.reader.receive(message)
        except OutOfStep:
            assert self.lost, "nothing was lost"
            self.start_consumer()
            return
        assert not (self.lost and notices), "a loss went unnoticed"
        if not went_in:
            self.start_consumer()

    def held_updates(self) -> int:
        return sum(arrival.update is not None for arrival in self.intake._held)

    # The feed and its reader.

    @rule()
    def take(self) -> None:
        if self.reader.queue:
            self.reader.take()

    @rule(full=st.sampled_from((False, False, True)))
    def look_into_gap(self, full: bool) -> None:
        position = self.intake.held_after
        if position is None:
            return
        if not gap_is_benign(position=position, first_revision=self.first, retention=Retention(evicts=True)):
            self.expired = True
            return
        self.reader.full = full
        if not self.reader.release():
            self.start_consumer()

    @rule()
    def reconnect(self) -> None:
        self.start_consumer()

    @rule()
    def prove(self) -> None:
        # The leader has nothing of the filter beyond what was received.
        start = max((self.intake.received or 0) + 1, self.first)
        beyond = [record for record in self.stored if record[0] >= start and record[1] != "other"]
        if not beyond and self.intake.held_after is None:
            self.reader.prove()

    @invariant()
    def order_and_no_repeat_and_no_hole(self) -> None:
        assert self.reader.taken == self.watched[: len(self.reader.taken)]

    @invariant()
    def the_position_hides_nothing(self) -> None:
        position = self.intake.handed_out
        assert position is not None
        assert len([record for record in self.watched if (record[0] or 0) <= position]) <= len(self.reader.taken)

    @invariant()
    def flow_control_is_answered_in_time(self) -> None:
        if not self.expired:
            taken = len(self.reader.taken)
            assert self.reader.answered == [name for name, count in self.due.items() if count <= taken]

    def teardown(self) -> None:
        """Nothing hides for good: once the wire is sound and the reader reads, it has it all."""
        if self.expired:
            return
        self.start_consumer()
        while not self.expired and (self.wire or self.next_to_send() is not None or self.intake.held_after is not None):
            self.deliver(9)
            self.receive(full=False)
            self.look_into_gap(full=False)
        if not self.expired:
            self.reader.take_all()
            assert self.reader.taken == self.watched


class EvictingWatchMachine(WatchMachine):
    evicts = True


MACHINES = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestAnyInterleaving = WatchMachine.TestCase
TestAnyInterleaving.settings = MACHINES
TestAnyInterleavingWhileRecordsAreEvicted = EvictingWatchMachine.TestCase
TestAnyInterleavingWhileRecordsAreEvicted.settings = MACHINES


@UNHURRIED
@given(st.data())
def test_a_lost_delivery_is_noticed_by_the_next_message(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 20))
    lost = data.draw(st.integers(1, count))
    tokens = data.draw(st.sampled_from(FORMS))
    messages = [delivery(number, number, tokens=tokens) for number in range(1, count + 1) if number != lost]
    messages.append(heartbeat(count, count))
    reader = Reader(make_intake(0))
    for message in messages[: lost - 1]:
        reader.receive(message)
    with pytest.raises(OutOfStep):
        reader.receive(messages[lost - 1])
    reader.take_all()
    assert reader.revisions == list(range(1, lost))
    assert reader.intake.received == lost - 1
