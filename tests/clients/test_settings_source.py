"""The source for pydantic-settings, on a real server: what it reads, and its place among others."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from slipstream import sync
from slipstream.errors import ConnectionFailedError, DeserializationError, StoreNotFoundError
from slipstream.settings import StoreSettingsSource


class Database(BaseModel):
    host: str = "localhost"
    pool: int = 5
    tags: list[str] = []


@pytest.fixture
def store(nats_url: str) -> Iterator[sync.SyncStore]:
    name = f"test-{secrets.token_hex(8)}"
    with sync.connect(nats_url) as connection:
        yield connection.store(name)
        connection.delete_store(name)


def settings_from(**source: Any) -> type[BaseSettings]:
    class Settings(BaseSettings):
        vat: float = 19
        currency: str = "EUR"
        open: bool = True
        password: SecretStr = SecretStr("")
        db: Database = Database()

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *args: Any, **sources: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return sources["init_settings"], sources["env_settings"], StoreSettingsSource(settings_cls, **source)

    return Settings


def test_a_prefix(store: sync.SyncStore, nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_many(
        {
            "shop.vat": b"7",
            "shop.currency": b"12",
            "shop.password": b"34",
            "shop.open": b"false",
            "shop.db": b'{"host": "db-1"}',
            "shop.db.pool": b"9",
            "shop.db.tags": b'["a"]',
        }
    )
    kind = settings_from(url=nats_url, store=store.name, key_or_prefix="shop.")
    settings: Any = kind()
    assert (settings.vat, settings.currency, settings.open) == (7, "12", False)
    assert settings.password.get_secret_value() == "34"
    assert settings.db == Database(host="db-1", pool=9, tags=["a"])
    monkeypatch.setenv("VAT", "8")
    settings = kind(currency="USD")
    assert (settings.vat, settings.currency, settings.open) == (8, "USD", False)


def test_a_key(store: sync.SyncStore, nats_url: str) -> None:
    kind = settings_from(url=nats_url, store=store.name, key_or_prefix="shop")
    settings: Any = kind()
    assert settings.vat == 19
    store.put("shop", b'{"vat": 7, "db": {"pool": 2}}')
    settings = kind()
    assert (settings.vat, settings.db.pool) == (7, 2)
    for wrong in (b"hunter2", b"[]"):
        store.put("shop", wrong)
        with pytest.raises(DeserializationError, match="key 'shop'") as caught:
            kind()
        assert "hunter2" not in str(caught.value)


def test_without_a_bucket_or_a_server(nats_url: str, caplog: pytest.LogCaptureFixture) -> None:
    missing = f"test-{secrets.token_hex(8)}"
    nobody = "nats://127.0.0.1:1"  # no server may listen on it
    for url, error in [(nats_url, StoreNotFoundError), (nobody, ConnectionFailedError)]:
        source: dict[str, Any] = {"url": url, "store": missing, "key_or_prefix": "shop.", "op_timeout": 5.0}
        with pytest.raises(error):
            settings_from(**source)()
        settings: Any = settings_from(**source, required=False)()
        assert settings.vat == 19
    assert caplog.text.count("settings without those of the store") == 2
    with sync.connect(nats_url) as connection:
        assert missing not in connection.stores()  # it is not made by reading
