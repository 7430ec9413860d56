"""doctor names what is wrong, each fault on a server that has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream.errors import StoreFullError
from slipstream.interfaces import KvStore
from slipstream.model import StoreConfig
from slipstream.testing import NatsServer
from slipstream.testing._ports import bind, port_of
from tests.cli.conftest import Cli

SECRET = "s3cr3t-hunter2"


async def examine(cli: Cli, *arguments: str | Path, code: int) -> dict[str, dict[str, Any]]:
    """What was found wrong, by the name of the fault; and that people are told the same."""
    ended = await cli("doctor", *arguments, "--json", code=code)
    assert ended.err == ""
    return {record["fault"]: record for record in ended.records if "fault" in record}


@asynccontextmanager
async def server_with(config: str, *, user: str = "root:p") -> AsyncIterator[tuple[NatsServer, str]]:
    async with NatsServer(config=config) as server:
        yield server, server.url.replace("nats://", f"nats://{user}@")


async def test_all_is_well(bare_cli: Cli, url: str, bucket: str) -> None:
    await bare_cli("put", bucket, "k", "v", "--url", url)
    ended = await bare_cli("doctor", bucket, "--url", url, "--json")
    assert {record["level"] for record in ended.records} == {"green"}
    checks = [record["check"] for record in ended.records]
    assert checks == [
        *("connection", "server", "round trip", "clock", "JetStream", "storage", "stores"),
        *[f"store {bucket}"] * 3,
    ]
    text = (await bare_cli("doctor", bucket, "--url", url)).out
    assert text.startswith("green  connection: nats://127.0.0.1:")
    await bare_cli("stores", "delete", bucket, "--yes", "--url", url)


async def test_it_writes_nothing(cli: Cli, store: KvStore) -> None:
    await store.put("k", b"v")
    before = await store.status()
    await cli("doctor", store.name)
    assert await store.status() == before


async def test_server_down(bare_cli: Cli) -> None:
    with bind() as nobody:
        port = port_of(nobody)
        ended = await bare_cli("doctor", "--url", f"nats://u:{SECRET}@127.0.0.1:{port}", code=4)
        assert list(await examine(bare_cli, "--url", f"nats://127.0.0.1:{port}", code=4)) == ["server_down"]
    assert ended.out.startswith(f"red    connection: no connection to nats://127.0.0.1:{port}: ")
    assert "start the server" in ended.out
    assert SECRET not in ended.out + ended.err


async def test_wrong_credentials(bare_cli: Cli) -> None:
    async with server_with('authorization { user: root, password: "p" }', user=f"root:{SECRET}") as (_, url):
        found = await examine(bare_cli, "--url", url, code=4)
        assert list(found) == ["wrong_credentials"]
        assert "--creds" in found["wrong_credentials"]["advice"]
        assert SECRET not in str(found)


async def test_no_jetstream(bare_cli: Cli) -> None:
    async with NatsServer(jetstream=False) as server:
        found = await examine(bare_cli, "--url", server.url, code=1)
    assert list(found) == ["no_jetstream"]
    assert "-js" in found["no_jetstream"]["advice"]


async def test_no_jetstream_for_the_account(bare_cli: Cli) -> None:
    config = 'accounts { A { users = [{ user: root, password: "p" }] } }'
    async with server_with(config) as (_, url):
        found = await examine(bare_cli, "--url", url, code=1)
    assert list(found) == ["no_jetstream"]
    assert "account" in found["no_jetstream"]["advice"]


async def fill(store: KvStore) -> None:
    for number in range(100):
        await store.put(f"k{number}", b"v" * 100)


async def test_bucket_full(bare_cli: Cli, nats_url: str, bucket: str) -> None:
    async with slipstream.connect(nats_url) as connection:
        store = await connection.store(StoreConfig(name=bucket, max_bytes=4000))
        with pytest.raises(StoreFullError):
            await fill(store)
        found = await examine(bare_cli, bucket, "--url", nats_url, code=1)
        assert list(found) == ["bucket_full"]
        assert "full, writes are refused" in found["bucket_full"]["finding"]
        await bare_cli("stores", "ensure", bucket, "--max-bytes", "100000", "--url", nats_url)
        assert await examine(bare_cli, bucket, "--url", nats_url, code=0) == {}
        await store.put("k", b"v" * 100)
        await connection.delete_store(bucket)


async def test_old_server(bare_cli: Cli, old_server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPSTREAM_NATS_SERVER", str(old_server))
    async with NatsServer() as server:
        found = await examine(bare_cli, "--url", server.url, code=0)
    assert list(found) == ["old_server"]
    assert found["old_server"]["level"] == "yellow"
    finding = found["old_server"]["finding"]
    assert finding == "nats-server 2.10.26 is too old for ttl (2.11.2), fencing (2.11), transactions (2.12.1)"


class TestNoPermission:
    CONFIG = """authorization {{ users = [
        {{ user: root, password: "p" }}
        {{ user: limited, password: "p"
           permissions {{ publish {{ {} }}, subscribe {{ allow: ["_INBOX.>"] }} }} }}
    ] }}"""

    async def examine(self, cli: Cli, publish: str, *, code: int) -> dict[str, dict[str, Any]]:
        async with server_with(self.CONFIG.format(publish)) as (server, url):
            async with slipstream.connect(url) as connection:
                await (await connection.store("b")).put("k", b"v")
            limited = server.url.replace("nats://", "nats://limited:p@")
            return await examine(cli, "b", "--url", limited, code=code)

    async def test_for_anything(self, bare_cli: Cli) -> None:
        found = await self.examine(bare_cli, 'deny: [">"]', code=1)
        assert list(found) == ["no_permission"]
        assert "$JS.API.INFO" in found["no_permission"]["finding"]
        assert "slipstream permissions" in found["no_permission"]["advice"]

    async def test_for_this_store(self, bare_cli: Cli) -> None:
        found = await self.examine(bare_cli, 'deny: ["$JS.API.STREAM.INFO.KV_b"]', code=1)
        assert found["no_permission"]["check"] == "store b"
        assert found["no_permission"]["level"] == "red"

    async def test_to_write(self, bare_cli: Cli) -> None:
        found = await self.examine(bare_cli, 'deny: ["$KV.b.>"]', code=0)
        assert found["no_permission"]["level"] == "yellow"
        assert "no permission to write" in found["no_permission"]["finding"]


async def test_drift(cli: Cli, store: KvStore, tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text("max_history = 5\n")
    found = await examine(cli, store.name, "--spec", spec, code=0)
    assert found["drift"]["finding"] == "max_history is 1, not 5"
    assert "--spec" in (await cli("doctor", "--spec", spec, code=2)).err


async def test_a_store_that_is_not_there_is_not_made(cli: Cli, bucket: str) -> None:
    assert list(await examine(cli, bucket, code=1)) == ["no_store"]
    await cli("stores", "info", bucket, code=1)
