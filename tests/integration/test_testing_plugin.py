"""The pytest plugin as somebody else's tests see it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from slipstream import Connection, KvStore, StoreConfig
from slipstream.testing import NatsCluster

PLUGIN = "slipstream.testing.pytest_plugin"
TESTS = """
    import asyncio

    import pytest
    import slipstream
    from slipstream import StoreConfig
    from slipstream.testing import FaultProxy, NatsCluster, NatsServer

    names = []

    @pytest.mark.parametrize("time", [1, 2])
    async def test_store(kv_store, kv_connection, time):
        assert await kv_store.keys() == []
        await kv_store.put("k", b"v")
        assert (await kv_connection.stores()).count(kv_store.name) == 1
        assert not set(names) & set(await kv_connection.stores())  # the one before is gone
        names.append(kv_store.name)

    class TestOverridden:
        @pytest.fixture
        def kv_store_config(self):
            return StoreConfig(name="mine", max_history=3)

        async def test_store(self, kv_store):
            assert (await kv_store.status()).config.max_history == 3

    async def test_server_and_proxy(nats_server, nats_url, fault_proxy):
        assert isinstance(nats_server, NatsServer) and nats_server.url != nats_url
        proxy = await fault_proxy("127.0.0.1", nats_server.port)
        async with slipstream.connect(proxy.url) as conn:
            assert conn.is_healthy()
        await nats_server.stop()
"""


def run(pytester: pytest.Pytester, tests: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(tests)
    return pytester.runpytest_subprocess("-p", PLUGIN, "-o", "asyncio_mode=auto", *options, timeout=50)


def test_fixtures_without_a_conftest(pytester: pytest.Pytester) -> None:
    run(pytester, TESTS).assert_outcomes(passed=4)


def test_strict_mode(pytester: pytest.Pytester) -> None:
    tests = """
        import pytest

        @pytest.mark.asyncio
        async def test_store(kv_store):
            await kv_store.put("k", b"v")
    """
    run(pytester, tests, "-o", "asyncio_mode=strict").assert_outcomes(passed=1)


def test_a_session_without_pytest_asyncio_goes_on(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_url(nats_url): assert nats_url.startswith('nats://')")
    code = f"""if True:
        import importlib.util, sys
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "pytest_asyncio" else find(name, *more)
        import pytest
        failed = pytest.main(["-q", "-p", "no:asyncio", "-p", "{PLUGIN}", "test_it.py"])
        sys.exit(failed or "pytest_asyncio" in sys.modules)"""
    result = pytester.run(sys.executable, "-c", code, timeout=50)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*1 passed*"])


def test_being_loaded_brings_in_no_nats_client() -> None:
    code = f"import sys, {PLUGIN}; sys.exit('nats' in sys.modules or 'pytest_asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=50).returncode == 0


@pytest.mark.timeout(120)
async def test_the_cluster(nats_cluster: NatsCluster) -> None:
    assert len(nats_cluster.nodes) == 3
    assert await nats_cluster.meta_leader() in nats_cluster.nodes


async def test_the_store(kv_connection: Connection, kv_store: KvStore, kv_store_config: StoreConfig) -> None:
    assert kv_store.name == kv_store_config.name
    assert kv_store.name in await kv_connection.stores()
