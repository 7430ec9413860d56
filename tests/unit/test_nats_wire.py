"""The protocol reader: whatever is cut wherever, the same messages; and nothing that is no protocol goes unnoticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.stores.nats.decode import NO_HEADERS
from slipstream.stores.nats.lane import Frame, read_frame
from slipstream.stores.nats.wire import (
    MAX_LINE,
    MAX_MESSAGE,
    WireError,
    WireReader,
    error_text,
    publish_command,
    subscribe_command,
    unsubscribe_command,
)

Seen = tuple[bytes, str, str, bytes, dict[str, str], int | None, str]
HEAD = b"NATS/1.0\r\nA: 1\r\nB:two\r\n\r\n"
HEARTBEAT = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 5\r\nNats-Last-Stream: 7\r\n\r\n"


class Listening:
    """A reader with two subscriptions, and what reached them."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.others: list[bytes] = []
        self.calls: list[int] = []
        self.reader = WireReader({sid: self._taker(sid) for sid in (b"s1", b"s2")})

    def _taker(self, sid: bytes):  # type: ignore[no-untyped-def]
        def take(frames: list[Frame]) -> None:
            self.calls.append(len(frames))
            messages = map(read_frame, frames)
            self.seen += [(sid, m.subject, m.reply, m.data, dict(m.headers), m.status, m.description) for m in messages]

        return take

    def feed(self, *chunks: bytes) -> Listening:
        for chunk in chunks:
            self.others += self.reader.feed(chunk)
        return self


def msg(sid: bytes, data: bytes, *, subject: bytes = b"a.b", reply: bytes = b"") -> bytes:
    return b"MSG %b %b %b%d\r\n%b\r\n" % (subject, sid, reply + b" " if reply else b"", len(data), data)


def hmsg(sid: bytes, head: bytes, data: bytes, *, subject: bytes = b"a.b", reply: bytes = b"") -> bytes:
    front = reply + b" " if reply else b""
    return b"HMSG %b %b %b%d %d\r\n%b%b\r\n" % (subject, sid, front, len(head), len(head) + len(data), head, data)


# What is in a message.


def test_a_message() -> None:
    assert Listening().feed(msg(b"s1", b"data")).seen == [(b"s1", "a.b", "", b"data", {}, None, "")]
    assert Listening().feed(msg(b"s2", b"", reply=b"r.1")).seen == [(b"s2", "a.b", "r.1", b"", {}, None, "")]


def test_headers() -> None:
    (seen,) = Listening().feed(hmsg(b"s1", HEAD, b"data", reply=b"r")).seen
    assert seen == (b"s1", "a.b", "r", b"data", {"A": "1", "B": "two"}, None, "")


def test_a_status_with_headers() -> None:
    (seen,) = Listening().feed(hmsg(b"s1", HEARTBEAT, b"")).seen
    assert seen[4:] == ({"Nats-Last-Consumer": "5", "Nats-Last-Stream": "7"}, 100, "Idle Heartbeat")


@pytest.mark.parametrize("head", [b"NATS/1.0 503\r\n\r\n", b"NATS/1.0  503 \r\n\r\n"])
def test_a_status_without_a_text(head: bytes) -> None:
    (seen,) = Listening().feed(hmsg(b"s1", head, b"")).seen
    assert seen[4:] == ({}, 503, "")


def test_an_empty_reply_field() -> None:
    # nats-server 2.9 leaves two spaces where the reply subject would be (PROTOCOL.md, d).
    line = b"HMSG a.b s1  %d %d\r\n%b\r\n" % (len(HEARTBEAT), len(HEARTBEAT), HEARTBEAT)
    (seen,) = Listening().feed(line).seen
    assert (seen[2], seen[5]) == ("", 100)


def test_a_header_of_the_server_stands_behind_the_stored_one() -> None:
    head = b"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Sequence: 2\r\n\r\n"
    (seen,) = Listening().feed(hmsg(b"s1", head, b"")).seen
    assert seen[4] == {"Nats-Sequence": "2"}


def test_data_that_looks_like_protocol() -> None:
    data = b"\r\nMSG a s1 3\r\nabc\r\nPING\r\n"
    listening = Listening().feed(msg(b"s1", data), b"PING\r\n")
    assert [seen[3] for seen in listening.seen] == [data]
    assert listening.others == [b"PING\r\n"]


# Who gets it.


def test_messages_that_follow_each_other_are_handed_over_together() -> None:
    listening = Listening().feed(msg(b"s1", b"1") + msg(b"s1", b"2") + msg(b"s2", b"3") + msg(b"s1", b"4"))
    assert [seen[3] for seen in listening.seen] == [b"1", b"2", b"3", b"4"]
    assert listening.calls == [2, 1, 1]


def test_a_subscription_that_is_gone_gets_nothing() -> None:
    listening = Listening().feed(msg(b"s9", b"late") + msg(b"s1", b"1"))
    assert (len(listening.seen), listening.others) == (1, [])


def test_everything_else_is_handed_back_whole() -> None:
    foreign = [
        b"PING\r\n",
        b"PONG\r\n",
        b"+OK\r\n",
        b"-ERR 'Permissions Violation for Publish to \"a.B\"'\r\n",
        b'INFO {"ldm": true}\r\n',
        msg(b"12", b"not ours \r\n"),
        hmsg(b"12", HEAD, b"not ours", reply=b"r"),
    ]
    stream = b"".join(part + msg(b"s1", b"ours") for part in foreign)
    listening = Listening().feed(stream)
    assert listening.others == foreign
    assert len(listening.seen) == len(foreign)


def test_a_long_info() -> None:
    line = b"INFO {" + b'"connect_urls":"' + b"x" * 100_000 + b'"}\r\n'
    assert Listening().feed(line[:5000], line[5000:]).others == [line]


def test_the_text_of_an_error() -> None:
    text = 'Permissions Violation for Publish to "a.B"'
    assert error_text(f"-ERR '{text}'\r\n".encode()) == text
    assert error_text(b"-ERR\r\n") == ""
    assert error_text(b"PING\r\n") is None


# Cuts.

sids = st.sampled_from([b"s1", b"s2", b"7"])
tokens = st.from_regex(rb"[a-z0-9_$]{1,8}(\.[a-z0-9]{1,8}){0,2}", fullmatch=True)
operations = st.one_of(
    st.builds(
        lambda sid, data, reply: msg(sid, data, reply=reply), sids, st.binary(max_size=40), tokens | st.just(b"")
    ),
    st.builds(lambda sid, data: hmsg(sid, HEAD, data), sids, st.binary(max_size=40)),
    st.builds(lambda sid: hmsg(sid, HEARTBEAT, b""), sids),
    st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'x'\r\n", b'INFO {"a": 1}\r\n']),
)


@given(st.lists(operations, max_size=12), st.data())
def test_cuts_make_no_difference(conversation: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(conversation)
    whole = Listening().feed(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    cut = Listening().feed(*pieces)
    assert (cut.seen, cut.others) == (whole.seen, whole.others)
    byte_by_byte = Listening().feed(*(stream[i : i + 1] for i in range(len(stream))))
    assert (byte_by_byte.seen, byte_by_byte.others) == (whole.seen, whole.others)
    assert len(whole.seen) + len(whole.others) == len(conversation)


@given(st.lists(operations, min_size=1, max_size=5), st.lists(operations, max_size=5), st.data())
def test_half_a_message_ends_with_its_connection(before: list[bytes], after: list[bytes], data: st.DataObject) -> None:
    torn = b"".join(before)
    Listening().feed(torn[: data.draw(st.integers(0, len(torn)))])
    # The next connection has a reader of its own: it sees what a first one would.
    assert Listening().feed(b"".join(after)).seen == Listening().feed(*after).seen


def test_a_large_message_in_small_pieces() -> None:
    message = msg(b"s1", b"x" * 3_000_000)
    listening = Listening().feed(*(message[i : i + 4096] for i in range(0, len(message), 4096)))
    assert len(listening.seen[0][3]) == 3_000_000


# What is no protocol.


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b"MSG a s1\r\n",
        b"MSG a s1 r 1 1\r\nx\r\n",
        b"MSG a s1 x\r\n",
        b"MSG a s1 -1\r\n",
        b"HMSG a s1 12\r\n",
        b"HMSG a s1 20 12\r\n",
        b"HMSG a s1 -1 12\r\n",
        b"MSG a s1 3\r\nabcd\r\n",
        b"MSG a s1 %d\r\n" % (MAX_MESSAGE + 1),
        b"x" * (MAX_LINE + 1),
    ],
)
def test_what_is_no_protocol(line: bytes) -> None:
    with pytest.raises(WireError):
        Listening().feed(line)


def test_a_subject_that_is_no_text_harms_nobody() -> None:
    (seen,) = Listening().feed(msg(b"s1", b"x", subject=b"a.\xff")).seen
    assert seen[1] == "a.\N{REPLACEMENT CHARACTER}"


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waited_out(noise: bytes) -> None:
    try:
        Listening().feed(noise)
    except WireError as error:
        assert str(error)  # noqa: PT017 - either outcome is right, another exception is not


# What is sent.


def test_publishing() -> None:
    assert publish_command("a.b", "r", b"data", NO_HEADERS) == b"PUB a.b r 4\r\ndata\r\n"
    assert publish_command("a.b", "", b"", NO_HEADERS) == b"PUB a.b  0\r\n\r\n"
    sent = publish_command("a.b", "r", b"data", {"A": "1", "B": "ü"})
    head = "NATS/1.0\r\nA: 1\r\nB: ü\r\n\r\n".encode()
    assert sent == b"HPUB a.b r %d %d\r\n" % (len(head), len(head) + 4) + head + b"data\r\n"


def test_subscribing() -> None:
    assert subscribe_command("a.*", b"s1") == b"SUB a.* s1\r\n"
    assert unsubscribe_command(b"s1") == b"UNSUB s1\r\n"
