"""L2: a private nats-server on this machine, started, shared and stopped on behalf of its users.

The folder is the meeting point. Who uses it holds a shared lock on `users.lock`, which the kernel releases when the
process ends, however it ends. One guardian process (`guardian.py`) runs the nats-server and waits for an exclusive
lock on the same file: getting it means that nobody is left.
"""

import os

from slipstream.errors import UnsupportedError

if os.name != "posix":  # flock, named pipes, fork
    raise UnsupportedError(message="embedded:// needs a POSIX system; run a nats-server and connect to nats://")

from slipstream.stores.embedded.connection import EmbeddedConnection
from slipstream.stores.embedded.server import EmbeddedServer

__all__ = ["EmbeddedConnection", "EmbeddedServer"]
