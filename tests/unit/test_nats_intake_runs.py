"""Deliveries read in runs and one by one come to the same."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from slipstream.model import KvUpdate, Operation, WatchCursor
from slipstream.stores.nats.intake import Intake, OutOfStep
from slipstream.stores.nats.lane import Message, WireMessage

HEADS = {
    "none": b"",
    "id": b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n",
    "deleted": b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n",
    "expired": b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n\r\n",
    "batch": b"NATS/1.0\r\nNats-Batch-Id: t\r\nNats-Batch-Commit: 1\r\n\r\n",
    "sized": b"NATS/1.0\r\nNats-Msg-Size: 7\r\n\r\n",
    "misleading": b"NATS/1.0\r\nNote: KV-Operation: DEL\r\n\r\n",
}


def delivery(revision: int, sequence: int, head: str, data: bytes, key: str, pending: str, form: str) -> Message:
    numbers = f"{revision}.{sequence}.1700000000000000000.{pending}"
    reply = {
        "short": f"$JS.ACK.KV_b.c.1.{numbers}",
        "long": f"$JS.ACK._.hash.KV_b.c.1.{numbers}",
        "again": f"$JS.ACK.KV_b.c.2.{numbers}",
        "odd": f"$JS.ACK.KV_b.c.1.{numbers}.more",
        "none": "",
    }[form]
    return WireMessage(f"$KV.b.{key}", reply, data, HEADS[head], None)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    messages: list[Message] = []
    revision, sequence = draw(st.integers(0, 3)), 0
    for _ in range(draw(st.integers(0, 15))):
        if draw(st.integers(0, 9)) == 0:
            stalled = draw(st.booleans())
            head = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: %d\r\nNats-Last-Stream: %d\r\n\r\n"
            reply = "$JS.FC.x" if stalled else ""
            messages.append(WireMessage("in", reply, b"", head % (sequence, revision), 100))
            continue
        revision += draw(st.sampled_from([1, 1, 1, 1, 2, 5, 0]))
        sequence += draw(st.sampled_from([1] * 12 + [2]))
        form = draw(st.sampled_from(["short"] * 8 + ["long", "again", "odd", "none"]))
        head = draw(st.sampled_from(["none", "id", "id", *HEADS]))
        data = draw(st.sampled_from([b"value", b"value", b""]))
        pending = draw(st.sampled_from(["0", "5", "x", "18446744073709551616"]) if form == "odd" else st.just("3"))
        key = draw(st.sampled_from(["k", "l", "unwanted"]))
        messages.append(delivery(revision, sequence, head, data, key, pending, form))
    return messages


def intake(cursor: int | None, evicts: bool, headers_only: bool) -> Intake:
    return Intake(
        WatchCursor.none() if cursor is None else WatchCursor.from_u64(cursor),
        key_of=lambda subject: subject.removeprefix("$KV.b."),
        accepts=lambda key: not key.startswith("un"),
        evicts=evicts,
        headers_only=headers_only,
    )


def outcome(intake: Intake, queue: list[KvUpdate]) -> list[Any]:
    due = [*intake.settle()]
    queued = len(queue)
    intake.taken_together(queue)
    state = [
        intake.received,
        intake.handed_out,
        intake.pending,
        intake.delivered,
        intake.held_after,
        intake.outstanding,
    ]
    return [queued, due, [*intake.settle()], intake.handed_out, *state]


@given(conversations(), st.none() | st.integers(0, 3), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 6))
def test_runs_make_no_difference(
    messages: list[Message], cursor: int | None, evicts: bool, headers_only: bool, proven: bool, together: int
) -> None:
    one_by_one, in_runs = intake(cursor, evicts, headers_only), intake(cursor, evicts, headers_only)
    seen: list[tuple[KvUpdate, int]] = []
    also: list[tuple[KvUpdate, int]] = []
    ends = [False, False]
    if proven:
        one_by_one.proven()
        in_runs.proven()
    for start in range(0, len(messages), together):
        part = messages[start : start + together]
        try:
            for message in part:
                for arrival in one_by_one.message(message):
                    one_by_one.queued(arrival)
                    if arrival.update is not None:
                        seen.append((arrival.update, arrival.size))
        except OutOfStep:
            ends[0] = True
        index = 0
        try:
            while index < len(part):
                run = in_runs.deliveries(part, index)
                also += run.updates
                if run.stop < len(part):
                    for arrival in in_runs.message(part[run.stop]):
                        in_runs.queued(arrival)
                        if arrival.update is not None:
                            also.append((arrival.update, arrival.size))
                index = run.stop + 1
        except OutOfStep:
            ends[1] = True
        # The sizes are estimates: a run counts the key, not the subject.
        assert [update for update, _ in also] == [update for update, _ in seen]
        assert ends[0] == ends[1]
        if ends[0]:
            break
    assert outcome(in_runs, [update for update, _ in also]) == outcome(one_by_one, [update for update, _ in seen])


def test_a_run_that_was_refused_is_asked_for_again() -> None:
    reading = intake(5, False, False)
    messages = [delivery(revision, revision - 5, "id", b"v", "k", "0", "short") for revision in range(6, 10)]
    reading.queued(*reading.message(messages[0]))
    run = reading.deliveries(messages, 1)
    assert ([update.revision for update, _ in run.updates], run.stop) == ([7, 8, 9], 4)
    assert reading.received == 9
    reading.refused_run(run)
    assert (reading.received, reading.outstanding) == (6, 1)


def test_what_an_ordinary_update_says() -> None:
    reading = intake(None, False, False)
    messages = [delivery(revision, revision, "id", b"v", "k", "3", "short") for revision in (1, 2)]
    reading.message(messages[0])
    ((update, size),) = reading.deliveries(messages, 1).updates
    assert (update.operation, update.key, update.value, update.revision) == (Operation.PUT, "k", b"v", 2)
    assert update.created is not None
    assert update.created.year == 2023
    assert size > len(b"v")
    assert reading.pending == 3
