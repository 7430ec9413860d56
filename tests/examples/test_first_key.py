"""The five minutes of the README: a key that is watched in one terminal and written in another."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.examples.pages import PAGES, ROOT

EXAMPLE = [sys.executable, "-W", "error", "examples/first_key.py"]
SECONDS = 30.0


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "SLIPSTREAM_URL": f"embedded://{folder}"}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EXAMPLE, *arguments],
        env=environment(folder),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@contextmanager
def watching(folder: Path, prefix: str) -> Iterator[Iterator[str]]:
    """The lines of a watch, which Ctrl-C ends; the timeout of the test bounds the waiting for one."""
    watch = subprocess.Popen(
        [*EXAMPLE, "watch", prefix],
        env=environment(folder),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with watch:
        try:
            assert watch.stdout is not None
            assert watch.stderr is not None
            assert watch.stdout.readline() == f"watching {prefix}; Ctrl-C ends it\n"
            yield iter(watch.stdout.readline, "")
            watch.send_signal(signal.SIGINT)
            assert watch.wait(SECONDS) == 0
            assert watch.stderr.read() == ""
        finally:
            watch.kill()


def test_a_key_is_watched_in_another_process(tmp_path: Path) -> None:
    with watching(tmp_path, "config.") as lines:
        put = run(tmp_path, "put", "config.colour", "blue")
        assert (put.returncode, put.stdout, put.stderr) == (0, "config.colour is at revision 1\n", "")
        assert next(lines) == "PUT config.colour blue  (revision 1)\n"
        assert run(tmp_path, "put", "other", "x").returncode == 0
        assert run(tmp_path, "delete", "config.colour").returncode == 0
        assert next(lines) == "DELETE config.colour  (revision 3)\n"
    with watching(tmp_path, "other") as lines:  # what is there comes first
        assert next(lines) == "PUT other x  (revision 2)\n"


def test_what_it_does_not_understand_is_answered_with_its_usage(tmp_path: Path) -> None:
    for arguments in ([], ["put", "config.colour"], ["shout"]):
        done = run(tmp_path, *arguments)
        assert done.returncode == 1
        assert "Usage: " in done.stderr
    wrong = run(tmp_path, "put", "no key", "x")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("InvalidKeyError: ")


def test_the_readme_comes_to_it_within_two_screens() -> None:
    before, found, _ = PAGES["README"].partition("\nPUT  ")
    assert found
    assert len(before.splitlines()) <= 2 * 40


def commands(page: str) -> list[list[str]]:
    """What a page has typed of the `slipstream` command."""
    lines = re.findall(r"^\.venv/bin/slipstream (.*)$", PAGES[page], re.MULTILINE)
    return [line.split() for line in lines]


def test_the_readme_and_the_first_page_name_the_same_commands() -> None:
    assert len(commands("README")) == 3
    assert commands("README") == commands("start")


def test_the_commands_of_the_readme_show_a_watched_key(tmp_path: Path) -> None:
    create, watch, put = commands("README")
    slipstream = [sys.executable, "-m", "slipstream.cli"]
    elsewhere = ("SLIPSTREAM_URL", "NATS_URL", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")
    alone = {name: value for name, value in os.environ.items() if name not in elsewhere} | {"HOME": str(tmp_path)}
    subprocess.run([*slipstream, *create], env=alone, cwd=ROOT, timeout=SECONDS, check=True)
    watcher = subprocess.Popen([*slipstream, *watch], env=alone, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with watcher:
        try:
            subprocess.run([*slipstream, *put], env=alone, cwd=ROOT, timeout=SECONDS, check=True)
            assert watcher.stdout is not None
            operation, revision, _, key, value = watcher.stdout.readline().split()
            assert (operation, revision, key, value) == ("PUT", "1", "config.colour", "blue")
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(SECONDS) == 0
        finally:
            watcher.kill()
