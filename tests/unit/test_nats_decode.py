"""What stored messages say: tables from real servers, and properties that hold for any input."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slipstream.model import KvUpdate, Operation, VersionToken
from slipstream.stores.nats.decode import (
    AckMetadata,
    is_marker,
    make_update,
    operation_of,
    parse_ack_subject,
    parse_stored_headers,
    parse_time,
    printable,
    time_from_ns,
    value_size,
)

U64_MAX = 2**64 - 1
u64 = st.integers(0, U64_MAX)
tokens = st.from_regex(r"[-_a-zA-Z0-9]{1,12}", fullmatch=True)
no_dots = st.text(st.characters(exclude_characters="."), max_size=12)


class TestAckSubject:
    def test_nine_tokens(self) -> None:
        assert parse_ack_subject("$JS.ACK.KV_b.c.1.15.7.1700000000000000000.42") == AckMetadata(
            stream_sequence=15, consumer_sequence=7, timestamp_ns=1700000000000000000, pending=42
        )

    def test_eleven_tokens(self) -> None:
        assert parse_ack_subject("$JS.ACK.hub.a1b2c3d4.KV_b.c.1.15.7.1700000000000000000.42") == AckMetadata(
            stream_sequence=15, consumer_sequence=7, timestamp_ns=1700000000000000000, pending=42
        )

    def test_twelve_tokens_are_read_from_the_front(self) -> None:
        assert parse_ack_subject("$JS.ACK._.a1b2c3d4.KV_b.c.1.15.7.1700000000000000000.42.99") == AckMetadata(
            stream_sequence=15, consumer_sequence=7, timestamp_ns=1700000000000000000, pending=42
        )

    @pytest.mark.parametrize(
        "reply",
        [
            "",
            ".",
            "........",
            "_INBOX.abc",
            "$JS.ACK",
            "$JS.ACK.KV_b.c.1.15.7.1700000000000000000",  # 8 tokens
            "$JS.ACK.KV_b.c.1.15.7.1700000000000000000.42.9",  # 10 tokens: neither form
            "$JS.FC.KV_b.c.1.15.7.1700000000000000000.42",
            "$js.ack.KV_b.c.1.15.7.1700000000000000000.42",
            "$JS.ACK.KV_b.c.1.x.7.1700000000000000000.42",
            "$JS.ACK.KV_b.c.1.15.7.1700000000000000000.",
            "$JS.ACK.KV_b.c.1.-15.7.1700000000000000000.42",
            "$JS.ACK.KV_b.c.1.+15.7.1700000000000000000.42",
            "$JS.ACK.KV_b.c.1. 15.7.1700000000000000000.42",
            "$JS.ACK.KV_b.c.1.1_5.7.1700000000000000000.42",
            "$JS.ACK.KV_b.c.1.0x15.7.1700000000000000000.42",
            "$JS.ACK.KV_b.c.1.٣.7.1700000000000000000.42",  # a digit to str.isdigit() and to int()
            "$JS.ACK.KV_b.c.1.².7.1700000000000000000.42",  # a digit to str.isdigit(), none to int()
            f"$JS.ACK.KV_b.c.1.{2**64}.7.1700000000000000000.42",
            f"$JS.ACK.KV_b.c.1.15.7.1700000000000000000.{'9' * 5000}",  # int() refuses more than 4300 digits
            "$JS.ACK.hub.a1b2c3d4.KV_b.c.1.15.x.1700000000000000000.42",
        ],
    )
    def test_what_cannot_be_read_is_none(self, reply: str) -> None:
        assert parse_ack_subject(reply) is None

    def test_the_largest_sequence(self) -> None:
        metadata = parse_ack_subject(f"$JS.ACK.KV_b.c.1.{U64_MAX}.{U64_MAX}.{U64_MAX}.{U64_MAX}")
        assert metadata == AckMetadata(U64_MAX, U64_MAX, U64_MAX, U64_MAX)

    @given(stream=tokens, consumer=tokens, delivered=no_dots, metadata=st.builds(AckMetadata, u64, u64, u64, u64))
    def test_short_form_round_trips(self, stream: str, consumer: str, delivered: str, metadata: AckMetadata) -> None:
        numbers = ".".join(str(number) for number in metadata)
        assert parse_ack_subject(f"$JS.ACK.{stream}.{consumer}.{delivered}.{numbers}") == metadata

    @given(
        domain=tokens,
        account=tokens,
        stream=tokens,
        consumer=tokens,
        metadata=st.builds(AckMetadata, u64, u64, u64, u64),
        extras=st.lists(no_dots, max_size=4),
    )
    def test_long_form_round_trips_with_any_extras(
        self, domain: str, account: str, stream: str, consumer: str, metadata: AckMetadata, extras: list[str]
    ) -> None:
        numbers = [str(number) for number in metadata]
        reply = ".".join(["$JS", "ACK", domain, account, stream, consumer, "1", *numbers, *extras])
        assert parse_ack_subject(reply) == metadata

    @given(st.text() | st.lists(st.text(max_size=5), min_size=7, max_size=13).map(".".join))
    @example("$JS.ACK." * 4)
    def test_no_text_makes_it_raise(self, reply: str) -> None:
        metadata = parse_ack_subject(reply)
        assert metadata is None or all(0 <= number <= U64_MAX for number in metadata)

    @given(st.lists(st.sampled_from(["$JS", "ACK", "1", "x", "", "²", str(2**64)]), max_size=14))
    def test_nearly_right_subjects_never_raise(self, parts: list[str]) -> None:
        metadata = parse_ack_subject(".".join(parts))
        assert metadata is None or (parts[:2] == ["$JS", "ACK"] and (len(parts) == 9 or len(parts) >= 11))


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "microseconds"),
        [
            ("2026-11-21T01:02:03Z", 0),
            ("2026-11-21T01:02:03.5Z", 500_000),  # the server trims zeros
            ("2026-11-21T01:02:03.123456Z", 123_456),
            ("2026-11-21T01:02:03.123456789Z", 123_456),
            ("2026-11-21T01:02:03.999999999Z", 999_999),
            ("2026-11-21T03:02:03.123456789+02:00", 123_456),
        ],
    )
    def test_server_times(self, text: str, microseconds: int) -> None:
        assert parse_time(text) == datetime(2026, 11, 21, 1, 2, 3, microseconds, tzinfo=UTC)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "yesterday",
            "2026-11-21T01:02:03",  # no zone: not a moment
            "2026-13-21T01:02:03Z",
            "0001-01-01T00:00:00+10:00",  # a moment before the calendar begins
            "9999-12-31T23:59:59-10:00",
        ],
    )
    def test_what_cannot_be_read_is_none(self, text: str) -> None:
        assert parse_time(text) is None

    @given(
        st.text(max_size=40) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]{1,9})?Z", fullmatch=True)
    )
    def test_no_text_makes_it_raise(self, text: str) -> None:
        moment = parse_time(text)
        assert moment is None or moment.utcoffset() == timedelta()

    @given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1), max_value=datetime(2500, 1, 1)))  # noqa: DTZ001
    def test_nanoseconds_since_1970(self, moment: datetime) -> None:
        nanoseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
        assert time_from_ns(nanoseconds) == moment
        assert time_from_ns(nanoseconds + 999) == moment

    @given(u64)
    def test_every_timestamp_is_a_time(self, nanoseconds: int) -> None:
        moment = time_from_ns(nanoseconds)
        assert moment is not None
        assert moment >= datetime(1970, 1, 1, tzinfo=UTC)

    def test_outside_of_the_calendar_is_none(self) -> None:
        assert time_from_ns(10**30) is None


def stored(block: bytes) -> str:
    return base64.b64encode(block).decode()


class TestStoredHeaders:
    def test_as_the_server_sends_them(self) -> None:
        block = b"NATS/1.0\r\nKV-Operation: DEL\r\nNats-Msg-Id:no-space\r\nX-Url: http://host:80/\r\n\r\n"
        assert parse_stored_headers(stored(block)) == {
            "KV-Operation": "DEL",
            "Nats-Msg-Id": "no-space",
            "X-Url": "http://host:80/",
        }

    def test_names_keep_their_case(self) -> None:
        assert parse_stored_headers(stored(b"NATS/1.0\r\nkv-operation: DEL\r\n\r\n")) == {"kv-operation": "DEL"}

    @pytest.mark.parametrize("encoded", ["", "not base64!", "TkFUUw", stored(b"HTTP/1.1\r\na: b\r\n\r\n"), "€"])
    def test_what_cannot_be_read_is_empty(self, encoded: str) -> None:
        assert parse_stored_headers(encoded) == {}

    def test_bytes_that_are_no_text_do_not_raise(self) -> None:
        assert parse_stored_headers(stored(b"NATS/1.0\r\na: \xff\xfe\r\nb: c\r\n\r\n"))["b"] == "c"

    @given(st.binary(max_size=100))
    def test_no_bytes_make_it_raise(self, block: bytes) -> None:
        parse_stored_headers(stored(b"NATS/1.0" + block))
        assert parse_stored_headers(stored(block)) == {} or block.startswith(b"NATS/1.0")

    names = st.from_regex(r"[-_a-zA-Z0-9]{1,10}", fullmatch=True)
    texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp", "Cs"]), max_size=10)

    @given(st.dictionaries(names, texts))
    def test_round_trip(self, headers: dict[str, str]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        assert parse_stored_headers(stored(f"NATS/1.0\r\n{lines}\r\n".encode())) == headers


def update_of(headers: dict[str, str], data: bytes = b"") -> KvUpdate:
    return make_update(key="k", headers=headers, data=data, version=VersionToken.from_u64(7), created=None)


class TestUpdates:
    @pytest.mark.parametrize(
        ("headers", "data", "operation", "expired", "marker"),
        [
            ({}, b"v", Operation.PUT, False, False),
            ({"Nats-Msg-Id": "1", "Nats-Expected-Last-Subject-Sequence": "0"}, b"v", Operation.PUT, False, False),
            ({"Nats-TTL": "5"}, b"v", Operation.PUT, False, False),
            ({}, b"", Operation.DELETE, False, False),
            ({"Nats-Expected-Last-Subject-Sequence": "3"}, b"", Operation.DELETE, False, False),
            ({"KV-Operation": "DEL"}, b"", Operation.DELETE, False, True),
            ({"KV-Operation": "DEL"}, b"ignored", Operation.DELETE, False, True),
            ({"KV-Operation": "DEL", "Nats-TTL": "5"}, b"", Operation.DELETE, False, True),
            ({"KV-Operation": "PURGE", "Nats-Rollup": "sub"}, b"", Operation.PURGE, False, True),
            ({"KV-Operation": "PURGE", "Nats-Rollup": "all"}, b"", Operation.PURGE, False, True),
            (
                {"Nats-Marker-Reason": "MaxAge", "Nats-TTL": "3s", "Nats-Rollup": "sub"},
                b"",
                Operation.PURGE,
                True,
                True,
            ),
            # 2.11.0 and 2.11.1 write their marker with a condition instead of a rollup.
            (
                {"Nats-Marker-Reason": "MaxAge", "Nats-Expected-Last-Subject-Sequence": "0"},
                b"",
                Operation.PURGE,
                True,
                True,
            ),
            ({"Nats-Marker-Reason": "Purge"}, b"", Operation.PURGE, False, True),
            ({"Nats-Marker-Reason": "Remove"}, b"", Operation.DELETE, False, True),
            ({"Nats-Marker-Reason": "SomethingNew"}, b"", Operation.PURGE, False, True),
            # What a client wrote beats what the server noted.
            ({"KV-Operation": "DEL", "Nats-Marker-Reason": "MaxAge"}, b"", Operation.DELETE, False, True),
            # Names are case-sensitive, as they are to the server.
            ({"kv-operation": "DEL"}, b"v", Operation.PUT, False, False),
            ({"Nats-Rollup": "sub"}, b"v", Operation.PUT, False, False),
        ],
    )
    def test_every_kind_of_record(
        self, headers: dict[str, str], data: bytes, operation: Operation, expired: bool, marker: bool
    ) -> None:
        update = update_of(headers, data)
        assert (update.operation, update.expired, is_marker(headers)) == (operation, expired, marker)
        assert update.value == (data if operation is Operation.PUT else b"")
        assert operation_of(headers, len(data)) == (operation, expired)

    def test_headers_only_takes_the_announced_size(self) -> None:
        assert update_of({"Nats-Msg-Size": "5"}).operation is Operation.PUT
        assert update_of({"Nats-Msg-Size": "0"}).operation is Operation.DELETE
        assert update_of({"Nats-Msg-Size": "0", "KV-Operation": "DEL"}).operation is Operation.DELETE
        assert value_size({"Nats-Msg-Size": "5"}, b"") == 5

    def test_a_size_that_somebody_stored_does_not_hide_the_value(self) -> None:
        assert value_size({"Nats-Msg-Size": "0"}, b"value") == 5
        assert update_of({"Nats-Msg-Size": "0"}, b"value").operation is Operation.PUT

    @pytest.mark.parametrize("announced", ["", "many", "-1", "²"])
    def test_a_size_that_cannot_be_read_counts_the_data(self, announced: str) -> None:
        assert value_size({"Nats-Msg-Size": announced}, b"") == 0

    def test_the_parts_of_an_atomic_commit(self) -> None:
        assert (update_of({}, b"v").transaction, update_of({}, b"v").commit) == (None, False)
        part = update_of({"Nats-Batch-Id": "t1", "Nats-Batch-Sequence": "1"}, b"v")
        assert (part.transaction, part.commit) == ("t1", False)
        last = update_of({"Nats-Batch-Id": "t1", "Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"}, b"v")
        assert (last.transaction, last.commit) == ("t1", True)

    @given(
        st.dictionaries(st.sampled_from(["KV-Operation", "Nats-Marker-Reason", "Nats-Msg-Size"]), st.text()),
        st.binary(),
    )
    def test_only_a_put_has_a_value_and_only_a_purge_is_an_expiry(self, headers: dict[str, str], data: bytes) -> None:
        update = update_of(headers, data)
        assert update.value == (data if update.operation is Operation.PUT else b"")
        assert not update.expired or update.operation is Operation.PURGE


class TestPrintable:
    def test_text(self) -> None:
        assert printable("grüße".encode()) == "grüße"

    def test_other_bytes(self) -> None:
        assert printable(b"\xff\x00a") == "0xff0061"

    def test_nothing(self) -> None:
        assert printable(b"") == ""

    @given(st.binary())
    def test_any_bytes(self, payload: bytes) -> None:
        shown = printable(payload)
        assert shown.encode() == payload or bytes.fromhex(shown.removeprefix("0x")) == payload
