"""Which guard rides on which message: every guard is carried once, by a message that may carry it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.model import StoreConfig
from slipstream.stores.nats.abilities import abilities
from slipstream.stores.nats.batch import Guard, Part, messages, ride, scratch_part, with_scratch
from slipstream.stores.nats.decode import (
    BATCH_COMMIT,
    BATCH_ID,
    BATCH_SEQUENCE,
    EXPECTED_SEQUENCE,
    EXPECTED_SUBJECT,
    EXPECTED_SUBJECT_SEQUENCE,
)
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.stream_config import to_stream
from slipstream.stores.nats.subjects import filter_for, scratch_subject, subject_prefix

SCRATCH = scratch_part("b", expires=True)
NO_ATOMIC = ServerFeatures(version=(2, 11, 11), api_level=1)
BROKEN = ServerFeatures(version=(2, 12, 0), api_level=2)
GOOD = ServerFeatures(version=(2, 12, 1), api_level=2)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Part], list[Guard]]:
    keys = draw(st.lists(st.integers(0, 30), unique=True, max_size=12))
    written = draw(st.integers(0, len(keys)))
    parts = [
        Part(
            subject=f"$KV.b.k{key}",
            payload=b"%d" % key,
            guard=Guard(f"$KV.b.k{key}", draw(st.integers(0, 99))) if draw(st.booleans()) else None,
        )
        for key in keys[:written]
    ]
    return parts, [Guard(f"$KV.b.k{key}", draw(st.integers(0, 99))) for key in keys[written:]]


@given(batches())
def test_every_guard_is_carried_once_and_no_message_carries_two(batch: tuple[list[Part], list[Guard]]) -> None:
    parts, guards = batch
    placed, unplaced = ride(parts, guards)
    complete = with_scratch(placed, unplaced, SCRATCH)
    own = [part.guard for part in parts if part.guard is not None]
    carried = [part.guard for part in complete if part.guard is not None]
    assert sorted(carried, key=repr) == sorted(own + guards, key=repr)
    # No more messages than it takes, the writes in their order, the last of them at the end.
    assert len(complete) == len(parts) + max(0, len(guards) - (len(parts) - len(own)))
    assert [(part.subject, part.payload) for part in complete][len(unplaced) :] == [
        (part.subject, part.payload) for part in parts
    ]
    assert all(part.subject == SCRATCH.subject for part in complete[: len(unplaced)])


@given(batches())
def test_a_write_keeps_its_own_guard_and_none_rides_behind_a_write_to_its_subject(
    batch: tuple[list[Part], list[Guard]],
) -> None:
    placed, unplaced = ride(*batch)
    earlier: set[str] = set()
    before: Part | None
    origins = [*[None] * len(unplaced), *batch[0]]
    for before, part in zip(origins, with_scratch(placed, unplaced, SCRATCH), strict=True):
        if before is not None and before.guard is not None:
            assert part.guard == before.guard
        assert part.guard is None or part.guard.subject not in earlier
        earlier.add(part.subject)


@given(batches().filter(lambda batch: bool(batch[0] or batch[1])), st.none() | st.integers(0, 99))
def test_the_messages_are_numbered_and_the_last_commits(
    batch: tuple[list[Part], list[Guard]], after: int | None
) -> None:
    placed, unplaced = ride(*batch)
    parts = with_scratch(placed, unplaced, SCRATCH)
    sent = messages(parts, batch_id="id", after=after)
    assert [(subject, payload) for subject, payload, _ in sent] == [(part.subject, part.payload) for part in parts]
    all_headers = [headers for _, _, headers in sent]
    assert {headers[BATCH_ID] for headers in all_headers} == {"id"}
    assert [headers[BATCH_SEQUENCE] for headers in all_headers] == [str(n) for n in range(1, len(parts) + 1)]
    assert [BATCH_COMMIT in headers for headers in all_headers] == [False] * (len(parts) - 1) + [True]
    assert [headers.get(EXPECTED_SEQUENCE) for headers in all_headers] == [
        None if after is None else str(after),
        *[None] * (len(parts) - 1),
    ]
    for part, headers in zip(parts, all_headers, strict=True):
        if part.guard is None:
            assert EXPECTED_SUBJECT_SEQUENCE not in headers
        else:
            assert headers[EXPECTED_SUBJECT_SEQUENCE] == str(part.guard.sequence)
            assert headers.get(EXPECTED_SUBJECT, part.subject) == part.guard.subject


def test_the_scratch_subject_lies_outside_of_every_filter_of_keys() -> None:
    for prefix in ("", "node.", "guard", "a.b"):
        for bucket in ("b", "guard", "other"):
            assert not scratch_subject("b").startswith(filter_for(bucket, prefix).removesuffix(">"))
    assert not scratch_subject("b").startswith(subject_prefix("b"))
    assert scratch_subject("b") != scratch_subject("c")


def test_a_scratch_message_is_a_marker_that_goes_where_there_are_ttls() -> None:
    assert scratch_part("b", expires=True).headers == {"KV-Operation": "PURGE", "Nats-TTL": "1s"}
    assert scratch_part("b", expires=False).headers == {"KV-Operation": "PURGE"}


@pytest.mark.parametrize(
    ("features", "changes", "named"),
    [
        (NO_ATOMIC, {}, "2.12.1, this is 2.11.11"),
        (BROKEN, {}, "2.12.1, this is 2.12.0"),
        (GOOD, {}, None),
        (GOOD, {"allow_atomic": False}, "allow_atomic"),
        (GOOD, {"mirror": {"name": "KV_source"}}, "mirror"),
    ],
)
def test_a_bucket_takes_transactions_or_says_what_is_missing(
    features: ServerFeatures, changes: dict[str, Any], named: str | None
) -> None:
    refusal = abilities(features, {**to_stream(StoreConfig(name="b"), features), **changes}).transactions
    assert refusal is None if named is None else named in (refusal or "")


def test_fencing_needs_a_server_that_reads_the_header() -> None:
    for features, named in (
        (ServerFeatures(version=(2, 10, 29), api_level=0), "2.11, this is 2.10.29"),
        (ServerFeatures(version=(2, 11, 0), api_level=1), None),
    ):
        refusal = abilities(features, to_stream(StoreConfig(name="b"), features)).fencing
        assert refusal is None if named is None else named in (refusal or "")


def test_a_bucket_of_another_client_has_no_scratch_subject() -> None:
    body = to_stream(StoreConfig(name="b"), GOOD)
    assert abilities(GOOD, body).scratch == SCRATCH
    assert abilities(GOOD, {**body, "subjects": ["$KV.b.>"]}).scratch is None
    assert abilities(NO_ATOMIC, to_stream(StoreConfig(name="b"), NO_ATOMIC)).scratch is None
