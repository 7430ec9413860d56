"""What a person meets first: help with an example for every command, and quickly; completion; bench."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import App

from slipstream.cli.app import make_app
from slipstream.interfaces import Connection
from tests.cli.conftest import ROOT, Cli

COMMON = {"--url", "--context", "--creds", "--timeout", "--json"}
NAMED_BY_THE_ISSUE = {
    *("get", "put", "create", "update", "delete", "purge", "keys", "scan", "history", "watch", "diff", "apply"),
    *(
        "dump",
        "restore",
        "stores",
        "replica",
        "elect",
        "lock",
        "members",
        "server",
        "permissions",
        "bench",
        "doctor",
        "ui",
    ),
}


def leaves(app: App, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], App]]:
    found = []
    for name, inner in app.resolved_commands().items():
        if not name.startswith("-"):
            below = leaves(inner, (*path, name))
            found += below or [((*path, name), inner)]
    return found


COMMANDS = leaves(make_app())


def test_every_command_is_there() -> None:
    assert {path[0] for path, _ in COMMANDS} == NAMED_BY_THE_ISSUE
    groups = {path for path, _ in COMMANDS if len(path) == 2}
    assert groups >= {("stores", name) for name in ("list", "create", "info", "delete", "ensure")}
    assert groups >= {("replica", name) for name in ("follow", "inspect", "verify", "export", "import")}


@pytest.mark.parametrize(("path", "app"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_every_command_has_the_common_options_and_an_example(path: tuple[str, ...], app: App) -> None:
    assert app.help_epilogue is not None
    example = app.help_epilogue.removeprefix("Example: ").split()
    assert tuple(example[: len(path) + 1]) == ("slipstream", *path)
    command, bound, _ = make_app(example[1:]).parse_args(example[1:], exit_on_error=False, print_error=False)
    assert command.__name__.startswith(path[-1])
    assert bound.arguments or path == ("stores", "list")
    assert app.help
    names = {name for argument in app.assemble_argument_collection() for name in argument.names}
    assert names >= COMMON


async def test_help_of_one_command(bare_cli: Cli) -> None:
    shown = (await bare_cli("watch", "--help")).out
    assert "Example: slipstream watch config --prefix node. --prefix job." in shown
    assert all(option in shown for option in COMMON)
    listed = (await bare_cli("--help")).out
    assert "Print the value of a key" in listed
    assert "Exit codes:" in listed


def test_help_needs_no_client_and_no_parser() -> None:
    code = (
        "import sys; from slipstream.cli import main; main();"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'nats', 'yaml', 'rocksdict', 'sqlite3'}))"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("file", ["README.md", "docs/cli.md"])
def test_every_command_line_that_is_written_down(file: str) -> None:
    parts = re.split(r"^```.*\n", (ROOT / file).read_text(), flags=re.MULTILINE)
    blocks = "".join(parts[1::2])
    lines = [line.partition("#")[0].split() for line in re.findall(r"^slipstream (.*)$", blocks, re.MULTILINE)]
    assert len(lines) > 2
    for line in lines:
        command, _, _ = make_app(line).parse_args(line, exit_on_error=False, print_error=False)
        assert command.__name__ == line[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    script = make_app().generate_completion(shell=shell)  # type: ignore[arg-type] # one of the three
    assert all(name in script for name in ("watch", "stores", "ensure", "--cursor-file"))


async def test_installing_completion(bare_cli: Cli) -> None:
    await bare_cli("--install-completion", "--shell", "bash")
    home = Path(bare_cli.environment["HOME"])
    assert len(list(home.rglob("slipstream"))) == 1  # noqa: ASYNC240 - a test may look


async def test_bench_measures_and_leaves_nothing(cli: Cli, connection: Connection) -> None:
    records = (await cli("bench", "--count", "20", "--json")).records
    assert [record["operation"] for record in records] == [
        "put",
        "put, pipelined",
        "get",
        "get, together",
        "scan",
        "put to watch",
    ]
    for record in records:
        assert record["count"] == 20
        assert record["per_second"] > 0
    assert records[0]["p50"] <= records[0]["p99"] <= records[0]["max"]
    assert not [name for name in await connection.stores() if name.startswith("bench-")]
