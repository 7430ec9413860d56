"""get, put, create, update, delete, purge, keys, scan, history: output and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream.interfaces import KvStore
from slipstream.testing._fixtures import MakeProxy
from tests.cli.conftest import Cli

BINARY = b"\x00\xff\x1b[31m"


class TestOnEveryServer:
    async def test_the_life_of_a_key(self, bare_cli: Cli, url: str, bucket: str) -> None:
        cli, at = bare_cli, ("--url", url)
        assert (await cli("put", bucket, "node.a", "up", *at)).out == "1\n"
        assert (await cli("get", bucket, "node.a", *at)).out == "up\n"
        assert (await cli("keys", bucket, *at)).out == "node.a\n"
        assert (await cli("update", bucket, "node.a", "down", "--version", "1", *at)).out == "2\n"
        assert (await cli("scan", bucket, "--prefix", "node.", *at)).out == "node.a\tdown\n"
        assert (await cli("delete", bucket, "node.a", *at)).out == "deleted node.a\n"
        assert "no value" in (await cli("get", bucket, "node.a", *at, code=1)).err
        assert (await cli("create", bucket, "node.a", "again", *at)).out == "4\n"
        await cli("purge", bucket, "node.a", *at)
        assert (await cli("keys", bucket, *at, code=1)).out == ""
        assert (await cli("stores", "delete", bucket, "--yes", *at)).out == f"deleted {bucket}\n"


class TestValues:
    async def test_from_stdin_and_from_a_file(self, cli: Cli, store: KvStore, tmp_path: Path) -> None:
        (tmp_path / "value").write_bytes(BINARY)
        await cli("put", store.name, "stdin", "-", stdin=b"line one\nline two\n")
        await cli("put", store.name, "file", f"@{tmp_path / 'value'}")
        await cli("put", store.name, "at", "@@home")
        await cli("put", store.name, "dash", "-5")
        found = {entry.key: entry.value for entry in await store.scan()}
        assert found == {"stdin": b"line one\nline two\n", "file": BINARY, "at": b"@home", "dash": b"-5"}

    async def test_binary_is_hex_unless_raw(self, cli: Cli, store: KvStore) -> None:
        await store.put("k", BINARY)
        assert (await cli("get", store.name, "k")).out == f"{BINARY.hex()}\n"
        record = (await cli("get", store.name, "k", "--json")).record
        assert (record["value"], record["encoding"]) == (BINARY.hex(), "hex")
        assert (await cli("scan", store.name)).out == f"k\t{BINARY.hex()}\n"
        running = await cli.start("get", store.name, "k", "--raw")
        out, _ = await running.process.communicate()
        assert out == BINARY

    async def test_what_spans_lines_stays_in_one_line_of_a_list(self, cli: Cli, store: KvStore) -> None:
        await store.put("k", b"a\nb\\c")
        assert (await cli("scan", store.name)).out == "k\ta\\nb\\\\c\n"
        assert (await cli("get", store.name, "k")).out == "a\nb\\c\n"

    async def test_a_missing_file(self, cli: Cli, store: KvStore, tmp_path: Path) -> None:
        ended = await cli("put", store.name, "k", f"@{tmp_path / 'none'}", code=2)
        assert ended.err == f"error: {tmp_path / 'none'}: No such file or directory\n"

    async def test_a_mistyped_option_is_no_value(self, cli: Cli, store: KvStore) -> None:
        assert "looks like an option" in (await cli("put", store.name, "k", "--tll=5", code=2)).err
        assert await store.get("k") is None

    async def test_an_empty_value_is_refused(self, cli: Cli, store: KvStore) -> None:
        assert "delete the key instead" in (await cli("put", store.name, "k", "", code=2)).err
        assert await store.get("k") is None

    async def test_a_ttl_reaches_the_server(self, cli: Cli, store: KvStore) -> None:
        await cli("put", store.name, "k", "v", "--ttl", "3600")
        (update,) = await store.history("k")
        assert update.expires is not None
        assert "at least one second" in (await cli("put", store.name, "k", "v", "--ttl", "0.5", code=2)).err


class TestJson:
    async def test_records(self, cli: Cli, store: KvStore) -> None:
        assert (await cli("put", store.name, "k", "ä", "--json")).record == {"key": "k", "revision": 1}
        record = (await cli("get", store.name, "k", "--json")).record
        assert record.pop("created").endswith("Z")
        assert record == {"key": "k", "value": "ä", "encoding": "utf-8", "revision": 1}
        await store.delete("k")
        (only,) = (await cli("history", store.name, "k", "--json")).records
        assert (only["operation"], only["revision"]) == ("DELETE", 2)

    async def test_errors(self, cli: Cli, store: KvStore) -> None:
        await store.put("k", b"v")
        error = (await cli("update", store.name, "k", "w", "--version", "7", "--json", code=3)).error
        assert error["error"] == "RevisionMismatchError"
        assert (error["exit_code"], error["key"], error["expected"], error["actual"]) == (3, "k", "7", "1")
        assert error["retryable"] is error["outcome_unknown"] is False
        assert (await cli("get", store.name, "--json", code=2)).error["error"] == "UsageError"


class TestExitCodes:
    async def test_conflicts(self, cli: Cli, store: KvStore) -> None:
        version = await store.put("k", b"v")
        assert "already exists" in (await cli("create", store.name, "k", "w", code=3)).err
        await cli("update", store.name, "k", "w", "--version", "99", code=3)
        await cli("delete", store.name, "k", "--version", "99", code=3)
        await cli("purge", store.name, "k", "--version", "99", code=3)
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"v", version)

    async def test_what_is_not_there(self, cli: Cli, store: KvStore, bucket: str) -> None:
        for command in (["get", "k"], ["keys"], ["scan"], ["history", "k"]):
            await cli(command[0], store.name, *command[1:], code=1)
        await store.put("k", b"v")
        await cli("get", store.name, "k", "--revision", "77", code=1)
        for command in (["get", "k"], ["delete", "k"], ["keys"], ["watch"]):
            ended = await cli(command[0], bucket, *command[1:], code=1)
            assert "the bucket does not exist" in ended.err
            assert "slipstream stores create" in ended.err

    async def test_reading_makes_no_store(self, cli: Cli, store: KvStore, bucket: str) -> None:
        await cli("scan", bucket, code=1)
        listed = (await cli("stores", "list", "--json")).records
        assert bucket not in {record["store"] for record in listed}
        assert store.name in {record["store"] for record in listed}

    @pytest.mark.parametrize(
        "arguments",
        [
            ["get", "STORE"],
            ["get", "STORE", "a..b"],
            ["get", "STORE", "k", "--raw", "--json"],
            ["keys", "STORE", "--prefix", "*"],
            ["update", "STORE", "k", "v"],
            ["get", "STORE", "k", "--bogus"],
            ["get", "STORE", "k", "--timeout", "0"],
            ["get", "no.bucket", "k"],
            ["bogus"],
            ["get", "STORE", "k", "--url", "redis://h"],
        ],
        ids=" ".join,
    )
    async def test_usage(self, cli: Cli, store: KvStore, arguments: list[str]) -> None:
        ended = await cli(*(store.name if word == "STORE" else word for word in arguments), code=2)
        assert (ended.out, ended.err.partition(":")[0]) in (("", "error"), ("", '{"error"'))

    async def test_nobody_there(self, bare_cli: Cli) -> None:
        ended = await bare_cli("get", "b", "k", "--url", "nats://user:s3cr3t@127.0.0.1:1", code=4)
        assert "no connection to nats://127.0.0.1:1" in ended.err
        assert "s3cr3t" not in ended.err

    async def test_somebody_there_who_says_nothing(self, cli: Cli, fault_proxy: MakeProxy, nats_url: str) -> None:
        host, _, port = nats_url.removeprefix("nats://").partition(":")
        proxy = await fault_proxy(host, int(port))
        proxy.black_hole()
        ended = await cli("get", "b", "k", "--url", proxy.url, "--timeout", "1", "--json", code=4)
        assert ended.error["error"] == "ConnectionFailedError"
        assert "no answer within 1 s" in ended.error["message"]
