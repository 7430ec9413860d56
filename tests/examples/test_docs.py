"""What the pages show is so.

Every Python program and fragment runs, and prints what the page says; every command is one that there is; every
configuration is one that a server takes; every file that is named is there.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import slipstream
from slipstream import Connection, KvStore
from slipstream.stores.embedded.binary import find_nats_server
from slipstream.testing import NatsServer
from tests.examples.pages import BLOCKS, PAGES, ROOT, Block, blocks_of, parameters

SECONDS = 30.0
SERVER = "nats://127.0.0.1:4222"
"""The server that pages name; they run with one of their own."""

PYTHON_ELSEWHERE = {
    "examples": "its blocks are the files: test_examples.py, test_first_key.py",
    "testing": "its blocks are pytest files: test_testing_guide.py",
    "README": "its program is run on every backend: test_readme.py",
}
COMMANDS_ELSEWHERE = {
    "cli": "the command's own tests",
}
SHELLS = ("console", "sh", "bash")
PYTHON = [block for block in BLOCKS if block.language == "python" and block.page not in PYTHON_ELSEWHERE]
PROGRAMS = [block for block in PYTHON if not block.is_fragment]
FRAGMENTS = [block for block in PYTHON if block.is_fragment]
COMMANDS = [block for block in BLOCKS if block.language in SHELLS and block.page not in COMMANDS_ELSEWHERE]
CONFIGURATIONS = [block for block in BLOCKS if block.language == "conf"]
NOT_RUN = {"", "text", "json", "yaml", "toml"}
"""Drawings, outputs, data, pieces for frameworks that are not installed."""

# What a fragment finds beside the public names, `conn`, `store` and `asyncio`, by page: Python, run before it.
GIVEN = {
    "replica": """
from obstore.store import MemoryStore

await store.put("node.eu-1", b"up")

def S3Store(bucket, *, region):  # the tests of artifacts have a real S3
    return MemoryStore()
""",
    "coordination": """
plan = b"what the leader has decided"

async def lead(term):
    assert term.is_leading

class LeaderElection(slipstream.LeaderElection):
    async def observe(self):  # for ever, on the page
        async for leader in super().observe():
            yield leader
            if leader is None:
                return
""",
}


def adapted(text: str, server: str, folder: Path) -> str:
    """With a server that there is, and below a folder that may be written to."""
    return text.replace(SERVER, server).replace("/var/lib", str(folder))


def run_program(program: str) -> str:
    """What it prints. It finds no server but the one that it starts or names."""
    environment = {name: value for name, value in os.environ.items() if name not in ("SLIPSTREAM_URL", "NATS_URL")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


async def run_fragment(fragment: str, names: dict[str, Any]) -> None:
    code: CodeType = compile(fragment, "<fragment>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, names)
    else:
        exec(code, names)


@pytest.mark.parametrize("program", parameters(PROGRAMS))
async def test_a_program_of_a_page(program: Block, nats_server: NatsServer, tmp_path: Path) -> None:
    output = await asyncio.to_thread(run_program, adapted(program.text, nats_server.url, tmp_path))
    if program.output is not None:
        assert output == program.output


@pytest.mark.parametrize("fragment", parameters(FRAGMENTS))
async def test_a_fragment_of_a_page(
    fragment: Block, kv_connection: Connection, kv_store: KvStore, nats_url: str, tmp_path: Path
) -> None:
    names: dict[str, Any] = {name: getattr(slipstream, name) for name in slipstream.__all__}
    names |= {"slipstream": slipstream, "asyncio": asyncio, "conn": kv_connection, "store": kv_store}
    async with asyncio.timeout(SECONDS):
        await run_fragment(GIVEN.get(fragment.page, ""), names)
        await run_fragment(adapted(fragment.text, nats_url, tmp_path), names)


def test_what_does_not_run_is_noticed() -> None:
    with pytest.raises(AssertionError, match="NameError"):
        run_program("nothing_of_this_name")
    with pytest.raises(AssertionError, match="a warning"):
        run_program("import warnings; warnings.warn('a warning')")


async def test_a_fragment_that_does_not_run_is_noticed(kv_store: KvStore) -> None:
    with pytest.raises(NameError):
        await run_fragment("await store.put(key, b'')", {"store": kv_store})
    with pytest.raises(AssertionError):
        await run_fragment("assert await store.get('key')", {"store": kv_store})


def test_no_block_is_left_out() -> None:
    assert {block.language for block in BLOCKS} <= {"python", "conf", *SHELLS} | NOT_RUN
    assert len(PROGRAMS) >= 17
    assert FRAGMENTS
    assert COMMANDS
    assert len(CONFIGURATIONS) >= 4
    assert {"start", "operations", "guides/config", "moving/nats-py"} <= {block.page for block in PROGRAMS}
    for page, text in PAGES.items():  # a fence that was not read as one
        assert len(re.findall(r"^ *```", text, re.MULTILINE)) % 2 == 0, page


def test_blocks_are_read_with_their_indent_and_output() -> None:
    text = (
        '=== "a"\n\n    ```python\n    if 1:\n        print(2)\n    ```\n\n'
        '```text title="prints"\n2\n```\n\n```\nx\n```\n'
    )
    program, drawing = blocks_of("page", text)
    assert (program.text, program.output, program.is_fragment) == ("if 1:\n    print(2)\n", "2\n", False)
    assert (drawing.name, drawing.language, drawing.text) == ("page-1", "", "x\n")
    assert blocks_of("page", "```python\nawait x\n```\n")[0].is_fragment


# Commands.


def check_make(arguments: list[str]) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(arguments) <= targets, arguments


def check_pip(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert arguments[0] == "install"
    for wanted in arguments[1:]:
        found = re.fullmatch(r"'?slipstream-kv(?:\[([\w,]+)\])?'?", wanted)
        assert found, wanted
        assert set((found[1] or "").split(",")) - {""} <= set(extras), wanted


def check_file(arguments: list[str]) -> None:
    assert (ROOT / arguments[0]).is_file(), arguments


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": check_make,
    "pip": check_pip,
    "python": check_file,
    ".venv/bin/python": check_file,
}
UNCHECKED = {
    "slipstream": "the command's own tests run it",
    ".venv/bin/slipstream": "test_first_key.py runs them",
    "nats": "NATS' own command, which is not installed here",
    "nats-server": "would not end; configurations are checked below",
    "export": "of the shell",
    "cd": "of the shell",
    "git": "needs a place to clone from",
}


def check_command(line: str) -> None:
    """Raises: AssertionError for what there is not; KeyError for a command that nothing is known of."""
    command, *arguments = line.split("#")[0].split()
    if command not in UNCHECKED:
        CHECKS[command](arguments)


@pytest.mark.parametrize("commands", parameters(COMMANDS))
def test_the_commands_of_a_page(commands: Block) -> None:
    lines = commands.text.splitlines()
    if any(line.startswith("$ ") for line in lines):  # a session: the other lines are what it prints
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines:
        if line.strip() and not line.startswith("#"):
            check_command(line)


def test_a_command_that_there_is_not_is_noticed() -> None:
    for line in ("make coffee", "pip install 'slipstream-kv[coffee]'", "pip install coffee", "python coffee.py"):
        with pytest.raises(AssertionError):
            check_command(line)
    with pytest.raises(KeyError):
        check_command("brew coffee")
    check_command("make test  # and nothing else")


def test_every_example_is_on_the_page() -> None:
    shown = re.findall(r"^examples/(\w+\.py)$", PAGES["examples"], re.MULTILINE)
    assert set(shown) == {file.name for file in (ROOT / "examples").glob("*.py")}


# Configurations.


def try_configuration(configuration: str, folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "nats-server.conf"
    file.write_text(configuration.replace("/var/lib", str(folder)))
    passwords = dict.fromkeys(set(re.findall(r"\$([A-Z]+_PASSWORD)", configuration)), "secret")
    return subprocess.run(
        [find_nats_server(), "-t", "-c", file],
        env={**os.environ, **passwords},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("configuration", parameters(CONFIGURATIONS))
def test_a_configuration_of_a_page(configuration: Block, tmp_path: Path) -> None:
    done = try_configuration(configuration.text, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_configuration_that_no_server_takes_is_noticed(tmp_path: Path) -> None:
    assert try_configuration("jetstream { sync_interval: sometimes }", tmp_path).returncode != 0


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names(page: str) -> None:
    for file in re.findall(r"(?<![\w/])(?:examples|benchmarks|docs|tests)/[\w/]+\.\w+", PAGES[page]):
        assert (ROOT / file).is_file(), file
