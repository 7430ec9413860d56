"""One logger a module, called like it; nothing private in logs, spans and metrics."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import slipstream
from slipstream import Lease, Replica
from slipstream.errors import AuthenticationError, ConflictError
from slipstream.interfaces import Connection, Transaction
from slipstream.otel import instrument_connection, observe_connection, observe_replica, observe_term
from slipstream.testing._waiting import eventually
from slipstream.testing.server import NatsServer
from tests.otel.recorded import Recorded

PACKAGE = Path(slipstream.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
PASSWORD, WRONG = "s3cret-word", "other-wr0ng-word"
KEY, VALUE = "person.ada-lovelace", "born-1815"


def calls_of(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    """Of `name(...)` and `anything.name(...)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called == name:
                yield node


def loggers(tree: ast.Module) -> list[str]:
    """What a module names its loggers by, as it is written."""
    # Without a name it is the root, to which the command adds its handler.
    return [ast.unparse(call) for call in calls_of(tree, "getLogger") if call.args]


def assigned(tree: ast.Module) -> list[str]:
    """Loggers that are made at the top of a module and kept there."""
    return [ast.unparse(node.value) for node in tree.body if isinstance(node, ast.Assign) and loggers_in(node.value)]


def loggers_in(node: ast.expr) -> bool:
    return any(calls_of(node, "getLogger"))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_a_module_has_one_logger_at_most_and_it_is_called_like_the_module(module: Path) -> None:
    tree = ast.parse(module.read_text())
    assert loggers(tree) == assigned(tree)
    assert loggers(tree) in ([], ["logging.getLogger(__name__)"])
    # Through the root logger nobody could tell where a line comes from.
    for level in ("debug", "info", "warning", "error", "exception", "critical", "log", "basicConfig"):
        assert [ast.unparse(call) for call in calls_of(tree, level) if ast.unparse(call).startswith("logging.")] == []


def test_there_are_loggers_to_look_at() -> None:
    assert sum(bool(loggers(ast.parse(module.read_text()))) for module in MODULES) > 20


@pytest.mark.parametrize(
    "source",
    [
        "log = logging.getLogger('slipstream')",
        "log = logging.getLogger()",
        "log = getLogger(__name__)",
        "def work():\n    logging.getLogger(__name__).info('done')",
        "a = logging.getLogger(__name__)\nb = logging.getLogger(__name__)",
    ],
)
def test_another_logger_is_noticed(source: str) -> None:
    tree = ast.parse(source)
    assert not (loggers(tree) == assigned(tree) and loggers(tree) in ([], ["logging.getLogger(__name__)"]))


async def traffic(connection: Connection, recorded: Recorded, server: NatsServer) -> None:
    """What a program does in its life: everything that logs something among it."""
    async with observe_connection(connection, meter_provider=recorded.meters):
        store = await connection.store("b")
        version = await store.put(KEY, VALUE.encode())
        with suppress(ConflictError):
            await store.create(KEY, VALUE.encode())
        await store.put_many({KEY: VALUE.encode(), f"{KEY}.2": VALUE.encode()})
        with suppress(ConflictError):
            await store.update(KEY, VALUE.encode(), version)

        async def change(txn: Transaction) -> None:
            await txn.get(KEY)
            txn.put(KEY, VALUE.encode())

        await store.atomically(change)
        async with Replica(store) as replica, Lease(store, "job", ttl=5) as lease, store.watch("person.") as watch:
            with (
                observe_replica(replica, meter_provider=recorded.meters),
                observe_term(lease, name="job", meter_provider=recorded.meters),
            ):
                await replica.ready()
                await anext(watch)
                await server.restart()

                async def answers() -> bool:
                    return connection.is_healthy() and await store.get(KEY) is not None

                await eventually(answers)
                await replica.audit()
                recorded.collect()


# What tests/integration/test_nats_security.py holds for every kind of credentials, with everything switched on.
async def test_no_secret_value_or_key_shows(recorded: Recorded, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    config = f"authorization {{ user: ada, password: {PASSWORD} }}"
    async with NatsServer(config=config) as server, asyncio.timeout(50):
        url = f"nats://ada:{PASSWORD}@127.0.0.1:{server.port}"
        plain = slipstream.connect(url, reconnect_max_wait=0.05)
        connection = instrument_connection(plain, **recorded.providers)
        async with connection:
            await traffic(connection, recorded, server)
        wrong = instrument_connection(slipstream.connect(url.replace(PASSWORD, WRONG)), keys=True, **recorded.providers)
        with pytest.raises(AuthenticationError):
            await wrong.connect()
        await wrong.shutdown()
    told = "".join(span.to_json() for span in recorded.spans()) + str(recorded.collect())
    assert {"put b", "atomically b", "connect"} <= {span.name for span in recorded.spans()}
    assert f"127.0.0.1:{server.port}" in caplog.text  # something was logged
    for secret in (PASSWORD, WRONG, VALUE):
        assert secret not in told + caplog.text
    assert KEY not in told
