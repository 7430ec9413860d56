"""Consumer names: whose they are, in letters that the server takes."""

from __future__ import annotations

import os
import re
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.stores.nats.naming import consumer_metadata, consumer_name, program

LEGAL = re.compile(r"\A[-_a-zA-Z0-9]{1,120}\Z")


@given(st.none() | st.text(max_size=300))
def test_it_is_legal_whatever_the_application_is_called(application: str | None) -> None:
    assert LEGAL.match(consumer_name(application, "watch"))


def test_it_tells_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "web-1.example.org")
    name = consumer_name("price feed/eu", "watch")
    assert name.startswith(f"price-feed-eu-web-1-example-org-{os.getpid()}-watch-")
    assert consumer_metadata("price feed/eu", "watch") == {
        "slipstream.application": "price feed/eu",
        "slipstream.host": "web-1.example.org",
        "slipstream.pid": str(os.getpid()),
        "slipstream.purpose": "watch",
    }


def test_no_two_are_alike() -> None:
    assert len({consumer_name("app", "watch") for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("/opt/shop/serve.py", "serve"), ("/opt/shop/__main__.py", "shop"), ("-c", "python"), ("", "python")],
)
def test_without_a_name_it_is_that_of_the_program(
    monkeypatch: pytest.MonkeyPatch, argument: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "argv", [argument])
    assert program() == expected
    assert consumer_name(None, "scan").startswith(f"{expected}-")
