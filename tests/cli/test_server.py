"""server, and how a command finds the server that is meant."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import slipstream
from slipstream.testing import NatsServer
from slipstream.testing._tenants import Key, Tenants
from tests.cli.conftest import Cli

SECRET = "s3cr3t-hunter2"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_serves_until_it_is_told_to_end(bare_cli: Cli, tmp_path: Path, number: int) -> None:
    folder = tmp_path / "with space"
    serving = await bare_cli.start("server", folder, "--json")
    url = (await serving.record())["url"]
    async with slipstream.connect(url) as connection:
        await (await connection.store("config")).put("k", b"v")
    assert (await bare_cli("get", "config", "k", "--url", url)).out == "v\n"
    ended = await serving.end(number)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert not (folder / "server.json").exists()  # it runs no more
    assert (await bare_cli("get", "config", "k", "--url", url)).out == "v\n"


async def test_without_a_url_everybody_finds_the_same_server(bare_cli: Cli) -> None:
    serving = await bare_cli.start("server")
    assert (await serving.line()).startswith("serving embedded:///")
    watching = None
    await bare_cli("put", "config", "k", "v")
    watching = await bare_cli.start("watch", "config", "--json")
    assert (await watching.record())["value"] == "v"
    await bare_cli("put", "config", "k", "w")
    assert (await watching.record())["value"] == "w"
    assert (await watching.end(signal.SIGINT)).code == 0
    assert (await serving.end(signal.SIGINT)).code == 0
    home = Path(bare_cli.environment["HOME"])
    assert (home / ".local" / "share" / "slipstream" / "server").is_dir()


async def test_a_context_of_the_nats_command(bare_cli: Cli, contexts: Callable[..., None], tmp_path: Path) -> None:
    async with NatsServer(config=f'authorization {{ user: u, password: "{SECRET}" }}') as server:
        contexts("prod", url=server.url, user="u", password=SECRET, inbox_prefix="_INBOX_cli")
        contexts("wrong", url=server.url, user="u", password="wrong", select=True)
        await bare_cli("put", "b", "k", "v", "--context", "prod")
        assert (await bare_cli("get", "b", "k", NATS_CONTEXT="prod")).out == "v\n"
        ended = await bare_cli("get", "b", "k", "--json", code=4)  # by the selected one
        assert ended.error["error"] == "AuthenticationError"
        contexts("prod", url=server.url, user="u", password=SECRET, select=True)
        assert (await bare_cli("get", "b", "k")).out == "v\n"
        examined = await bare_cli("doctor")
        assert "nats context 'prod'" in examined.out
        assert SECRET not in examined.out + examined.err
    ended = await bare_cli("get", "b", "k", "--context", "none", code=2)
    assert "there is no nats context 'none'" in ended.err


async def test_credentials_of_a_file(bare_cli: Cli, contexts: Callable[..., None], tmp_path: Path) -> None:
    tenants = Tenants()
    _, creds = tenants.user()
    (tmp_path / "user.creds").write_text(creds)
    async with NatsServer(config=tenants.config()) as server:
        await bare_cli("put", "b", "k", "v", "--url", server.url, "--creds", tmp_path / "user.creds")
        contexts("prod", url=server.url, creds="~/user.creds")  # the home of the command is this folder
        assert (await bare_cli("get", "b", "k", "--context", "prod")).out == "v\n"
        assert (await bare_cli("get", "b", "k", "--context", "prod", "--url", f"localhost:{server.port}")).out == "v\n"
        ended = await bare_cli("get", "b", "k", "--url", server.url, code=4)
        assert "refused the credentials" in ended.err
        ended = await bare_cli("get", "b", "k", "--url", server.url, "--creds", tmp_path / "none", code=4)
        assert "cannot be read" in ended.err


async def test_a_context_that_logs_in_by_an_nkey(bare_cli: Cli, contexts: Callable[..., None], tmp_path: Path) -> None:
    key = Key.of_user()
    (tmp_path / "user.nk").write_text(f"{key.seed.decode()}\n")
    async with NatsServer(config=f'authorization {{ users = [ {{ nkey: "{key.public}" }} ] }}') as server:
        contexts("prod", url=server.url, nkey="~/user.nk")
        await bare_cli("put", "b", "k", "v", "--context", "prod")
        assert (await bare_cli("get", "b", "k", "--context", "prod")).out == "v\n"


async def test_without_its_extra_it_says_what_to_install(bare_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "cyclopts.py").write_text("raise ModuleNotFoundError('gone', name='cyclopts')")
    paths = f"{tmp_path}:{bare_cli.environment['PYTHONPATH']}"
    ended = await bare_cli("--help", code=2, PYTHONPATH=paths)
    assert ended.err == "the slipstream command needs: pip install 'slipstream-kv[cli]'\n"
