"""L3: the same stores for programs without asyncio: `with slipstream.sync.connect(url) as conn`.

The names are those of the asynchronous interfaces, without `await`; `with` stands for `async with`, `for` for
`async for`. All connections of a process share one background thread with an event loop. Objects may be used from
several threads at once. A `fork` leaves that thread behind: in the child, what was opened before raises RuntimeError,
and a new `connect` works.
"""

from slipstream.sync.connection import SyncConnection, connect
from slipstream.sync.store import SyncReader, SyncStore, SyncTransaction, SyncWatcher, SyncWriter
from slipstream.sync.watch import SyncWatch

__all__ = [
    "SyncConnection",
    "SyncReader",
    "SyncStore",
    "SyncTransaction",
    "SyncWatch",
    "SyncWatcher",
    "SyncWriter",
    "connect",
]
