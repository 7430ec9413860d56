"""L4, public: what tests of a program on slipstream, and of a backend for it, are made of.

    contract        the rules that every backend keeps, as test classes to subclass
    snapshots       the same for snapshot stores
    server          a real nats-server of one's own
    cluster         three of them, whose routes can be cut
    proxy           a TCP proxy that breaks the connection in chosen ways
    checkers        were the answers linearizable, did the watch deliver what was written
    pytest_plugin   fixtures for all of that; pytest loads it by itself

Names are looked up when they are asked for: nothing needs pytest, or a server, before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipstream.testing.cluster import ClusterNode, NatsCluster
    from slipstream.testing.contract import NewConnection, StoreContract
    from slipstream.testing.proxy import FaultProxy
    from slipstream.testing.server import NatsServer, ServerProcess
    from slipstream.testing.snapshots import SnapshotConformance

__all__ = [
    "ClusterNode",
    "FaultProxy",
    "NatsCluster",
    "NatsServer",
    "NewConnection",
    "ServerProcess",
    "SnapshotConformance",
    "StoreContract",
]

_HOMES = {
    "ClusterNode": "slipstream.testing.cluster",
    "FaultProxy": "slipstream.testing.proxy",
    "NatsCluster": "slipstream.testing.cluster",
    "NatsServer": "slipstream.testing.server",
    "NewConnection": "slipstream.testing.contract",
    "ServerProcess": "slipstream.testing.server",
    "SnapshotConformance": "slipstream.testing.snapshots",
    "StoreContract": "slipstream.testing.contract",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
