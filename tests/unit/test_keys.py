"""What a legal key, prefix and bucket name is."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import InvalidKeyError
from slipstream.keys import MAX_KEY_BYTES, check_bucket, check_key, check_prefix

ALPHABET = string.ascii_letters + string.digits + "-/_="
tokens = st.text(ALPHABET, min_size=1, max_size=12)
keys = st.lists(tokens, min_size=1, max_size=6).map(".".join)

NEVER_LEGAL = [
    "a..b", "..", ".a", "a b", " a", "a ", "a\n", "\na", "a\tb", "a\r\n", "a\0",
    "*", "a.*", "a*", ">", "a.>", "a>", "$KV", "a$", "a:b", "a#", "a,b", "a+b", "a%b", "a@b", "a\\b", "é", "ключ", "٣",
    "a\u2028", "\ud800",
]  # fmt: skip


def spells_a_key(text: str) -> bool:
    """The rule once more, in other words."""
    return all(token and set(token) <= set(ALPHABET) for token in text.split("."))


@given(keys)
def test_a_legal_key_is_returned(key: str) -> None:
    assert check_key(key) == key


@given(keys, st.data())
def test_every_beginning_of_a_legal_key_is_a_prefix(key: str, data: st.DataObject) -> None:
    prefix = key[: data.draw(st.integers(0, len(key)))]
    assert check_prefix(prefix) == prefix


@given(st.one_of(st.text(max_size=20), st.text(ALPHABET + ".*>\n $", max_size=20)))
def test_a_key_is_tokens_joined_by_single_dots_and_nothing_else(text: str) -> None:
    assert is_accepted(check_key, text) == spells_a_key(text)


@given(st.one_of(st.text(max_size=20), st.text(ALPHABET + ".*>\n $", max_size=20)))
def test_a_prefix_is_the_beginning_of_some_key(text: str) -> None:
    assert is_accepted(check_prefix, text) == spells_a_key(text + "a")


@given(st.text(ALPHABET + ".", max_size=20))
def test_a_bucket_name_is_letters_digits_dash_and_underscore(text: str) -> None:
    assert is_accepted(check_bucket, text) == (bool(text) and set(text) <= set(ALPHABET) - set("/="))


@pytest.mark.parametrize("text", NEVER_LEGAL, ids=ascii)
@pytest.mark.parametrize("check", [check_key, check_prefix, check_bucket])
def test_what_is_legal_nowhere(check: Callable[[str], str], text: str) -> None:
    with pytest.raises(InvalidKeyError):
        check(text)


@pytest.mark.parametrize("key", ["", ".", "a."])
def test_a_key_is_whole(key: str) -> None:
    with pytest.raises(InvalidKeyError):
        check_key(key)


@pytest.mark.parametrize("prefix", ["", "a", "a.", "a.b", "a.b."])
def test_a_prefix_may_be_empty_and_may_end_in_a_dot(prefix: str) -> None:
    assert check_prefix(prefix) == prefix


def test_a_prefix_is_not_a_dot() -> None:
    with pytest.raises(InvalidKeyError):
        check_prefix(".")


@pytest.mark.parametrize("check", [check_key, check_prefix])
def test_the_length_of_a_key_and_of_a_prefix(check: Callable[[str], str]) -> None:
    assert MAX_KEY_BYTES == 1024
    longest = "k" * MAX_KEY_BYTES
    assert check(longest) == longest
    with pytest.raises(InvalidKeyError, match="at most 1024 bytes"):
        check(longest + "k")


def test_the_length_of_a_bucket_name() -> None:
    assert check_bucket("b" * 252) == "b" * 252
    with pytest.raises(InvalidKeyError, match="at most 252 bytes"):
        check_bucket("b" * 253)


@pytest.mark.parametrize("check", [check_key, check_prefix, check_bucket])
@pytest.mark.parametrize("value", [b"key", 1, None, ["key"]], ids=repr)
def test_what_is_no_text(check: Callable[[object], str], value: object) -> None:
    with pytest.raises(InvalidKeyError):
        check(value)


@pytest.mark.parametrize("check", [check_key, check_prefix])
def test_the_error_names_the_store_and_the_key(check: Callable[..., str]) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        check("a b", store="config")
    assert (caught.value.store, caught.value.key) == ("config", "a b")
    assert str(caught.value).startswith("store 'config', key 'a b': ")
    assert isinstance(caught.value, ValueError)
    assert not caught.value.retryable


def test_the_error_of_a_bucket_name_names_it() -> None:
    with pytest.raises(InvalidKeyError, match=r"store 'a\.b'"):
        check_bucket("a.b")


@given(st.text(min_size=1025, max_size=3000))
def test_the_error_does_not_repeat_a_long_key(key: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        check_key(key)
    assert caught.value.key is not None
    assert len(caught.value.key) <= 80


def is_accepted(check: Callable[[str], str], text: str) -> bool:
    try:
        return check(text) == text
    except InvalidKeyError:
        return False
