"""Ports on loopback that nobody else is given while a test holds them."""

from __future__ import annotations

import socket


def bind(port: int = 0) -> socket.socket:
    """A socket bound to this port of 127.0.0.1, or to a free one, that does not listen: connections are refused.

    On Linux another socket with SO_REUSEADDR, as every server has it, may still listen there. So it keeps the port for
    a server that is down or not started yet: a free port taken note of and closed again is any client's next one.
    """
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def port_of(sock: socket.socket) -> int:
    """The port that it is bound to."""
    port: int = sock.getsockname()[1]
    return port
