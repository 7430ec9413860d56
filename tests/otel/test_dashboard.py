"""The dashboard and the guide name the metrics that there are, as the exporters write them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY

import slipstream
from slipstream import Lease, Replica
from slipstream.errors import FencedError, StoreNotFoundError
from slipstream.otel import instrument_connection, names, observe_connection, observe_replica, observe_term
from slipstream.otel.names import ConnectionMetrics, Metric, ReplicaMetrics, WatchMetrics, metrics_of
from slipstream.testing._waiting import bounded

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text())
GUIDE = (DOCS / "observability.md").read_text()
METRICS = [
    *(value for value in vars(names).values() if isinstance(value, Metric)),
    *(metric for group in (WatchMetrics, ReplicaMetrics, ConnectionMetrics) for metric in metrics_of(group)),
]
OF_PROMETHEUS = {"instance", "job", "le"}
"""Labels that are not the program's."""


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:slipstream|db_client)_\w+(?=\{)", expression))


def labels_in(expression: str) -> set[str]:
    grouped = ",".join(re.findall(r"\bby \(([^)]*)\)", expression)).split(",")
    compared = re.findall(r"(\w+)(?:=~|!=|=)\"", expression)
    return {label.strip() for label in grouped if label.strip()} | set(compared)


@pytest.fixture
def exported() -> Iterator[MeterProvider]:
    """Its metrics are in the registry of prometheus_client."""
    provider = MeterProvider([PrometheusMetricReader()], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


@dataclass
class Made:
    """A series that can be asked for: of which metric it is, and what labels it has."""

    metric: str
    labels: set[str] = field(default_factory=set)


async def something_of_everything(provider: MeterProvider) -> dict[str, Made]:
    """All that a program makes, by the name of the series."""
    connection = instrument_connection(slipstream.connect("memory://"), meter_provider=provider)
    async with bounded(), connection, observe_connection(connection, meter_provider=provider):
        store = await connection.store("b")
        gone = await connection.store("gone")
        await store.put_many({"a": b"1", "b": b"2"})

        async def watch_what_goes() -> None:
            async with gone.watch() as watch:
                await connection.delete_store("gone")
                await anext(watch)

        async def lose() -> None:
            async with Lease(store, "job") as lease:
                with observe_term(lease, name="job", meter_provider=provider):
                    for key in await store.keys("job.queue."):
                        await store.delete(key)
                    await asyncio.Event().wait()

        with pytest.raises(StoreNotFoundError):
            await watch_what_goes()
        with pytest.raises(FencedError):
            await lose()
        async with Replica(store) as replica, store.watch():
            with observe_replica(replica, meter_provider=provider):
                await replica.ready()
                found: dict[str, Made] = {}
                for family in REGISTRY.collect():
                    for sample in family.samples:
                        found.setdefault(sample.name, Made(family.name)).labels.update(sample.labels)
    return {name: made for name, made in found.items() if "otel_scope_name" in made.labels}


async def test_the_dashboard_shows_every_metric_and_no_other(exported: MeterProvider) -> None:
    made = await something_of_everything(exported)
    shown = set().union(*map(metrics_in, expressions()))
    assert shown - made.keys() == set()
    assert {made[name].metric for name in shown} == {each.metric for each in made.values()}
    assert len({each.metric for each in made.values()}) == len(METRICS)


async def test_the_dashboard_names_labels_that_there_are(exported: MeterProvider) -> None:
    made = await something_of_everything(exported)
    for expression in expressions():
        (metric,) = metrics_in(expression)
        assert labels_in(expression) - made[metric].labels - OF_PROMETHEUS == set(), expression
    for panel in panels():
        for target in panel["targets"]:
            kept = labels_in(target["expr"])
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]


def test_a_name_in_an_expression_is_found() -> None:
    expression = 'sum by (le, a_b) (rate(slipstream_x_total{job=~"$job", c!=""}[5m]))'
    assert metrics_in(expression) == {"slipstream_x_total"}
    assert labels_in(expression) == {"le", "a_b", "job", "c"}


def test_the_data_source_is_a_variable() -> None:
    (source,) = [each for each in DASHBOARD["templating"]["list"] if each["type"] == "datasource"]
    assert (source["name"], source["query"]) == ("datasource", "prometheus")
    used = [panel["datasource"] for panel in panels()]
    used += [target["datasource"] for panel in panels() for target in panel["targets"]]
    used += [each["datasource"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in used)
    assert len(used) > 40


def test_panels_are_beside_each_other_and_told_apart() -> None:
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_guide_lists_every_metric_and_no_other() -> None:
    listed = set(re.findall(r"^\| `((?:slipstream|db)\.[\w.]+)` \| (?:counter|gauge|histogram)", GUIDE, re.MULTILINE))
    assert listed == {metric.name for metric in METRICS}


def test_the_guide_tells_every_unit() -> None:
    for metric in METRICS:
        (row,) = [line for line in GUIDE.splitlines() if line.startswith(f"| `{metric.name}` |")]
        unit = metric.unit.strip("{}")
        assert f"| {unit} |" in row, row
