"""What the README says is so: its tour runs, and its tables, files and commands are those that there are."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import slipstream
from slipstream import KvError

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECONDS = 30.0

BASE = {"KvError"}


def tour() -> str:
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def rows(section: str) -> list[list[str]]:
    """The cells of the table in a section, without its head."""
    text = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def run_tour(url: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", tour()],
        env={**os.environ, "SLIPSTREAM_URL": url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def check_tour(output: str) -> None:
    conflict, scan, first, missed = output.splitlines()
    assert conflict.startswith("store 'tour', key 'node.eu-1': expected revision ")
    assert scan == "[('node.eu-1', b'up'), ('node.us-1', b'up')]"
    assert first.startswith("KvUpdate(operation=<Operation.PUT: 'PUT'>, key='node.eu-1', value=b'up'")
    assert missed.startswith("KvUpdate(operation=<Operation.DELETE: 'DELETE'>, key='node.us-1', value=b''")


async def test_the_tour_on_a_real_server_and_again_on_what_it_left(nats_url: str) -> None:
    async with slipstream.connect(nats_url) as connection:
        try:
            for _ in range(2):
                check_tour(await asyncio.to_thread(run_tour, nats_url))
        finally:
            if "tour" in await connection.stores():
                await connection.delete_store("tour")


@pytest.mark.parametrize("url", ["memory://", "embedded://"])
def test_the_tour_without_a_server(url: str) -> None:
    check_tour(run_tour(url))


def test_the_two_commands_come_first() -> None:
    first_block = README.partition("```\n")[2].partition("```")[0]
    assert [line.split("#")[0].strip() for line in first_block.splitlines()] == ["make demo", "make test"]


def test_every_make_target_is_there() -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join(re.findall(r"^make .*$", README, re.MULTILINE))))
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "check", "test-matrix"} <= named <= targets


def test_every_file_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link
    assert {Path(link).name for link in links if link.startswith("examples/")} == {
        file.name for file in (ROOT / "examples").glob("*.py")
    }
    pages = [str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*.md")]
    assert {link for link in links if link.startswith("docs/") and link.endswith(".md")} == {
        f"docs/{page}" for page in pages if not page.startswith("reference/")
    }


def test_every_folder_it_names_is_there() -> None:
    layout = re.findall(r"^([a-z/]+/) {2,}", README, re.MULTILINE)
    assert {"slipstream/stores/", "tests/"} <= set(layout)
    for folder in layout:
        assert (ROOT / folder).is_dir(), folder


def test_the_table_of_errors() -> None:
    table = {row[0].strip("`"): row for row in rows("Errors")}
    errors = {
        name: kind
        for name in slipstream.__all__
        if isinstance(kind := getattr(slipstream, name), type) and issubclass(kind, KvError)
    }
    assert set(table) == set(errors) - BASE
    for name, (_, when, retry, unknown) in table.items():
        assert when
        assert (retry == "yes") == errors[name].retryable, name
        assert unknown in ("", "can be")
        assert ("also a `ValueError`" in when) == issubclass(errors[name], ValueError), name
        assert ("also a `TimeoutError`" in when) == issubclass(errors[name], TimeoutError), name
        for attribute in re.findall(r"`\.(\w+)`", when):
            assert hasattr(errors[name](), attribute), (name, attribute)


def test_every_scheme_it_names_is_understood() -> None:
    schemes = {scheme for row in rows("URLs") for scheme in re.findall(r"(\w+)://", row[0])}
    assert schemes == {"nats", "tls", "ws", "wss", "embedded", "memory"}
    for scheme in schemes:
        host = "" if scheme in ("embedded", "memory") else "127.0.0.1"
        assert not slipstream.connect(f"{scheme}://{host}").is_healthy()
    with pytest.raises(ValueError, match="no backend for redis://"):
        slipstream.connect("redis://127.0.0.1")


def test_every_method_it_names_is_there() -> None:
    methods = {name for row in rows("Semantics") for name in re.findall(r"`(\w+)`", row[0])}
    assert methods >= {"put", "create", "update", "scan", "hydrated"}
    for name in methods:
        assert hasattr(slipstream.KvStore, name) or hasattr(slipstream.Watch, name), name
