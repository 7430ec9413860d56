"""L4, public: what tests of a program on slipstream, and of a backend for it, are made of.

    contract    the rules that every backend keeps, as test classes to subclass
    server      a real nats-server of one's own
    snapshots   the same for snapshot stores
    proxy       a TCP proxy that breaks the connection in chosen ways

Names are looked up when they are asked for: nothing needs pytest, or a server, before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipstream.testing.contract import NewConnection, StoreContract
    from slipstream.testing.proxy import FaultProxy
    from slipstream.testing.server import NatsServer, ServerProcess
    from slipstream.testing.snapshots import SnapshotConformance

__all__ = ["FaultProxy", "NatsServer", "NewConnection", "ServerProcess", "SnapshotConformance", "StoreContract"]

_HOMES = {
    "FaultProxy": "slipstream.testing.proxy",
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
