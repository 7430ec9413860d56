"""Key and value codecs: round trips, order, prefixes, damage, rotation."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.codecs import (
    AesGcmCodec,
    BytesCodec,
    Codec,
    EscapingKeyCodec,
    JsonCodec,
    MessagePackCodec,
    RawCodec,
    ZstdCodec,
)
from slipstream.errors import DeserializationError, SerializationError
from slipstream.keys import MAX_KEY_BYTES, check_key, check_prefix

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
ANY = st.text(st.characters(exclude_categories=()), max_size=40)  # lone surrogates too
CLOSE = st.text("zy{~Zé0./-=_\U0010ffff\ud800\x00 ", max_size=4)  # around the edges of what stays itself
KEYS = EscapingKeyCodec()
TOKENS = EscapingKeyCodec("\x1f")

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def same(left: Any, right: Any) -> bool:
    return bool(left == right) and repr(left) == repr(right)


# Keys.


@UNHURRIED
@given(ANY | CLOSE, st.sampled_from([".", "/", "::", "z"]))
def test_any_string_is_a_key_and_comes_back(key: str, separator: str) -> None:
    codec = EscapingKeyCodec(separator)
    encoded = codec.encode(key)
    assert codec.decode(encoded) == key
    if len(encoded) <= MAX_KEY_BYTES:
        check_key(encoded)


@UNHURRIED
@given(st.tuples(ANY, ANY) | st.tuples(CLOSE, CLOSE))
def test_the_order_of_tokens_is_kept(pair: tuple[str, str]) -> None:
    left, right = (token.replace("\x1f", "") for token in pair)
    assert (left < right) == (TOKENS.encode(left) < TOKENS.encode(right))


@UNHURRIED
@given(st.tuples(ANY, ANY) | st.tuples(CLOSE, CLOSE) | CLOSE.flatmap(lambda a: CLOSE.map(lambda b: (a, a + b))))
def test_a_prefix_matches_what_begins_with_it_and_nothing_else(pair: tuple[str, str]) -> None:
    prefix, key = pair
    encoded = KEYS.encode_prefix(prefix)
    check_prefix(encoded)
    assert key.startswith(prefix) == KEYS.encode(key).startswith(encoded)


def test_what_it_looks_like() -> None:
    assert KEYS.encode("user.Anna-Lena.") == "user.Anna-2dLena.-"
    assert KEYS.encode("") == "-"
    assert EscapingKeyCodec("/").encode("a.b/ü z") == "a-2eb.zc3zbc-20z7a"
    assert KEYS.encode_prefix("") == ""
    assert KEYS.encode_prefix("user.") == "user."


@pytest.mark.parametrize("key", ["a-b", "z", "-2", "-41", "a.-2D", "zff", "--", "a..b", "", "=", "ä", "a\n"])
def test_a_key_that_it_did_not_make(key: str) -> None:
    with pytest.raises(DeserializationError, match="not written by this key codec"):
        KEYS.decode(key)


def test_a_separator_is_needed() -> None:
    with pytest.raises(ValueError, match="at least one"):
        EscapingKeyCodec("")


# Values.

AES = AesGcmCodec({"old": bytes(16), "new": bytes(range(32))}, current="new")
CODECS = [
    JsonCodec(),
    MessagePackCodec(),
    JsonCodec() | ZstdCodec(),
    MessagePackCodec() | ZstdCodec() | AES,
]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=repr)
BYTES_CODECS: list[BytesCodec] = [ZstdCodec(), AES]


@every_codec
@UNHURRIED
@given(value=PLAIN)
def test_plain_values_come_back(codec: Codec, value: Any) -> None:
    raw = codec.encode(value, key="a")
    assert raw  # empty would read as absent
    assert same(codec.decode(raw, key="a"), value)


@pytest.mark.parametrize("codec", BYTES_CODECS, ids=repr)
@UNHURRIED
@given(raw=st.binary(max_size=200))
def test_bytes_come_back(codec: BytesCodec, raw: bytes) -> None:
    encoded = codec.encode(raw, key="a")
    assert encoded
    assert codec.decode(encoded, key="a") == raw


@every_codec
@pytest.mark.parametrize("value", [object(), {1, 2}, 2**70 + 0.5j])
def test_what_is_not_plain_is_refused_and_not_shown(codec: Codec, value: Any) -> None:
    with pytest.raises(SerializationError, match=r"key 'a': no (JSON|MessagePack)") as caught:
        codec.encode({"secret": value}, key="a")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_has_no_nan(value: float) -> None:
    with pytest.raises(SerializationError):
        JsonCodec().encode(value, key="a")


def test_too_deep_is_an_error_of_ours() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for codec in (JsonCodec(), MessagePackCodec()):
        with pytest.raises(SerializationError):
            codec.encode(deep, key="a")
    with pytest.raises(DeserializationError):
        JsonCodec().decode(b"[" * 100_000, key="a")
    while deep:  # freed step by step: some interpreters recurse
        deep = deep[0]


@every_codec
@UNHURRIED
@given(raw=st.binary(max_size=60))
def test_whatever_is_stored_gives_a_value_or_an_error_of_ours(codec: Codec, raw: bytes) -> None:
    try:
        codec.decode(raw, key="a.key")
    except DeserializationError as error:
        refused = error
    else:
        return
    assert (refused.key, refused.__cause__) == ("a.key", None)


def test_raw_bytes() -> None:
    codec = RawCodec() | AES
    assert codec.decode(codec.encode(b"x", key="a"), key="a") == b"x"
    with pytest.raises(SerializationError, match="bytes are wanted, not str"):
        codec.encode("x", key="a")


# Compression.


@pytest.mark.parametrize("raw", [b"", bytes(3), b"abc" * 15, bytes(range(180)), bytes(300)], ids=len)
def test_a_damaged_bit_is_noticed(raw: bytes) -> None:
    whole = ZstdCodec().encode(raw, key="a")
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with suppress(DeserializationError):  # else some bits of the head say nothing
            assert ZstdCodec().decode(bytes(damaged), key="a") == raw


def test_a_bomb_is_refused() -> None:
    codec = ZstdCodec(max_decoded_bytes=1000)
    assert codec.decode(codec.encode(bytes(1000), key="a"), key="a") == bytes(1000)
    with pytest.raises(DeserializationError, match="more than 1000 bytes"):
        codec.decode(codec.encode(bytes(1001), key="a"), key="a")
    # One that does not say how much it is, too.
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(5000))
    with pytest.raises(DeserializationError, match="more than 1000 bytes"):
        codec.decode(streamed, key="a")


def test_what_is_no_single_whole_frame() -> None:
    codec = ZstdCodec()
    whole = codec.encode(b"value" * 100, key="a")
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(range(256)) * 8)
    assert codec.decode(streamed, key="a") == bytes(range(256)) * 8
    for frame in (whole, streamed):
        for raw in (*(frame[:end] for end in range(len(frame))), frame + b"x", frame + frame, frame + bytes(300)):
            with pytest.raises(DeserializationError, match="no Zstandard frame, or a damaged one"):
                codec.decode(raw, key="a")


def test_levels() -> None:
    for level in (0, 23):
        with pytest.raises(ValueError, match="level is 1 to 22"):
            ZstdCodec(level=level)


# Encryption.


def test_a_value_under_an_old_key_is_read_after_rotation() -> None:
    before = AesGcmCodec({"old": bytes(16)}, current="old")
    raw = before.encode(b"value", key="a")
    assert AES.decode(raw, key="a") == b"value"
    assert (AES.key_id(raw), AES.key_id(AES.encode(b"value", key="a"))) == ("old", "new")
    with pytest.raises(DeserializationError, match="encrypted with key 'new', and that is not among"):
        before.decode(AES.encode(b"value", key="a"), key="a")


def test_a_value_is_bound_to_its_key() -> None:
    raw = AES.encode(b"value", key="a")
    with pytest.raises(DeserializationError, match=r"key 'b'.* does not belong here"):
        AES.decode(raw, key="b")


def test_every_changed_bit_is_noticed() -> None:
    raw = AES.encode(b"value", key="a")
    for position in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(DeserializationError):
            AES.decode(bytes(changed), key="a")
    for end in range(len(raw)):
        with pytest.raises(DeserializationError):
            AES.decode(raw[:end], key="a")


def test_the_same_value_never_looks_the_same() -> None:
    assert len({AES.encode(b"value", key="a") for _ in range(100)}) == 100
    assert b"value" not in AES.encode(b"value", key="a")


def test_no_key_is_shown() -> None:
    secret = b"0123456789abcdef"
    assert "0123" not in repr(JsonCodec() | AesGcmCodec({"k": secret}, current="k"))
    with pytest.raises(ValueError, match="key 'k' has 15 bytes") as caught:
        AesGcmCodec({"k": secret[1:]}, current="k")
    assert "123" not in str(caught.value)
    with pytest.raises(ValueError, match="no key 'x' to write with"):
        AesGcmCodec({"k": secret}, current="x")
    with pytest.raises(ValueError, match="1 to 255"):
        AesGcmCodec({"": secret}, current="")
