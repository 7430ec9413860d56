"""Terms of office: how many there were, which were lost and why, and whether one lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import MeterProvider

from slipstream.otel.instruments import instruments
from slipstream.otel.names import LEASE, REASON, reason_label
from slipstream.otel.sampling import Observation

if TYPE_CHECKING:
    from slipstream.coordination import Lease, Term


def observe_term(held: Lease | Term, *, name: str, meter_provider: MeterProvider | None = None) -> Observation:
    """Count a term from here to the end of the block, and why it was lost, if it was.

    async with election.campaign() as term:
        with observe_term(term, name=election.name): ...

    Within `async with lease`, `async with Lock(...) as lease`, a campaign, or the function that an election runs. The
    scope is the term: each is counted once, however short it was.

    Args:
        name: what the terms are counted under, as the name of the election or of the lease.
        meter_provider: None: that of the process.
    """
    metrics = instruments(meter_provider)
    attributes = {LEASE: name}
    lost = held.lost  # of this holding: the next one has another
    metrics.lease_terms.add(1, attributes)
    metrics.lease_held.add(1, attributes)

    def end() -> None:
        metrics.lease_held.add(-1, attributes)
        if lost.is_set():
            metrics.lease_lost.add(1, {**attributes, REASON: reason_label(lost.reason)})

    return Observation(end)
