"""What the benchmarks found, as tables and a picture."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import IN_FLIGHT

Who = str
ROWS = {
    "sequential put": ("put", "put", "put"),
    "sequential get": ("get", "get", "get"),
    f"put, {IN_FLIGHT} in flight": ("put_in_flight", "put_in_flight", "put_in_flight"),
    f"get, {IN_FLIGHT} in flight": ("get_in_flight", "get_in_flight", "get_in_flight"),
    "put_many": ("put_many", "put_in_flight", "put_many"),
    "get_many": ("get_many", "get_in_flight", "get_many"),
    "scan": ("scan", "hydrate", "hydrate"),
    "hydration by batches": ("hydrate_batches", "hydrate", "hydrate"),
    "hydration by async for": ("hydrate_each", "hydrate", "hydrate"),
    "keys": ("keys", "keys", "keys"),
}
"""What is shown: the names of the work of slipstream, nats-py and the raw socket."""
TARGETS: dict[str, tuple[float, float | None]] = {
    "sequential put": (1.3, 0.65),
    "sequential get": (1.4, 0.65),
    f"put, {IN_FLIGHT} in flight": (1.7, None),
    f"get, {IN_FLIGHT} in flight": (2.2, None),
    "put_many": (4.0, 0.6),
    "get_many": (8.0, 0.5),
    "scan": (5.0, 0.5),
    "hydration by batches": (5.0, 0.5),
    "hydration by async for": (4.0, None),
    "keys": (5.0, None),
}
ONE_BY_ONE = frozenset({"put", "get", "put_in_flight", "get_in_flight"})


@dataclass
class Result:
    """Of one loop and number of keys.

    Attributes:
        wall, cpu: seconds for each key or operation, of every round; the CPU is the client's.
        latencies: seconds from before a put until its update has been handed out.
        calibrations: seconds for a fixed piece of Python, between the turns.
        failures: what did not come to its end, and why.
    """

    loop: str
    count: int
    wall: dict[tuple[Who, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu: dict[tuple[Who, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    latencies: dict[Who, list[float]] = field(default_factory=lambda: defaultdict(list))
    calibrations: list[float] = field(default_factory=list)
    failures: dict[tuple[Who, str], str] = field(default_factory=dict)

    def seconds(self, who: Who, what: str) -> float | None:
        return statistics.median(found) if (found := self.wall.get((who, what))) else None

    def cpu_seconds(self, who: Who, what: str) -> float | None:
        return statistics.median(found) if (found := self.cpu.get((who, what))) else None


def table(result: Result) -> list[str]:
    """One row for each kind of work; how far to trust them below."""
    lines = [
        f"### {result.count:,} keys, {result.loop}",
        "",
        "| work | slipstream /s | nats-py /s | raw /s | against nats-py | raw | targets | CPU µs | nats-py | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row, (mine, theirs, lowest) in ROWS.items():
        own, other, floor = (
            result.seconds("slipstream", mine),
            result.seconds("nats-py", theirs),
            result.seconds("raw", lowest),
        )
        own_cpu, other_cpu = result.cpu_seconds("slipstream", mine), result.cpu_seconds("nats-py", theirs)
        against, against_raw = TARGETS[row]
        cells = [
            row,
            *map(_rate, (own, other, floor)),
            _ratio(other, own),
            _ratio(floor, own),
            f"{against:g}" + (f", {against_raw:g}" if against_raw is not None else ""),
            *map(_micros, (own_cpu, other_cpu)),
            _ratio(other_cpu, own_cpu),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for who, taken in result.latencies.items():
        ordered = sorted(taken)
        p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
        lines.append(f"- Put to watch, {who}: p50 {p50 * 1e6:.0f} µs, p99 {p99 * 1e6:.0f} µs.")
    lines += [f"- {who} did not finish {what}: {why}." for (who, what), why in result.failures.items()]
    quickest = min(result.calibrations)
    lines.append(
        "- Noise: a fixed piece of Python between the turns took "
        f"{statistics.median(result.calibrations) / quickest - 1:.0%} longer than at its quickest in the median, "
        f"{max(result.calibrations) / quickest - 1:.0%} at worst."
    )
    return lines


def growth(results: list[Result]) -> list[str]:
    """Cost per key at a number of keys against the next smaller one."""
    lines = []
    for loop in dict.fromkeys(result.loop for result in results):
        sizes = sorted((result for result in results if result.loop == loop), key=lambda result: result.count)
        for smaller, larger in itertools.pairwise(sizes):
            costs = [
                f"{row} {after / before:.2f}"
                for row, (mine, _, _) in ROWS.items()
                if mine not in ONE_BY_ONE
                and (before := smaller.cpu_seconds("slipstream", mine))
                and (after := larger.cpu_seconds("slipstream", mine))
            ]
            lines.append(f"- {larger.count:,} keys against {smaller.count:,}, {loop}: {', '.join(costs)}.")
    return ["### CPU per key as the bucket grows", "", *lines] if lines else []


def picture(results: list[Result], path: Path) -> None:
    """Bars of the ratios against nats-py. Raises: ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    result = next((one for one in results if one.loop == "asyncio" and one.count == 100_000), results[-1])
    ratios = {
        row: other / own
        for row, (mine, theirs, _) in ROWS.items()
        if (own := result.seconds("slipstream", mine)) and (other := result.seconds("nats-py", theirs))
    }
    figure, axes = plt.subplots(figsize=(7, 3.6))
    bars = axes.barh(list(ratios)[::-1], list(ratios.values())[::-1], color="#3b6ea5")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.axvline(1, color="#888", linewidth=0.8)
    axes.set_title(f"Times nats-py's throughput ({result.count:,} keys, {result.loop})", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=160)


def _rate(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1 / seconds:,.0f}"


def _micros(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:.1f}"


def _ratio(one: float | None, other: float | None) -> str:
    return "-" if one is None or other is None else f"{one / other:.2f}"
