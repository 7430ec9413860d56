"""The filters of prefixes, against a matcher written from the rules of NATS subjects."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.keys import check_key, check_prefix
from slipstream.stores.nats.subjects import (
    api_prefix,
    bucket_name,
    filter_for,
    filters_for,
    stream_name,
    subject_prefix,
)

# Few letters, so that prefixes and keys meet often.
token = st.text("ab", min_size=1, max_size=2)
keys = st.lists(token, min_size=1, max_size=4).map(".".join)


def begin(key: str, length: int) -> str:
    return key[:length]


prefixes = st.just("") | keys | keys.map(lambda key: f"{key}.") | st.builds(begin, keys, st.integers(0, 5))


def matches(filter_subject: str, subject: str) -> bool:
    """Whether a filter with `>` at its end, as the server reads it, takes the subject."""
    wanted, found = filter_subject.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(found) > index
        if index >= len(found) or part != found[index]:
            return False
    return len(found) == len(wanted)


def overlap(one: str, other: str) -> bool:
    """Some subject matches both: decided on the shortest subjects that each of them takes."""
    samples = [one.replace(">", "a"), other.replace(">", "a")]
    return any(matches(one, sample) and matches(other, sample) for sample in samples)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", "$KV.b.>"),
        ("node", "$KV.b.>"),
        ("node.", "$KV.b.node.>"),
        ("node.eu", "$KV.b.node.>"),
        ("node.eu.", "$KV.b.node.eu.>"),
    ],
)
def test_the_server_filters_by_whole_tokens(prefix: str, expected: str) -> None:
    assert filter_for("b", prefix) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], []),
        (["", "node."], ["$KV.b.>"]),
        (["node.", "node."], ["$KV.b.node.>"]),
        (["node.", "nodes."], ["$KV.b.node.>", "$KV.b.nodes.>"]),
        (["a.b.", "a."], ["$KV.b.a.>"]),
        (["a.b.c", "a.b.d"], ["$KV.b.a.b.>"]),
        (["a.b.", "c.", "a.b.c.", "c.d.e."], ["$KV.b.c.>", "$KV.b.a.b.>"]),
    ],
)
def test_covered_filters_are_dropped(wanted: list[str], expected: list[str]) -> None:
    assert filters_for("b", wanted) == expected


@given(wanted=st.lists(prefixes, max_size=6), key=keys)
def test_every_key_with_one_of_the_prefixes_is_delivered_once(wanted: list[str], key: str) -> None:
    wanted = [check_prefix(prefix) for prefix in wanted]
    subject = subject_prefix("b") + check_key(key)
    taken_by = [one for one in filters_for("b", wanted) if matches(one, subject)]
    if key.startswith(tuple(wanted)):
        assert len(taken_by) == 1
    # No filter takes a key that none of the prefixes asked for separately.
    assert bool(taken_by) == any(matches(filter_for("b", prefix), subject) for prefix in wanted)


@given(st.lists(prefixes, max_size=6))
def test_filters_never_overlap(wanted: list[str]) -> None:
    filters = filters_for("b", wanted)
    assert len(set(filters)) == len(filters)
    assert not any(overlap(one, other) for one, other in itertools.combinations(filters, 2))
    assert bool(filters) == bool(wanted)


@given(keys)
def test_a_bucket_whose_name_begins_another_is_not_matched(key: str) -> None:
    assert not matches(filter_for("b", ""), subject_prefix("bb") + key)


def test_stream_names() -> None:
    assert stream_name("config") == "KV_config"
    assert bucket_name("KV_config") == "config"
    assert bucket_name("KV_KV_config") == "KV_config"
    assert bucket_name("ORDERS") is None


def test_the_api_of_a_domain() -> None:
    assert api_prefix(None) == "$JS.API"
    assert api_prefix("hub") == "$JS.hub.API"
