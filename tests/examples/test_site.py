"""The documentation builds without a warning, is whole without a network, and documents every public name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import slipstream
from docs.docstrings import drawn, links, paragraphs, separate, unlayered
from tests.examples.pages import ROOT

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "form": "action"}
"""What a browser fetches by itself, or sends to."""


# Faults, each with what is said of it. `--quiet` would hide them from `--strict`, too.
FAULTS = {
    ("docs/index.md", "[nowhere](nowhere.md)"): "'nowhere.md'",
    ("docs/index.md", "[no such heading](start.md#nowhere)"): "does not contain an anchor '#nowhere'",
    (
        "docs/orphan.md",
        "# A page that the navigation does not name",
    ): "WARNING -  The following pages exist",
    (
        "slipstream/errors.py",
        'def one(a: int) -> None:\n    """Has a parameter.\n\n    Args:\n        b: there is none.\n    """\n',
    ): "Parameter 'b' does not appear in the function signature",
    (
        "slipstream/errors.py",
        'def other() -> None:\n    """See `KvStore.nothing`."""\n',
    ): "'slipstream.interfaces.KvStore.nothing'",
}


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # an announcement of mkdocs-material
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=110, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the site is made of, to be broken."""
    for folder in ("docs", "examples", "slipstream"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    return tmp_path


class Page(HTMLParser):
    """What a page loads, where it points, and what may be pointed at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.points: list[str] = []
        self.anchors: set[str] = set()
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag in LOADING and LOADING[tag] in attributes:
            self.loads.append(attributes[LOADING[tag]])
        if tag == "a":
            self.points.append(attributes.get("href", ""))
        self.anchors.add(attributes.get("id", ""))
        self.classes.update(attributes.get("class", "").split())


def elsewhere(address: str) -> bool:
    """On another host."""
    return re.match(r"(?:[a-z]+:)?//", address) is not None


def pages(site: Path) -> dict[str, Page]:
    return {str(file.relative_to(site)): Page(file.read_text()) for file in site.rglob("*.html")}


@pytest.mark.timeout(120)
def test_pages_refer_to_no_other_host(site: Path) -> None:
    found = pages(site)
    assert len(found) > 30
    for name, page in found.items():
        assert [address for address in page.loads + page.points if elsewhere(address)] == [], name
        assert "mermaid" not in page.classes, name  # the theme would load what draws it
    for style in site.rglob("*.css"):
        addresses = re.findall(r"url\([\"']?([^)\"']+)|@import [\"']([^\"']+)", style.read_text())
        assert [address for pair in addresses for address in pair if elsewhere(address)] == [], style


def test_an_address_on_another_host_is_noticed() -> None:
    page = Page('<script src="https://a/b.js"></script><a href="//c">x</a><img src="d.png"><a href="#e">y</a>')
    assert [address for address in page.loads + page.points if elsewhere(address)] == ["https://a/b.js", "//c"]


@pytest.mark.timeout(120)
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    anchors = {anchor for name, page in pages(site).items() if name.startswith("reference/") for anchor in page.anchors}
    documented = {anchor.rpartition(".")[2] for anchor in anchors if anchor.startswith("slipstream.")}
    assert set(slipstream.__all__) - documented == set()


@pytest.mark.timeout(120)
def test_what_only_backends_use_is_not(site: Path) -> None:
    page = Page((site / "reference/model/index.html").read_text())
    assert "slipstream.model.KvEntry" in page.anchors
    assert "slipstream.model.new_entry" not in page.anchors


@pytest.mark.timeout(120)
def test_a_warning_fails_the_build(copy: Path) -> None:
    for file, text in FAULTS:
        with (copy / file).open("a") as page:
            page.write(f"\n{text}\n")
    done = build(copy, copy / "site")
    assert done.returncode == 1, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert f"Aborted with {said.count('WARNING -')} warnings in strict mode" in said
    assert [what for what in FAULTS.values() if what not in said] == [], said


# How docstrings are read.


def test_a_sentence_that_goes_on_is_a_paragraph() -> None:
    text = "What.\n\nArgs:\n    a: one.\nRaises: AError if so,\n    and BError: else.\n    Both.\nMore."
    assert paragraphs(text) == (
        "What.\n\nArgs:\n    a: one.\n\n**Raises:** AError if so,\nand BError: else.\nBoth.\nMore."
    )
    assert paragraphs("Raises:\n    AError: if so.") == "Raises:\n    AError: if so."


def test_parameters_that_share_an_explanation_have_one_each() -> None:
    assert separate("Args:\n    a, b: so\n        and so.\n    c: d.") == (
        "Args:\n    a: so\n        and so.\n    b: so\n        and so.\n    c: d."
    )


def test_public_names_are_links() -> None:
    public = {"KvError": "slipstream.errors.KvError", "Lease": "slipstream.coordination.Lease"}
    assert links("`Lease.acquire`, KvError, `KvError`, OSError, `lease`", public) == (
        "[`Lease.acquire`][slipstream.coordination.Lease.acquire], [KvError][slipstream.errors.KvError], "
        "[`KvError`][slipstream.errors.KvError], OSError, `lease`"
    )


def test_layers_are_left_out() -> None:
    assert unlayered("L4, public: what tests are made of: servers.") == "What tests are made of: servers."
    assert unlayered("Values.\n\nL1: more.") == "Values.\n\nL1: more."


def test_columns_are_kept_apart() -> None:
    assert (
        drawn("What.\n\na, b   one\nc      two\n\nMore of\nit.")
        == "What.\n\n    a, b   one\n    c      two\n\nMore of\nit."
    )
    assert drawn("What.\n\n    a   one\n    b   two") == "What.\n\n    a   one\n    b   two"
