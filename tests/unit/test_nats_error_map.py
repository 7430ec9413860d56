"""Answers of the server and what they are to a caller: every code, and whatever else may come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from slipstream.stores.nats.error_map import (
    ApiError,
    CreateOutcome,
    CreateReply,
    classify_create_reply,
    denied_subject,
    parse_api_error,
    permission_denied,
    reports_expiry,
    to_kv_error,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def classify(answer: Any) -> CreateReply:
    return classify_create_reply(json.dumps(answer).encode())


class TestCreateReply:
    @pytest.mark.parametrize(
        "answer",
        [
            {"type": "io.nats.jetstream.api.v1.stream_create_response", "config": {}, "did_create": True},
            {"config": {}, "created": "2026-11-21T01:02:03Z"},
            {"error": None},
            {},
        ],
    )
    def test_created(self, answer: dict[str, Any]) -> None:
        assert classify(answer) == CreateReply(CreateOutcome.CREATED)

    @pytest.mark.parametrize(
        "error",
        [
            {"code": 400, "err_code": 10058, "description": "stream name already in use"},
            {"code": 10058, "description": "stream name already in use"},
            {"code": 10058},
            {"err_code": 10058},
        ],
    )
    def test_already_exists_in_either_field(self, error: dict[str, Any]) -> None:
        assert classify({"error": error}).outcome is CreateOutcome.ALREADY_EXISTS

    @pytest.mark.parametrize(
        "error",
        [
            {"code": 400, "err_code": 10027, "description": "maximum number of streams reached"},
            {"code": 400, "description": "Maximum Number Of Streams reached"},
        ],
    )
    def test_limit_reached(self, error: dict[str, Any]) -> None:
        assert classify({"error": error}).outcome is CreateOutcome.LIMIT_REACHED

    @pytest.mark.parametrize(
        ("error", "code", "err_code", "description"),
        [
            ({"code": 400}, 400, None, ""),
            ({"code": 400, "description": "bad request"}, 400, None, "bad request"),
            ({"code": 500, "err_code": 10074, "description": "replicas > 1"}, 500, 10074, "replicas > 1"),
            ({"code": 500, "description": "maximum number of streams"}, 500, None, "maximum number of streams"),
            ({"description": "no code at all"}, None, None, "no code at all"),
            ({"code": "400", "err_code": True}, None, None, ""),
            ({}, None, None, ""),
            ("a text", None, None, "a text"),
            ([10058], None, None, "[10058]"),
            (7, None, None, "7"),
        ],
    )
    def test_failed(self, error: Any, code: int | None, err_code: int | None, description: str) -> None:
        reply = classify({"error": error})
        assert reply.outcome is CreateOutcome.FAILED
        assert reply.error is not None
        assert (reply.error.code, reply.error.err_code, reply.error.description) == (code, err_code, description)

    @pytest.mark.parametrize(
        "payload",
        [b"", b"+OK", b"{", b"\xff\xfe\x00", b"null", b"[]", b"10058", b'"text"', b'{"error":', b"[" * 100_000],
    )
    def test_unparseable(self, payload: bytes) -> None:
        assert classify_create_reply(payload) == CreateReply(CreateOutcome.UNPARSEABLE)

    @given(st.binary() | anything.map(lambda value: json.dumps(value).encode()))
    def test_no_bytes_make_it_raise(self, payload: bytes) -> None:
        classify_create_reply(payload)

    @given(anything)
    def test_no_error_makes_it_raise(self, error: Any) -> None:
        reply = classify({"error": error})
        assert (reply.error is None) == (reply.outcome is CreateOutcome.CREATED)


class TestApiErrors:
    def test_an_answer_without_error(self) -> None:
        assert parse_api_error({"type": "x", "streams": []}) is None

    def test_an_answer_with_error(self) -> None:
        error = parse_api_error({"error": {"code": 404, "err_code": 10059, "description": "stream not found"}})
        assert error is not None
        assert (error.code, error.err_code, error.description) == (404, 10059, "stream not found")
        assert str(error) == "404/10059 'stream not found'"

    @pytest.mark.parametrize(
        ("err_code", "kind"),
        [
            (10071, RevisionMismatchError),
            (10164, RevisionMismatchError),
            (10059, StoreNotFoundError),
            (10077, StoreFullError),
            (10002, StoreFullError),
            (10047, StoreFullError),
            (10028, StoreFullError),
            (10054, ValueTooLargeError),
            (10039, UnsupportedError),
            (10025, OperationFailedError),
            (99999, OperationFailedError),
            (None, OperationFailedError),
        ],
    )
    def test_every_code(self, err_code: int | None, kind: type[KvError]) -> None:
        error = to_kv_error(ApiError(400, err_code, "what the server said"), store="b", key="k")
        assert type(error) is kind
        assert (error.store, error.key, error.outcome_unknown) == ("b", "k", False)
        assert "'b'" in str(error)
        assert "'k'" in str(error)

    @pytest.mark.parametrize("err_code", [10077, 10002, 10047, 10028, 10054, 10025])
    def test_the_words_of_the_server_are_kept(self, err_code: int) -> None:
        assert "maximum bytes exceeded" in str(
            to_kv_error(ApiError(503, err_code, "maximum bytes exceeded"), store="b")
        )

    def test_what_has_no_exception_of_its_own_keeps_its_numbers(self) -> None:
        error = to_kv_error(ApiError(400, 10025, "invalid JSON"), store="b")
        assert isinstance(error, OperationFailedError)
        assert (error.code, error.err_code) == (400, 10025)

    @pytest.mark.parametrize(
        ("err_code", "description", "actual"),
        [
            (10071, "wrong last sequence: 17", VersionToken.from_u64(17)),
            (10071, "wrong last sequence: 0", VersionToken.from_u64(0)),
            (10164, "wrong last sequence", None),
            (10071, "wrong last sequence: ", None),
            (10071, "wrong last sequence: ٣", None),
            (10071, f"wrong last sequence: {2**64}", None),
            (10071, f"wrong last sequence: {'9' * 5000}", None),
        ],
    )
    def test_a_mismatch_tells_the_revision_where_the_server_does(
        self, err_code: int, description: str, actual: VersionToken | None
    ) -> None:
        expected = VersionToken.from_u64(3)
        error = to_kv_error(ApiError(400, err_code, description), store="b", key="k", expected=expected)
        assert isinstance(error, RevisionMismatchError)
        assert (error.expected, error.actual) == (expected, actual)

    def test_the_questions_that_are_asked_of_an_error(self) -> None:
        assert ApiError(404, 10059, "").is_stream_missing
        assert not ApiError(404, 10037, "").is_stream_missing
        assert ApiError(503, 10008, "").is_temporary
        assert not ApiError(503, 10077, "").is_temporary
        assert ApiError(400, 10071, "").is_mismatch
        assert ApiError(400, 10164, "").is_mismatch
        assert not ApiError(400, 10060, "").is_mismatch

    @given(st.dictionaries(st.sampled_from(["error", "type"]), anything), st.text())
    def test_no_answer_makes_it_raise(self, answer: dict[str, Any], text: str) -> None:
        error = parse_api_error(answer)
        if error is not None:
            assert isinstance(to_kv_error(error, store="b"), KvError)
        assert isinstance(to_kv_error(ApiError(400, 10071, f"wrong last sequence: {text}"), store="b"), KvError)


class TestExpiryTexts:
    @pytest.mark.parametrize(
        "text",
        [
            "start sequence is not available",
            "First Sequence moved on",
            "SEQUENCE NOT FOUND",
            "consumer start is Too Old for this stream",
            "optional start sequence too old",
        ],
    )
    def test_reported(self, text: str) -> None:
        assert reports_expiry(text)

    @pytest.mark.parametrize(
        "text", ["", "sequence", "wrong last sequence: 7", "stream not found", "tooold", "start  sequence"]
    )
    def test_not_reported(self, text: str) -> None:
        assert not reports_expiry(text)

    texts = ("start sequence", "first sequence", "sequence not found", "too old")

    @given(st.text(), st.sampled_from(texts), st.text(), st.booleans())
    def test_found_anywhere_in_any_case(self, before: str, words: str, after: str, upper: bool) -> None:
        assert reports_expiry(before + (words.upper() if upper else words) + after)

    @given(st.text())
    def test_found_nowhere_else(self, text: str) -> None:
        assert reports_expiry(text) == any(words in text.lower() for words in self.texts)


class TestPermissions:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('nats: permissions violation for publish to "$kv.b.k"', ("publish", "$kv.b.k")),
            ('Permissions Violation for Publish to "$KV.b.k"', ("publish", "$KV.b.k")),
            ('nats: permissions violation for subscription to "_inbox.x.*"', ("subscription", "_inbox.x.*")),
            ('Permissions Violation for Subscription to "a" using queue "q"', ("subscription", "a")),
            ("nats: stale connection", None),
            ("permissions violation", None),
            ("", None),
        ],
    )
    def test_what_was_denied(self, text: str, expected: tuple[str, str] | None) -> None:
        assert denied_subject(text) == expected

    @given(st.text())
    def test_no_text_makes_it_raise(self, text: str) -> None:
        denied_subject(text)

    def test_the_error_says_what_to_allow(self) -> None:
        error = permission_denied("publish", "$KV.b.k", store="b", key="k")
        assert isinstance(error, PermissionDeniedError)
        assert "publish on '$KV.b.k'" in str(error)
