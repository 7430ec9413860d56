"""L4: OpenTelemetry for stores, connections, replicas and leases. Needs the extra `otel`, and only when it is imported.

    instrument, instrument_connection    the same interface again, with a span and a measurement of each operation
    observe_connection, observe_replica, observe_term    what becomes of an object, for as long as a block lasts

What is pure: `names` (what is called how, and how an operation ended). What does the work: `instruments` (what is made
once for a meter provider), `sampling` (objects that are asked when metrics are collected), `operations` (one span and
one measurement), and a wrapper for each role: `reader`, `writer`, `transaction`, `watcher`, `store`, `connection`.
docs/observability.md lists every span, metric and attribute.
"""

try:
    import opentelemetry.metrics
    import opentelemetry.trace  # noqa: F401 - both are what the extra brings
except ImportError as missing:
    raise ImportError("slipstream.otel needs opentelemetry-api: pip install 'slipstream-kv[otel]'") from missing

from slipstream.otel.connection import instrument_connection
from slipstream.otel.events import observe_connection
from slipstream.otel.replica import observe_replica
from slipstream.otel.sampling import Observation
from slipstream.otel.store import instrument
from slipstream.otel.term import observe_term

__all__ = [
    "Observation",
    "instrument",
    "instrument_connection",
    "observe_connection",
    "observe_replica",
    "observe_term",
]
