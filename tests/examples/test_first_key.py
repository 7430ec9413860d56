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
    before, found, _ = PAGES["README"].partition("PUT config.colour blue")
    assert found
    assert len(before.splitlines()) <= 2 * 40


def test_the_readme_and_the_first_page_name_the_same_commands() -> None:
    def commands(page: str) -> set[str]:
        return set(re.findall(r"^\.venv/bin/python .*$", PAGES[page], re.MULTILINE))

    assert len(commands("README")) == 2
    assert commands("README") == commands("start")
