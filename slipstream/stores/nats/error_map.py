"""Answers of the server to errors of ours, in one place, by code. Pure.

Codes: PROTOCOL.md sections a (buckets) and b (writes).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import ahocorasick

from slipstream.errors import (
    KvError,
    OperationFailedError,
    PermissionDeniedError,
    RevisionMismatchError,
    StoreFullError,
    StoreNotFoundError,
    UnsupportedError,
    ValueTooLargeError,
)
from slipstream.model import VersionToken

STREAM_NOT_FOUND = 10059
STREAM_EXISTS = 10058
NO_MESSAGE_FOUND = 10037
CONSUMER_NOT_FOUND = 10014
NOT_ENABLED_FOR_ACCOUNT = 10039
TTL_DISABLED = 10166
ATOMIC_DISABLED = 10174
_NOTHING_TAKEN = frozenset({10176, 10210})
TEMPORARILY_UNAVAILABLE = 10008
NOT_LEADER = 10009
IN_PROCESS = 10158
MAX_BYTES_REQUIRED = 10113
_MISMATCH = frozenset({10071, 10164})
_TOO_LARGE = 10054
_FULL = frozenset({10077, 10002, 10047, 10028})
_WRONG_SEQUENCE = re.compile(r"wrong last sequence: ([0-9]{1,19})\b")


class ApiError(Exception):
    """An error answer of the JetStream API, before it is known what it means to the caller."""

    def __init__(self, code: int | None, err_code: int | None, description: str) -> None:
        super().__init__(code, err_code, description)
        self.code = code
        self.err_code = err_code
        self.description = description

    def __str__(self) -> str:
        return f"{self.code}/{self.err_code} {self.description!r}"

    @property
    def is_stream_missing(self) -> bool:
        return self.err_code == STREAM_NOT_FOUND

    @property
    def is_temporary(self) -> bool:
        """No leader of the cluster right now."""
        return self.err_code in (TEMPORARILY_UNAVAILABLE, NOT_LEADER)

    @property
    def is_mismatch(self) -> bool:
        return self.err_code in _MISMATCH

    @property
    def is_in_process(self) -> bool:
        """The write was sent before under the same id, and it is not known yet what becomes of it."""
        return self.err_code == IN_PROCESS

    @property
    def is_incomplete(self) -> bool:
        """An atomic batch of which something did not arrive, or beside too many others: nothing was stored."""
        return self.err_code in _NOTHING_TAKEN

    @property
    def actual(self) -> int | None:
        """The revision that the server holds, where a mismatch tells it; 0 for none."""
        found = _WRONG_SEQUENCE.search(self.description)
        return int(found[1]) if found else None


def parse_api_error(answer: Mapping[str, Any]) -> ApiError | None:
    """The error in an answer, None where it has none."""
    error = answer.get("error")
    if error is None:
        return None
    if not isinstance(error, Mapping):
        return ApiError(None, None, str(error))
    return ApiError(_number(error.get("code")), _number(error.get("err_code")), str(error.get("description", "")))


def to_kv_error(
    error: ApiError, *, store: str | None, key: str | None = None, expected: VersionToken | None = None
) -> KvError:
    """The exception that an error answer is to the caller."""
    if error.is_mismatch:
        actual = error.actual
        return RevisionMismatchError(
            store=store, key=key, expected=expected, actual=None if actual is None else VersionToken.from_u64(actual)
        )
    if error.is_stream_missing:
        return StoreNotFoundError(store=store, key=key)
    if error.err_code in _FULL:
        return StoreFullError(store=store, key=key, message=error.description)
    if error.err_code == _TOO_LARGE:
        return ValueTooLargeError(store=store, key=key, message=error.description)
    if error.err_code == NOT_ENABLED_FOR_ACCOUNT:
        return UnsupportedError(store=store, key=key, message="JetStream is not enabled for this account")
    if error.err_code == TTL_DISABLED:
        return UnsupportedError(store=store, key=key, message="this bucket takes no ttl any more")
    if error.err_code == ATOMIC_DISABLED:
        return UnsupportedError(store=store, key=key, message="this bucket takes no atomic batches any more")
    return OperationFailedError(
        store=store, key=key, code=error.code, err_code=error.err_code, message=f"the server refused: {error}"
    )


_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)


def denied_subject(text: str) -> tuple[str, str] | None:
    """What was refused (`publish` or `subscription`) and its subject, in a permission error of the server."""
    found = _DENIED.search(text)
    return (found[1].lower(), found[2]) if found else None


def permission_denied(action: str, subject: str, *, store: str | None, key: str | None) -> PermissionDeniedError:
    return PermissionDeniedError(
        store=store,
        key=key,
        message=f"these credentials do not permit {action} on {subject!r}: ask for it to be allowed",
    )


class CreateOutcome(Enum):
    """What a bucket create request came to."""

    CREATED = "created"
    ALREADY_EXISTS = "already exists"
    LIMIT_REACHED = "stream limit reached"
    FAILED = "failed"
    UNPARSEABLE = "unparseable, taken as created"


@dataclass(frozen=True, slots=True)
class CreateReply:
    outcome: CreateOutcome
    error: ApiError | None = None


def classify_create_reply(payload: bytes) -> CreateReply:
    """What the answer to a raw `STREAM.CREATE` means.

    10058 may stand in `code` or in `err_code`. What cannot be read is taken as created: the bucket is looked up again
    in every case before it is handed out.
    """
    try:
        answer = json.loads(payload)
    except (ValueError, RecursionError):
        return CreateReply(CreateOutcome.UNPARSEABLE)
    if not isinstance(answer, dict):
        return CreateReply(CreateOutcome.UNPARSEABLE)
    error = parse_api_error(answer)
    if error is None:
        return CreateReply(CreateOutcome.CREATED)
    if STREAM_EXISTS in (error.code, error.err_code):
        return CreateReply(CreateOutcome.ALREADY_EXISTS, error)
    if error.code == 400 and "maximum number of streams" in error.description.lower():
        return CreateReply(CreateOutcome.LIMIT_REACHED, error)
    return CreateReply(CreateOutcome.FAILED, error)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _automaton(words: tuple[str, ...]) -> ahocorasick.Automaton:
    automaton = ahocorasick.Automaton()
    for word in words:
        automaton.add_word(word, word)
    automaton.make_automaton()
    return automaton


_EXPIRY_TEXTS = _automaton(("start sequence", "first sequence", "sequence not found", "too old"))


def reports_expiry(description: str) -> bool:
    """A server that does report an old start says so in one of these words, in any case."""
    return next(_EXPIRY_TEXTS.iter(description.lower()), None) is not None
