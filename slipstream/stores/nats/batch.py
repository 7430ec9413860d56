"""Which guard rides on which message of an atomic batch. Pure.

A message carries one guard: the revision that a subject must be at. It may be another subject than its own, and not
one that an earlier message of the batch writes to (10164); so the guard of a key that is written rides on that write,
and the other guards on whatever message is free. Verified on 2.12.1, 2.12.8, 2.14.6 and 2.15.1, on one server and on
three replicas under concurrent writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from slipstream.stores.nats.decode import (
    BATCH_COMMIT,
    BATCH_ID,
    BATCH_SEQUENCE,
    EXPECTED_SEQUENCE,
    EXPECTED_SUBJECT,
    EXPECTED_SUBJECT_SEQUENCE,
    OPERATION,
    TTL,
    Headers,
)
from slipstream.stores.nats.subjects import scratch_subject


@dataclass(frozen=True, slots=True)
class Guard:
    """The last sequence that a subject must be at, 0 for none; of a filter, the last one that matches it."""

    subject: str
    sequence: int

    def headers(self, of: str) -> dict[str, str]:
        """The headers of the message with subject `of` that carries it."""
        headers = {EXPECTED_SUBJECT_SEQUENCE: str(self.sequence)}
        if self.subject != of:
            headers[EXPECTED_SUBJECT] = self.subject
        return headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One message of a batch, as yet without its place in it."""

    subject: str
    payload: bytes = b""
    headers: Headers = field(default_factory=dict)
    guard: Guard | None = None


def scratch_part(bucket: str, *, expires: bool) -> Part:
    """A message that nobody reads, for a guard to ride on.

    A PURGE marker with a ttl goes without leaving a mark of its own; where there are no ttls the last one stays.
    """
    return Part(subject=scratch_subject(bucket), headers={OPERATION: "PURGE"} | ({TTL: "1s"} if expires else {}))


def ride(parts: Sequence[Part], guards: Iterable[Guard]) -> tuple[list[Part], list[Guard]]:
    """The parts, those without a guard of their own carrying the others; and the guards that found no place."""
    waiting = list(guards)[::-1]
    placed = [replace(part, guard=waiting.pop()) if part.guard is None and waiting else part for part in parts]
    return placed, waiting[::-1]


def with_scratch(parts: Sequence[Part], guards: Iterable[Guard | None], scratch: Part) -> list[Part]:
    """The parts behind one scratch message for each guard: the last of the batch, which watches see, is a write."""
    return [*(replace(scratch, guard=guard) for guard in guards), *parts]


def messages(parts: Sequence[Part], *, batch_id: str, after: int | None = None) -> list[tuple[str, bytes, Headers]]:
    """Subject, payload and headers of each message of the batch.

    Args:
        after: the last sequence that the whole stream must be at; it stands on the first message.
    """
    batch: list[tuple[str, bytes, Headers]] = []
    for number, part in enumerate(parts, 1):
        headers: dict[str, str] = {**part.headers, BATCH_ID: batch_id, BATCH_SEQUENCE: str(number)}
        if part.guard is not None:
            headers |= part.guard.headers(part.subject)
        if number == 1 and after is not None:
            headers[EXPECTED_SEQUENCE] = str(after)
        if number == len(parts):
            headers[BATCH_COMMIT] = "1"
        batch.append((part.subject, part.payload, headers))
    return batch
