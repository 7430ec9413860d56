"""stores list, create, info, delete, ensure."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

import slipstream
from slipstream.interfaces import Connection, KvStore
from slipstream.model import StoreConfig
from slipstream.testing import NatsCluster, NatsServer
from tests.cli.conftest import Cli

EVERY_FIELD = [
    *("--max-history", "5"),
    *("--max-age", "3600"),
    *("--max-bytes", "1000000"),
    *("--max-value-size", "1000"),
    *("--discard", "old"),
    *("--description", "for a test"),
    "--compression",
    *("--marker-ttl", "60"),
    *("--metadata.team", "payments"),
]


async def test_the_life_of_a_store(bare_cli: Cli, url: str, bucket: str) -> None:
    cli, at = bare_cli, ("--url", url, "--json")
    made = (await cli("stores", "create", bucket, *EVERY_FIELD, *at)).record
    assert made["config"]["max_history"] == 5
    assert made["config"]["metadata"] == {"team": "payments"}
    assert "exists" in (await cli("stores", "create", bucket, *at, code=3)).error["message"]
    assert (await cli("stores", "info", bucket, *at)).record == made
    assert made in (await cli("stores", "list", *at)).records
    # Nobody is asked where nobody can answer.
    assert "--yes" in (await cli("stores", "delete", bucket, *at, code=2)).error["message"]
    await cli("stores", "delete", bucket, "--yes", *at)
    await cli("stores", "info", bucket, *at, code=1)


async def test_ensure_makes_shows_and_changes(cli: Cli, connection: Connection, bucket: str, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("max_history: 3\nmax_age: 60\n")
    would = (await cli("stores", "ensure", bucket, "--spec", spec, "--dry-run", "--json", code=1)).record
    assert would == {"store": bucket, "created": False}
    assert bucket not in await connection.stores()
    assert (await cli("stores", "ensure", bucket, "--spec", spec, "--json")).record["created"] is True
    assert (await cli("stores", "ensure", bucket, "--spec", spec)).out == ""
    spec.write_text("max_history: 9\nmax_age: 30\nstorage: memory\n")
    shown = (await cli("stores", "ensure", bucket, "--spec", spec, "--dry-run", "--json", code=1)).records
    steps = {record["field"]: (record["actual"], record["wanted"], record["step"]) for record in shown}
    assert steps == {
        "storage": ("persistent", "memory", "needs a store made anew"),
        "max_history": (3, 9, "change"),
        "max_age": (60.0, 30.0, "needs --allow-loss"),
    }
    assert (await (await connection.store(bucket)).status()).config.max_history == 3
    ended = await cli("stores", "ensure", bucket, "--spec", spec, code=3)
    assert "still differs in max_age, storage" in ended.err
    config = (await (await connection.store(bucket)).status()).config
    assert (config.max_history, config.max_age, config.storage) == (9, timedelta(minutes=1), "persistent")
    await cli("stores", "ensure", bucket, "--max-age", "30", "--allow-loss")
    assert (await (await connection.store(bucket)).status()).config.max_age == timedelta(seconds=30)
    await connection.delete_store(bucket)


async def test_a_limit_that_would_drop_values_drops_none_unasked(cli: Cli, connection: Connection, bucket: str) -> None:
    store = await connection.store(StoreConfig(name=bucket, max_history=5))
    for value in (b"1", b"2", b"3"):
        await store.put("k", value)
    await cli("stores", "ensure", bucket, "--max-history", "1", code=3)
    assert len(await store.history("k")) == 3
    await cli("stores", "ensure", bucket, "--max-history", "1", "--allow-loss")
    assert len(await store.history("k")) == 1
    await connection.delete_store(bucket)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--max-history", "99"], "max_history"),
        (["--spec", "missing.yaml"], "No such file"),
        (["--mirror", "STORE"], "mirror itself"),
    ],
)
async def test_what_is_no_configuration(cli: Cli, store: KvStore, arguments: list[str], why: str) -> None:
    given = [store.name if word == "STORE" else word for word in arguments]
    assert why in (await cli("stores", "ensure", store.name, *given, code=2)).err


async def test_an_older_server_changes_the_same_and_says_what_it_lacks(
    bare_cli: Cli, old_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPSTREAM_NATS_SERVER", str(old_server))
    async with NatsServer() as server, slipstream.connect(server.url) as connection:
        await connection.store("b")
        await bare_cli("stores", "ensure", "b", "--url", server.url, "--max-history", "4", "--discard", "old")
        config = (await (await connection.store("b")).status()).config
        assert (config.max_history, config.discard) == (4, "old")
        ended = await bare_cli("stores", "ensure", "b", "--url", server.url, "--num-replicas", "3", code=2)
        assert "num_replicas above 1 needs a cluster" in ended.err
        assert (await (await connection.store("b")).status()).config.num_replicas == 1
        ended = await bare_cli("stores", "ensure", "b", "--url", server.url, "--marker-ttl", "60", code=2)
        assert "marker_ttl needs nats-server 2.11.2" in ended.err


async def test_replicas_of_a_cluster(bare_cli: Cli, nats_cluster: NatsCluster) -> None:
    async with slipstream.connect(nats_cluster.url) as connection:
        store = await connection.store("b")
        await bare_cli("stores", "ensure", "b", "--num-replicas", "3", "--url", nats_cluster.url)
        assert (await store.status()).replicas == 3
