"""The NATS client protocol as bytes: a reader of what the server sends, and the commands that the data lane sends.

Pure: bytes in, calls and bytes out. Bytes may be cut anywhere. The messages of chosen subscriptions go to plain
functions; every other operation is handed back whole and untouched, for whoever speaks the rest of the protocol.
"""

from __future__ import annotations

from typing import Final

from slipstream.stores.nats.decode import Headers
from slipstream.stores.nats.lane import Frame, OnFrames

SID_MARK: Final = b"s"
"""What our subscription ids begin with. nats-py's are plain numbers, so that the two are never confused."""
MAX_LINE: Final = 1024 * 1024
"""Of a control line, in bytes. The server keeps to 4096, but for INFO, which names every server of a cluster."""
MAX_MESSAGE: Final = 64 * 1024 * 1024 + MAX_LINE
"""Of headers and payload, in bytes: nats-server refuses to be configured for more than 64 MiB."""

_END: Final = b"\r\n"
_OPERATIONS: Final = (b"PING", b"PONG", b"INFO", b"+OK", b"-ERR")


class WireError(Exception):
    """What arrived is no NATS protocol: nothing after it can be understood."""


class WireReader:
    """Reads one connection; the next one has a reader of its own, so that no half message outlives its connection.

    Args:
        routes: for each of our subscription ids what takes its messages; looked up for every message.
    """

    def __init__(self, routes: dict[bytes, OnFrames]) -> None:
        self._routes = routes
        self._held: list[bytes] = []
        self._held_size = 0
        self._needed = 0

    def feed(self, received: bytes) -> list[bytes]:
        """Take in what arrived; the operations in it that are not ours, whole. Raises: WireError."""
        if self._held_size:
            self._held.append(received)
            self._held_size += len(received)
            if self._held_size < self._needed:
                return []  # joined once, when there is enough: a large message comes in many pieces
            received = b"".join(self._held)
            self._held.clear()
            self._held_size = 0
        others: list[bytes] = []
        # What follows each other for one subscription is handed over at once.
        together: list[Frame] = []
        current: OnFrames | None = None
        routes = self._routes
        position, end = 0, len(received)
        while position < end:
            line_end = received.find(_END, position)
            if line_end < 0:
                if end - position > MAX_LINE:
                    raise WireError("a line without an end")
                self._hold(received, position, end - position + 1)
                break
            fields = received[position:line_end].split()
            operation = fields[0] if fields else b""
            if operation == b"HMSG" or operation == b"MSG":
                start = body = line_end + 2
                reply = b""
                try:
                    if operation == b"MSG":
                        if len(fields) == 5:
                            _, subject, sid, reply, size_text = fields
                        else:
                            _, subject, sid, size_text = fields
                    else:
                        if len(fields) == 6:
                            _, subject, sid, reply, head_text, size_text = fields
                        else:
                            _, subject, sid, head_text, size_text = fields
                        body += int(head_text)
                    size = int(size_text)
                except ValueError:
                    raise WireError(f"a {operation.decode()} that cannot be read: {len(fields)} fields") from None
                stop = start + size
                if not start <= body <= stop or size > MAX_MESSAGE:
                    raise WireError(f"a message of {size} bytes, {body - start} of them headers")
                if stop + 2 > end:
                    self._hold(received, position, stop + 2 - position)
                    break
                if received[stop : stop + 2] != _END:
                    raise WireError("a message longer than it said")
                route = routes.get(sid)
                if route is None:
                    # A late one of a subscription that is closed is nobody's any more.
                    if not sid.startswith(SID_MARK):
                        others.append(received[position : stop + 2])
                else:
                    if route is not current:
                        if current is not None:
                            current(together)
                            together = []
                        current = route
                    together.append((subject, reply, received[start:body], received[body:stop]))
                position = stop + 2
            elif operation.upper() in _OPERATIONS:
                others.append(received[position : line_end + 2])
                position = line_end + 2
            else:
                raise WireError(f"an unknown operation of {line_end - position} bytes")
        if current is not None:
            current(together)
        return others

    def _hold(self, received: bytes, position: int, needed: int) -> None:
        rest = received[position:]
        self._held.append(rest)
        self._held_size = len(rest)
        self._needed = needed


def publish_command(subject: str, reply: str, payload: bytes, headers: Headers) -> bytes:
    """PUB, or HPUB where there are headers."""
    if not headers:
        return b"".join((f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload, _END))
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    first = f"HPUB {subject} {reply} {len(head)} {len(head) + len(payload)}\r\n".encode()
    return b"".join((first, head, payload, _END))


def too_large(command: bytes, max_payload: int) -> bool:
    """Headers and payload of a publish command are more than the server takes: it would close the connection."""
    return int(command[: command.find(_END)].rpartition(b" ")[2]) > max_payload


def subscribe_command(subject: str, sid: bytes) -> bytes:
    return b"SUB %b %b\r\n" % (subject.encode(), sid)


def unsubscribe_command(sid: bytes) -> bytes:
    return b"UNSUB %b\r\n" % sid


def error_text(operation: bytes) -> str | None:
    """The text of an `-ERR`, None for another operation."""
    if operation[:4].upper() != b"-ERR":
        return None
    return operation[4:].decode("utf-8", "replace").strip().strip("'")
