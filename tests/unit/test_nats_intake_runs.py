"""Deliveries read in runs and one by one come to the same."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.model import KvUpdate, Operation, WatchCursor
from slipstream.stores.nats.intake import Intake, OutOfStep
from slipstream.stores.nats.lane import Frame, read_frame

HEADS = {
    "none": b"",
    "id": b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n",
    "deleted": b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n",
    "expired": b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n\r\n",
    "batch": b"NATS/1.0\r\nNats-Batch-Id: t\r\nNats-Batch-Commit: 1\r\n\r\n",
    "sized": b"NATS/1.0\r\nNats-Msg-Size: 7\r\n\r\n",
    "misleading": b"NATS/1.0\r\nNote: KV-Operation: DEL\r\n\r\n",
}


def delivery(revision: int, sequence: int, head: str, data: bytes, key: str, pending: str, form: str) -> Frame:
    numbers = f"{revision}.{sequence}.1700000000000000000.{pending}"
    reply = {
        "short": f"$JS.ACK.KV_b.c.1.{numbers}",
        "long": f"$JS.ACK._.hash.KV_b.c.1.{numbers}",
        "again": f"$JS.ACK.KV_b.c.2.{numbers}",
        "odd": f"$JS.ACK.KV_b.c.1.{numbers}.more",
        "none": "",
    }[form]
    return f"$KV.b.{key}".encode(), reply.encode(), HEADS[head], data


@st.composite
def conversations(draw: st.DrawFn) -> list[Frame]:
    frames: list[Frame] = []
    revision, sequence = draw(st.integers(0, 3)), 0
    calm = draw(st.booleans())  # long runs come only where nearly everything is ordinary
    for _ in range(draw(st.integers(0, 15))):
        if draw(st.integers(0, 9)) == 0:
            stalled = draw(st.booleans())
            head = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: %d\r\nNats-Last-Stream: %d\r\n\r\n"
            reply = b"$JS.FC.x" if stalled else b""
            frames.append((b"in", reply, head % (sequence, revision), b""))
            continue
        revision += draw(st.sampled_from([1, 1, 1, 1, 2, 5, 0]))
        sequence += draw(st.sampled_from([1] * 12 + [2]))
        form = "short" if calm else draw(st.sampled_from(["short"] * 8 + ["long", "again", "odd", "none"]))
        head = "id" if calm else draw(st.sampled_from(["none", "id", "id", *HEADS]))
        data = b"value" if calm else draw(st.sampled_from([b"value", b"value", b""]))
        pending = draw(st.sampled_from(["0", "5", "x", "18446744073709551616"]) if form == "odd" else st.just("3"))
        key = draw(st.sampled_from(["k", "l", "unwanted"]))
        frames.append(delivery(revision, sequence, head, data, key, pending, form))
    return frames


def intake(cursor: int | None, evicts: bool, headers_only: bool) -> Intake:
    return Intake(
        WatchCursor.none() if cursor is None else WatchCursor.from_u64(cursor),
        subject_prefix="$KV.b.",
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


@settings(max_examples=500)
@given(conversations(), st.none() | st.integers(0, 3), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 6))
def test_runs_make_no_difference(
    frames: list[Frame], cursor: int | None, evicts: bool, headers_only: bool, proven: bool, together: int
) -> None:
    one_by_one, in_runs = intake(cursor, evicts, headers_only), intake(cursor, evicts, headers_only)
    seen: list[KvUpdate] = []
    also: list[KvUpdate] = []
    ends = [False, False]
    if proven:
        one_by_one.proven()
        in_runs.proven()
    for start in range(0, len(frames), together):
        part = frames[start : start + together]
        try:
            for frame in part:
                for arrival in one_by_one.message(read_frame(frame)):
                    one_by_one.queued(arrival)
                    if arrival.update is not None:
                        seen.append(arrival.update)
        except OutOfStep:
            ends[0] = True
        index = 0
        try:
            while index < len(part):
                run = in_runs.deliveries(part, index)
                also += run.updates
                index = run.stop + run.singly
                for frame in part[run.stop : index]:
                    for arrival in in_runs.message(read_frame(frame)):
                        in_runs.queued(arrival)
                        if arrival.update is not None:
                            also.append(arrival.update)
        except OutOfStep:
            ends[1] = True
        assert also == seen
        assert ends[0] == ends[1]
        if ends[0]:
            break
    assert outcome(in_runs, also) == outcome(one_by_one, seen)


def test_a_run_that_was_refused_is_asked_for_again() -> None:
    reading = intake(5, False, False)
    frames = [delivery(revision, revision - 5, "id", b"v", "k", "0", "short") for revision in range(6, 10)]
    reading.queued(*reading.message(read_frame(frames[0])))
    run = reading.deliveries(frames, 1)
    assert ([update.revision for update in run.updates], run.stop, run.singly) == ([7, 8, 9], 4, 0)
    assert reading.received == 9
    reading.refused_run(run)
    assert (reading.received, reading.outstanding) == (6, 1)


def test_what_an_ordinary_update_says() -> None:
    reading = intake(None, False, False)
    frames = [delivery(revision, revision, "id", b"v", "k", "3", "short") for revision in (1, 2)]
    reading.message(read_frame(frames[0]))
    run = reading.deliveries(frames, 1)
    (update,) = run.updates
    assert (update.operation, update.key, update.value, update.revision) == (Operation.PUT, "k", b"v", 2)
    assert update.created is not None
    assert update.created.year == 2023
    assert run.size > len(b"v")
    assert reading.pending == 3
