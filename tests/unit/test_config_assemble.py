"""A model of the values under a key or a prefix."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from slipstream.codecs import AesGcmCodec, JsonCodec, MessagePackCodec
from slipstream.config.assemble import Rejected, assemble, is_prefix

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


class Database(BaseModel):
    model_config = ConfigDict(extra="forbid")

    host: str = "localhost"
    pool: int = Field(default=5, ge=1)
    tags: list[str] = []


class Shop(BaseModel):
    currency: str = "EUR"
    vat: float = 19
    open: bool = True
    refresh: timedelta = timedelta(minutes=1)
    password: SecretStr = SecretStr("")
    db: Database = Database()


def under(prefix: str, **values: bytes) -> Shop:
    return assemble(Shop, {prefix + key.replace("__", "."): value for key, value in values.items()}, prefix, None)


@pytest.mark.parametrize(("text", "expected"), [("", True), ("a.", True), ("a.b.", True), ("a", False), ("a.b", False)])
def test_what_is_a_prefix(text: str, expected: bool) -> None:
    assert is_prefix(text) is expected


@pytest.mark.parametrize("prefix", ["", "shop.", "a.b."])
def test_each_key_under_a_prefix_is_a_field(prefix: str) -> None:
    shop = under(
        prefix, currency=b"USD", vat=b"7.5", open=b"false", refresh=b"PT5S", db__host=b"db-1", db__tags=b'["a"]'
    )
    assert shop == Shop(
        currency="USD", vat=7.5, open=False, refresh=timedelta(seconds=5), db=Database(host="db-1", tags=["a"])
    )


@pytest.mark.parametrize("text", ["12", "true", "null", "1e5", '"quoted"', "[1, 2]", "007"])
def test_a_field_that_wants_text_gets_what_is_written(text: str) -> None:
    shop = under("", currency=text.encode(), db__host=text.encode(), password=text.encode())
    wanted = "quoted" if text == '"quoted"' else text
    assert (shop.currency, shop.db.host) == (wanted, wanted)
    assert shop.password.get_secret_value() == wanted


def test_keys_below_an_object_are_put_into_it() -> None:
    assert under("", db=b'{"host": "a", "pool": 2}', db__pool=b"3").db == Database(host="a", pool=3)


def test_a_value_with_keys_below_it_is_rejected() -> None:
    with pytest.raises(Rejected, match=r"db: it holds a value, and so does db\.pool below it"):
        under("", db=b"text", db__pool=b"3")


def test_one_key_holds_the_whole() -> None:
    assert assemble(Shop, {"shop": b'{"vat": 7, "db": {"pool": 2}}'}, "shop", None) == Shop(vat=7, db=Database(pool=2))
    assert assemble(Shop, {}, "shop", None) == Shop()
    for raw, message in [(b"text", "no JSON"), (b"\xff", "no UTF-8"), (b"[]", "should be an object")]:
        with pytest.raises(Rejected, match=message):
            assemble(Shop, {"shop": raw}, "shop", None)


def test_every_wrong_field_is_named_and_no_value_shown() -> None:
    with pytest.raises(Rejected) as caught:
        under("shop.", vat=b"hunter2", open=b"hunter2", db__pool=b"0", db__nothing=b"hunter2")
    assert {error.field for error in caught.value.errors} == {"vat", "open", "db.pool", "db.nothing"}
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "codec", [JsonCodec(), MessagePackCodec(), JsonCodec() | AesGcmCodec({"k": bytes(16)}, current="k")]
)
def test_with_a_codec_there_is_no_other_reading(codec: Any) -> None:
    stored = {"vat": codec.encode(7, key="vat"), "db.host": codec.encode("db-1", key="db.host")}
    assert assemble(Shop, stored, "", codec) == Shop(vat=7, db=Database(host="db-1"))
    with pytest.raises(Rejected, match="currency: "):
        assemble(Shop, {"currency": b"\xc1"}, "", codec)


def test_a_validator_that_breaks_is_a_rejection() -> None:
    class Broken(BaseModel):
        name: str = ""

        @field_validator("name")
        @classmethod
        def fails(cls, value: str) -> str:
            raise KeyError(value)

    with pytest.raises(Rejected, match="raised KeyError") as caught:
        assemble(Broken, {"name": b"hunter2"}, "", None)
    assert "hunter2" not in str(caught.value)


def test_settings_of_pydantic_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    class FromEnvironment(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="SHOP_")

        vat: float = 1
        currency: str = ""

    monkeypatch.setenv("SHOP_CURRENCY", "CHF")
    monkeypatch.setenv("SHOP_VAT", "8")
    settings = assemble(FromEnvironment, {"vat": b"7"}, "", None)
    assert (settings.vat, settings.currency) == (7, "CHF")  # the store comes first, the environment fills in


class Free(BaseModel):
    model_config = ConfigDict(extra="allow")


KEYS = st.lists(st.text("abz", min_size=1, max_size=2), min_size=1, max_size=3).map(".".join)


@UNHURRIED
@given(st.dictionaries(KEYS, st.binary(max_size=6) | st.integers().map(lambda number: json.dumps(number).encode())))
def test_anything_is_taken_or_rejected(stored: dict[str, bytes]) -> None:
    for model in (Free, Shop):
        try:
            assemble(model, stored, "", None)
        except Rejected as error:
            rejected = error
        else:
            continue
        assert rejected.errors
