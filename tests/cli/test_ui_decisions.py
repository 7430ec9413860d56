"""What the live view decides without a server or a terminal."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.cli.options import Options
from slipstream.cli.render import as_text
from slipstream.cli.ui.claims import Claim, candidates, claims
from slipstream.cli.ui.index import KeyIndex
from slipstream.cli.ui.lines import connection_line
from slipstream.cli.ui.values import SHOWN_BYTES, View, value_difference, view_value
from slipstream.cli.ui.visitor import Visit
from slipstream.coordination.records import Holder, Presence
from slipstream.model import ConnectionEvent, ConnectionState, KvEntry, KvUpdate, Operation, VersionToken
from slipstream.stores.nats.watchers import Watcher, watcher_of

KEYS = st.text("ab.", min_size=1, max_size=3)
WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)


def update(key: str, operation: Operation = Operation.PUT) -> KvUpdate:
    value = b"v" if operation is Operation.PUT else b""
    return KvUpdate(operation=operation, key=key, value=value, version=VersionToken.from_u64(1))


class TestIndex:
    @given(st.sets(KEYS), st.lists(st.lists(st.tuples(KEYS, st.sampled_from(Operation)))), KEYS | st.just(""))
    def test_it_is_what_a_set_would_be(
        self, keys: set[str], batches: list[list[tuple[str, Operation]]], prefix: str
    ) -> None:
        index, model = KeyIndex(keys), set(keys)
        for batch in batches:
            before = set(model)
            for key, operation in batch:
                (model.add if operation is Operation.PUT else model.discard)(key)
            assert index.apply([update(*change) for change in batch]) is (before != model)
            assert list(index.matching()) == sorted(model)
        assert list(index.matching(prefix)) == sorted(key for key in model if key.startswith(prefix))
        assert len(index) == len(model)
        assert all((key in index) is (key in model) for key in {*keys, "nothing"})


class TestValues:
    @pytest.mark.parametrize(
        ("value", "view", "expected"),
        [
            (b'{"b":1,"a":"\xc3\xa9"}', View.AUTO, (View.JSON, '{\n  "b": 1,\n  "a": "é"\n}')),
            (b"12", View.AUTO, (View.TEXT, "12")),
            (b"12", View.JSON, (View.JSON, "12")),
            (b"no json", View.JSON, (View.TEXT, "no json")),
            (b'{"a":1}', View.TEXT, (View.TEXT, '{"a":1}')),
            (b"\xff\x00", View.TEXT, (View.HEX, f"00000000  {'ff 00':<48} ..")),
            (b"ab", View.HEX, (View.HEX, f"00000000  {'61 62':<48} ab")),
            (b'"\\u009b2J"', View.JSON, (View.JSON, '"\\u009b2J"')),
            (b"a\rb\tc", View.TEXT, (View.TEXT, "a␍b c")),
        ],
    )
    def test_how_it_is_shown(self, value: bytes, view: View, expected: tuple[View, str]) -> None:
        assert view_value(value, view) == expected

    @given(
        st.binary(max_size=200) | st.text().map(str.encode) | st.text().map(lambda text: json.dumps([text]).encode())
    )
    def test_no_value_is_obeyed_by_a_terminal(self, value: bytes) -> None:
        for view in View:
            shown = view_value(value, view)[1]
            assert as_text(shown.encode()) is not None
            assert "\r" not in shown

    @pytest.mark.parametrize("letter", ["a", "é", "€", "😀"])
    @pytest.mark.parametrize("shift", range(4))
    def test_of_a_long_one_the_beginning(self, letter: str, shift: int) -> None:
        value = b"x" * shift + letter.encode() * (SHOWN_BYTES + 1)
        view, shown = view_value(value)
        assert view is View.TEXT
        assert len(shown.encode()) < SHOWN_BYTES + 30
        assert shown.splitlines()[1].startswith("… ")
        assert len(view_value(b"\xff" * 10 * SHOWN_BYTES)[1]) < 6 * SHOWN_BYTES

    def test_difference(self) -> None:
        assert value_difference(b'{"a":1,"b":2}', b'{"a":1,"b":3}') == [
            "@@ -1,4 +1,4 @@",
            " {",
            '   "a": 1,',
            '-  "b": 2',
            '+  "b": 3',
            " }",
        ]
        assert value_difference(b"x", None) == ["@@ -1 +0,0 @@", "-x"]
        assert value_difference(b"x", b"x") == []
        assert value_difference(None, None) == []
        assert "differ only" in value_difference(b"[1]", b"[ 1]")[0]

    def test_views_go_round(self) -> None:
        assert [View.AUTO.next, View.TEXT.next, View.JSON.next, View.HEX.next] == [*list(View)[1:], View.AUTO]


def entry(key: str, value: bytes, revision: int = 7) -> KvEntry:
    return KvEntry(key=key, value=value, version=VersionToken.from_u64(revision), created=WRITTEN)


def claim(kind: str, name: str, who: str, ttl: float | None = 10.0) -> Claim:
    return Claim(kind=kind, name=name, who=who, ttl=ttl, renewed=WRITTEN)


class TestClaims:
    HOLDER = entry("jobs.holder", Holder(name="eu-1", ticket="jobs.queue.1.ticket", id="i1", number=3).encode())

    def test_a_lease_is_held_while_the_ticket_of_its_holder_lives(self) -> None:
        mine = entry("jobs.queue.1.ticket", Presence(id="i1", ttl=10.0, number=3).encode())
        other = entry("jobs.queue.2.ticket", Presence(id="i2", ttl=10.0).encode(), 9)
        assert claims([self.HOLDER, mine, other]) == [claim("lease", "jobs", "eu-1"), claim("waits", "jobs", "place 9")]
        assert claims([self.HOLDER]) == [claim("free lease", "jobs", "was eu-1", None)]
        # The place was taken again, by one who has not won.
        again = entry("jobs.queue.1.ticket", Presence(id="i3", ttl=10.0, number=4).encode())
        assert [one.kind for one in claims([self.HOLDER, again])] == ["free lease", "waits"]

    def test_semaphores_barriers_members_and_what_is_none_of_it(self) -> None:
        presence = Presence(id="i", ttl=10.0, number=5).encode()
        found = claims(
            [
                entry("pool.permits.1.ticket", presence),
                entry("gate.waiting.1", presence),
                entry("workers.w1", presence),
                entry("crew.holder", presence),
                entry("node.a", b"text"),
                entry("node.b", b'{"id": "x"}'),
                entry("other.holder", b"[1]"),
            ]
        )
        assert found == [
            claim("barrier", "gate", "gate.waiting.1"),
            claim("member", "crew", "holder"),
            claim("member", "workers", "w1"),
            claim("semaphore", "pool", "place 5"),
        ]

    def test_of_a_large_store_only_what_its_keys_tell(self) -> None:
        keys = sorted([*(f"k.{number}" for number in range(5000)), "a.holder", "a.queue.1.ticket", "b.waiting.2"])
        told = ["a.holder", "a.queue.1.ticket", "b.waiting.2"]
        assert candidates(keys, stored_bytes=1) == told
        assert candidates(keys[:10], stored_bytes=1) == keys[:10]
        assert candidates(keys[:10], stored_bytes=1 << 40) == told
        assert len(candidates([f"{number}.holder" for number in range(5000)], stored_bytes=1)) == 2000


def test_whose_consumer_it_is() -> None:
    names = {"application": "billing", "host": "h", "pid": "12", "purpose": "watch"}
    info = {
        "config": {"metadata": {f"slipstream.{name}": value for name, value in names.items()}},
        "num_pending": 5,
        "delivered": {"stream_seq": 9},
    }
    assert watcher_of(info) == Watcher(**names, pending=5, delivered=9)
    assert watcher_of({"config": {"metadata": {"application": "billing"}}, "num_pending": 5}) is None
    assert watcher_of({}) is None


@pytest.mark.parametrize(
    ("event", "text", "color"),
    [
        (
            ConnectionEvent(state=ConnectionState.CONNECTED, server="nats://h:1"),
            "● connected nats://h:1",
            "bold green",
        ),
        (ConnectionEvent(state=ConnectionState.RECONNECTING, attempt=3), "● reconnecting, attempt 3", "bold yellow"),
        (ConnectionEvent(state=ConnectionState.LAME_DUCK, server="s"), "● the server goes s", "bold yellow"),
        (ConnectionEvent(state=ConnectionState.DISCONNECTED, reason="EOF"), "● disconnected: EOF", "bold red"),
        (ConnectionEvent(state=ConnectionState.CLOSED), "● closed", "bold red"),
    ],
)
def test_the_state_of_the_connection(event: ConnectionEvent, text: str, color: str) -> None:
    assert connection_line(event) == (text, color)


@pytest.mark.parametrize("creds", [None, Path("/a file.creds")])
def test_a_visitor_gets_what_was_asked_for(creds: Path | None) -> None:
    options = Options(url="nats://u:p@h", context="c", creds=creds, timeout=3.0)
    visit = Visit(options=options, store="s", prefix="p.")
    assert Visit.unpack(visit.pack()) == visit
    assert "p@h" not in repr(visit)
