"""Who does not ask for it has nothing of it."""

from __future__ import annotations

import ast
import subprocess
import sys

WITHOUT = "import sys; sys.modules['opentelemetry'] = None; "


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)


def test_slipstream_itself_does_not_import_it() -> None:
    modules = (
        "slipstream, slipstream.replica, slipstream.coordination, slipstream.stores.nats, slipstream.stores.memory"
    )
    done = run(f"import sys, {modules}; print(sorted(sys.modules))")
    loaded: list[str] = ast.literal_eval(done.stdout)
    assert "slipstream.stores.nats" in loaded
    assert [name for name in loaded if name.partition(".")[0] == "opentelemetry" or name == "slipstream.otel"] == []


def test_it_imports_no_backend_and_no_sdk() -> None:
    done = run("import sys, slipstream.otel; print(sorted(sys.modules))")
    loaded: list[str] = ast.literal_eval(done.stdout)
    foreign = ("nats", "sqlite3", "opentelemetry.sdk", "slipstream.stores", "slipstream.replica", "slipstream.testing")
    assert [name for name in loaded if name.startswith(foreign)] == []


def test_without_the_extra_everything_else_works() -> None:
    done = run(f"{WITHOUT} import slipstream; slipstream.connect('memory://'); slipstream.Replica; slipstream.Lease")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_the_extra_it_says_what_to_install() -> None:
    done = run(f"{WITHOUT} import slipstream.otel")
    assert done.returncode == 1
    assert "pip install 'slipstream-kv[otel]'" in done.stderr


LATE = """
import asyncio, slipstream, slipstream.otel
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

async def main():
    async with slipstream.otel.instrument_connection(slipstream.connect("memory://")) as connection:
        store = await connection.store("b")
        exporter, reader, traces = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
        traces.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(traces)
        metrics.set_meter_provider(MeterProvider([reader]))
        again = slipstream.otel.instrument(store, meter_provider=metrics.get_meter_provider())
        async with store.watch(), again.watch():
            data = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
            open_watches = [metric for metric in data if metric.name == "slipstream.watch.open"]
            print(open_watches[0].data.data_points[0].value, exporter.get_finished_spans()[0].name)

asyncio.run(main())
"""


def test_providers_that_the_process_sets_later_are_used() -> None:
    done = run(LATE)
    # `again` wraps what is wrapped: its watch and the one inside are both open.
    assert (done.stdout, done.stderr) == ("3 watch b\n", "")
