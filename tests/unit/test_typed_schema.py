"""Models as bytes: round trips, versions and migrations, and errors that show no value."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, computed_field

from slipstream.codecs import Codec, JsonCodec, MessagePackCodec, ZstdCodec
from slipstream.errors import DeserializationError, SerializationError
from slipstream.typed import Schema

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
CODECS: list[Codec] = [JsonCodec(), MessagePackCodec() | ZstdCodec()]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=repr)


class Address(BaseModel):
    city: str
    since: datetime


class User(BaseModel):
    model_config = ConfigDict(strict=True, ser_json_bytes="base64", val_json_bytes="base64")

    name: Annotated[str, Field(alias="userName")]
    age: int | None = None
    photo: bytes = b""
    tags: set[str] = set()
    home: Address | None = None
    scores: tuple[float, ...] = ()

    @computed_field
    def shout(self) -> str:
        return self.name.upper()


ADDRESSES = st.builds(Address, city=st.text(), since=st.datetimes(timezones=st.just(UTC)))
USERS = st.builds(
    User,
    userName=st.text(),
    age=st.none() | st.integers(-(2**63), 2**63),
    photo=st.binary(),
    tags=st.sets(st.text()),
    home=st.none() | ADDRESSES,
    scores=st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
)


@every_codec
@UNHURRIED
@given(user=USERS)
def test_a_strict_model_comes_back(codec: Codec, user: User) -> None:
    for version, migrations in [(1, {}), (2, {1: lambda value: value})]:
        schema = Schema(User, codec, version=version, migrations=migrations)
        raw = schema.dump(user, key="a")
        assert raw
        assert schema.load(raw, key="a") == user


@UNHURRIED
@given(raw=st.binary(max_size=40) | st.sampled_from([b"{}", b"[]", b"1", b'"x"', b"null", b'{"$schema":1,"$value":2}']))
def test_anything_stored_gives_a_model_or_an_error_of_ours(raw: bytes) -> None:
    with pytest.raises(DeserializationError) as caught:
        Schema(User, JsonCodec()).load(raw, key="a.key")
    assert caught.value.key == "a.key"


def test_any_type_that_pydantic_validates() -> None:
    schema = Schema(dict[str, list[int]], JsonCodec())
    assert schema.load(schema.dump({"a": [1]}, key="k"), key="k") == {"a": [1]}


def test_it_names_the_fields_and_shows_no_value() -> None:
    with pytest.raises(DeserializationError) as caught:
        Schema(User, JsonCodec()).load(b'{"userName": 1, "age": "hunter2", "home": {"city": "hunter2"}}', key="a")
    text = str(caught.value)
    assert "no valid User: userName: Input should be a valid string; age: Input should be a valid integer; " in text
    assert "home.since: Field required" in text
    assert "hunter2" not in text
    assert caught.value.__cause__ is None


def test_many_wrong_fields_are_counted() -> None:
    with pytest.raises(DeserializationError, match=r"and 5 more$"):
        Schema(list[int], JsonCodec()).load(b'["a","a","a","a","a","a","a","a","a","a"]', key="a")


def test_what_is_no_such_model_is_not_written() -> None:
    class Token(BaseModel):
        secret: SecretStr
        count: int

    with pytest.raises(SerializationError, match="this Token is no valid Token") as caught:
        Schema(Token, JsonCodec()).dump(Token.model_construct(secret="hunter2", count="hunter2"), key="a")  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)
    wrong: Any = Address(city="x", since=datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(SerializationError, match="this Address is no valid User"):
        Schema(User, JsonCodec()).dump(wrong, key="a")


# Versions.


class Person(BaseModel):
    first: str
    last: str
    title: str = ""


def split_name(value: dict[str, Any]) -> dict[str, Any]:
    first, _, last = value["name"].partition(" ")
    return {"given": first, "family": last}


def rename(value: dict[str, Any]) -> dict[str, Any]:
    return {"first": value["given"], "last": value["family"]}


MIGRATIONS = {1: split_name, 2: rename}


def test_values_of_every_version_are_read_as_the_newest() -> None:
    schema = Schema(Person, JsonCodec(), version=3, migrations=MIGRATIONS)
    wanted = Person(first="Ada", last="Lovelace")
    for raw in (
        b'{"name": "Ada Lovelace"}',
        b'{"$schema": 1, "$value": {"name": "Ada Lovelace"}}',
        b'{"$schema": 2, "$value": {"given": "Ada", "family": "Lovelace"}}',
        schema.dump(wanted, key="a"),
    ):
        assert schema.load(raw, key="a") == wanted
    assert b'"$schema":3' in schema.dump(wanted, key="a")


def test_the_first_version_is_the_plain_value() -> None:
    assert Schema(dict[str, int], JsonCodec()).dump({"a": 1}, key="k") == b'{"a":1}'


def test_a_value_of_a_later_version() -> None:
    later = Schema(Person, JsonCodec(), version=3, migrations=MIGRATIONS).dump(Person(first="a", last="b"), key="k")
    with pytest.raises(DeserializationError, match="schema version 3 of Person, this program knows 1 to 2: upgrade"):
        Schema(Person, JsonCodec(), version=2, migrations={1: split_name}).load(later, key="k")


def test_a_migration_that_fails() -> None:
    schema = Schema(Person, JsonCodec(), version=3, migrations=MIGRATIONS)
    with pytest.raises(DeserializationError, match="from schema version 1 failed: KeyError") as caught:
        schema.load(b'{"hunter2": 1}', key="k")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "migrations"), [(2, {}), (3, {2: rename}), (1, MIGRATIONS), (2, MIGRATIONS), (0, {})]
)
def test_a_missing_or_superfluous_migration(version: int, migrations: dict[int, Any]) -> None:
    with pytest.raises(ValueError, match=r"needs a migration from each|begin at 1"):
        Schema(Person, JsonCodec(), version=version, migrations=migrations)
