"""LiveConfig on memory and on a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from slipstream.cache import JsonLinesSnapshot
from slipstream.config import FieldError, LiveConfig, RejectedRevision
from slipstream.errors import (
    ConnectionFailedError,
    DeserializationError,
    InvalidKeyError,
    KeyNotFoundError,
    RevisionMismatchError,
)
from slipstream.follow import following
from slipstream.interfaces import Connection, KvStore
from slipstream.model import StoreConfig, VersionToken
from slipstream.testing._waiting import bounded, eventually


class Database(BaseModel):
    model_config = ConfigDict(frozen=True)

    host: str = "localhost"
    pool: int = Field(default=5, ge=1)


class Shop(BaseModel):
    model_config = ConfigDict(frozen=True)

    currency: str = "EUR"
    vat: int = 19
    db: Database = Database()
    backup: Database | None = None


class Strict(BaseModel):
    required: int


def revision_of(version: VersionToken) -> int:
    revision = version.as_u64()
    assert revision is not None
    return revision


async def test_a_prefix_is_read_and_followed(store: KvStore) -> None:
    await store.put_many({"shop.vat": b"7", "shop.db.host": b"db-1", "shops.vat": b"1"})
    async with LiveConfig(store, "shop.", Shop) as config:
        assert config.current == Shop(vat=7, db=Database(host="db-1"))
        assert not config.stale
        before = config.current
        await config.wait_for(await store.put("shop.db.pool", b"9"))
        assert config.current.db == Database(host="db-1", pool=9)
        assert before.db.pool == 5  # replaced, not changed
        await store.delete("shop.vat")
        version = await store.put("shop.currency", b"USD")
        await config.wait_for(version)
        assert config.current == Shop(currency="USD", db=Database(host="db-1", pool=9))
        assert config.revision == version.as_u64()


async def test_a_key_is_read_and_followed_alone(store: KvStore) -> None:
    await store.put_many({"shop": b'{"vat": 7}', "shop.vat": b"8", "shops": b"broken"})
    async with LiveConfig(store, "shop", Shop) as config:
        assert config.current == Shop(vat=7)
        await store.put("shops", b"broken too")
        await config.wait_for(await store.put("shop", b'{"vat": 8}'))
        assert config.current == Shop(vat=8)
        assert config.rejected is None
        assert len(config.history) == 2


@pytest.mark.parametrize("where", ["shop", "shop."])
async def test_nothing_stored_is_all_defaults(store: KvStore, where: str) -> None:
    async with LiveConfig(store, where, Shop) as config:
        assert (config.current, config.revision) == (Shop(), None)


async def test_what_it_refuses(store: KvStore) -> None:
    with pytest.raises(InvalidKeyError):
        LiveConfig(store, "shop*", Shop)
    with pytest.raises(ValueError, match="keep is at least 1"):
        LiveConfig(store, "shop", Shop, keep=0)
    config = LiveConfig(store, "shop", Shop)
    with pytest.raises(RuntimeError, match="enter it first"):
        _ = config.current
    with pytest.raises(RuntimeError, match="enter it first"):
        await config.rollback(1)


async def test_without_a_valid_start_it_fails_or_has_a_default(store: KvStore) -> None:
    with pytest.raises(DeserializationError, match="required: Field required"):
        await LiveConfig(store, "app.", Strict).__aenter__()
    async with LiveConfig(store, "app.", Strict, default=Strict(required=1)) as config:
        assert config.current.required == 1
        assert config.rejected is not None
        await config.wait_for(await store.put("app.required", b"2"))
        assert config.current.required == 2
        assert config.rejected is None


async def test_a_bad_revision_in_the_middle_is_told_and_not_taken(
    store: KvStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.put("shop.db.pool", b"1")
    async with LiveConfig(store, "shop.", Shop) as config:
        rejections: list[RejectedRevision] = []
        end = config.on_rejected(rejections.append)
        versions = await store.put_many(
            [("shop.db.pool", b"2"), ("shop.db.pool", b"hunter2"), ("shop.vat", b"8"), ("shop.db.pool", b"3")]
        )
        await config.wait_for(versions[-1])
        assert config.current == Shop(vat=8, db=Database(pool=3))
        assert config.rejected is None
        # With a history of 1, a value that is overwritten may be skipped; what came is in order, and never invalid.
        assert all(one.settings.db.pool in (1, 2, 3) for one in config.history)
        seen = len(rejections)
        bad = await store.put("shop.db.pool", b"hunter2")
        await config.wait_for(bad)
        assert config.current.db.pool == 3  # the last good one is kept
        assert config.rejected is rejections[-1]
        assert len(rejections) == seen + 1
        (error,) = rejections[-1].errors
        assert isinstance(error, FieldError)
        assert error.field == "db.pool"
        assert rejections[-1].revision == bad.as_u64()
        end()
        await config.wait_for(await store.put("shop.vat", b"hunter2"))
        assert {one.field for one in config.rejected.errors} == {"db.pool", "vat"}
        assert len(rejections) == seen + 1
    assert "stay as they are: revision" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_commit_is_validated_and_swapped_whole(connection: Connection, bucket: str) -> None:
    class Range(BaseModel):
        low: int = 0
        high: int = 10

        def model_post_init(self, context: Any) -> None:
            if self.low >= self.high:
                raise ValueError("low is below high")

    # A history, so that no value is skipped.
    store = await connection.store(StoreConfig(name=bucket, max_history=5))
    async with LiveConfig(store, "range.", Range) as config:
        seen: list[Range] = []
        config.on_change("", lambda old, new: seen.append(new))
        async with store.transaction() as txn:
            txn.put("range.low", b"20")
            txn.put("range.high", b"30")
        last = await store.put("range.high", b"40")
        await config.wait_for(last)
        assert [(one.low, one.high) for one in seen] == [(20, 30), (20, 40)]
        # Two writes that arrive together are two revisions all the same.
        rejections: list[RejectedRevision] = []
        config.on_rejected(rejections.append)
        pair = await asyncio.gather(store.put("range.high", b"1"), store.put("range.high", b"50"))
        await config.wait_for(max(pair, key=bytes))
        assert len(rejections) == 1
        await config.wait_for(await store.put("range.high", b"40"))
        await config.wait_for(await store.put("range.high", b"5"))
        assert config.current.high == 40
        assert config.rejected is not None


async def test_whoever_watches_a_field_hears_of_that_field(store: KvStore, caplog: pytest.LogCaptureFixture) -> None:
    async with LiveConfig(store, "shop.", Shop) as config:
        heard: list[tuple[str, Any, Any]] = []
        end = config.on_change("db.pool", lambda old, new: heard.append(("db.pool", old, new)))

        @config.on_change("backup.host")
        def backup(old: str | None, new: str | None) -> None:
            heard.append(("backup.host", old, new))

        @config.on_change()
        def whole(old: Shop, new: Shop) -> None:
            assert config.current is new
            heard.append(("", old.vat, new.vat))
            raise ArithmeticError("of the caller")

        with pytest.raises(ValueError, match="Shop has no field 'bd'"):
            config.on_change("bd.pool")
        await config.wait_for(await store.put("shop.vat", b"7"))
        assert heard == [("", 19, 7)]
        await config.wait_for(await store.put("shop.db.pool", b"6"))
        await config.wait_for(await store.put("shop.db.pool", b"6"))  # as it was
        await config.wait_for(await store.put("shop.backup.host", b"b"))
        assert heard[1:] == [("db.pool", 5, 6), ("", 7, 7), ("backup.host", None, "b"), ("", 7, 7)]
        end()
        await config.wait_for(await store.put("shop.db.pool", b"7"))
        assert heard[5:] == [("", 7, 7)]
    assert "a callback of the settings at 'shop.' failed" in caplog.text


# Going back.


async def test_rollback_of_a_key(store: KvStore) -> None:
    first = await store.put("shop", b'{"vat": 7}')
    async with LiveConfig(store, "shop", Shop) as config:
        await config.wait_for(await store.put("shop", b'{"vat": 8}'))
        assert [one.settings.vat for one in config.history] == [7, 8]
        version = await config.rollback(revision_of(first))
        assert config.current.vat == 7
        assert config.revision == version.as_u64()
        assert await config.rollback(revision_of(first)) == version  # nothing to do
        with pytest.raises(KeyNotFoundError, match="revision 999 is not held any more"):
            await config.rollback(999)
        await store.delete("shop")
        await config.wait_for(await store.put("other", b"x"))
        assert config.current == Shop()
        await config.rollback(revision_of(first))
        assert config.current.vat == 7


async def test_rollback_to_what_only_the_bucket_remembers(connection: Connection, bucket: str) -> None:
    store = await connection.store(StoreConfig(name=bucket, max_history=5))
    first = await store.put("shop", b'{"vat": 7}')
    bad = await store.put("shop", b'{"vat": "hunter2"}')
    await store.put("shop", b'{"vat": 8}')
    async with LiveConfig(store, "shop", Shop) as config:
        assert [one.settings.vat for one in config.history] == [8]
        with pytest.raises(DeserializationError, match="is not valid: vat") as caught:
            await config.rollback(revision_of(bad))
        assert "hunter2" not in str(caught.value)
        await config.rollback(revision_of(first))
        assert config.current.vat == 7


async def test_rollback_of_a_prefix_is_one_commit(store: KvStore) -> None:
    await store.put_many({"shop.vat": b"7", "shop.currency": b"USD", "shop.db.pool": b"6"})
    async with LiveConfig(store, "shop.", Shop) as config:
        old, revision = config.current, config.revision
        assert revision is not None
        await store.put("shop.vat", b"8")
        await store.delete("shop.currency")
        await config.wait_for(await store.put("shop.db.host", b"db-1"))
        seen: list[Shop] = []
        config.on_change("", lambda _, new: seen.append(new))
        await config.rollback(revision)
        assert config.current == old
        assert seen == [old]  # and nothing in between
        assert await store.keys("shop.") == ["shop.currency", "shop.db.pool", "shop.vat"]


@pytest.mark.parametrize("where", ["shop", "shop."])
async def test_rollback_does_not_overwrite_somebody_else(store: KvStore, where: str) -> None:
    key = where if where == "shop" else "shop.db"
    first = await store.put(key, b'{"pool": 1}')
    async with LiveConfig(store, where, Shop if where == "shop." else Database) as config:
        await config.wait_for(await store.put(key, b'{"pool": 2}'))
        await config.aclose()  # so that it does not hear of the next one
        await store.put(key, b'{"pool": 3}')
        with pytest.raises(RevisionMismatchError):
            await config.rollback(revision_of(first))
        entry = await store.get(key)
        assert entry is not None
        assert entry.value == b'{"pool": 3}'


async def test_history_is_bounded(store: KvStore) -> None:
    async with LiveConfig(store, "shop", Shop, keep=3) as config:
        for vat in range(10):
            await config.wait_for(await store.put("shop", b'{"vat": %d}' % vat))
        assert [one.settings.vat for one in config.history] == [7, 8, 9]
        assert b"vat" not in repr(config.history[0]).encode().partition(b"stored")[2]


# Trouble.


async def test_it_starts_from_its_snapshot(store: KvStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_LONGEST_PAUSE", 0.05)
    file = JsonLinesSnapshot(tmp_path / "config.jsonl")
    await store.put_many({"shop.vat": b"7", "shop.db.pool": b"6"})
    async with LiveConfig(store, "shop.", Shop, snapshot=file):
        pass
    await store.put("shop.vat", b"8")
    reachable = False

    async def open_store() -> KvStore:
        if not reachable:
            raise ConnectionFailedError
        return store

    async with bounded(), LiveConfig(open_store, "shop.", Shop, snapshot=file) as config:
        assert config.stale
        assert config.current == Shop(vat=7, db=Database(pool=6))
        reachable = True
        await config.wait_current()
        assert config.current == Shop(vat=8, db=Database(pool=6))
        assert config.staleness < 60


async def test_a_bucket_made_again(connection: Connection, store: KvStore, bucket: str) -> None:
    await store.put_many({"shop.vat": b"7", "shop.db.pool": b"6"})
    async with LiveConfig(store, "shop.", Shop) as config:
        seen: list[Shop] = []
        config.on_change("", lambda _, new: seen.append(new))
        await connection.delete_store(bucket)
        again = await connection.store(bucket)
        await again.put("shop.vat", b"9")

        async def anew() -> bool:
            return config.current == Shop(vat=9)

        await eventually(anew)
        # At once, and not key by key; it may have been read before the put.
        assert all(one in (Shop(), Shop(vat=9)) for one in seen)


async def test_no_setting_is_in_its_repr(store: KvStore) -> None:
    await store.put("shop", b'{"currency": "hunter2"}')
    async with LiveConfig(store, "shop", Shop) as config:
        assert repr(config) == "<LiveConfig 'shop': Shop, revision 1, current>"
