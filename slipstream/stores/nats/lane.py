"""What the backend needs of a connection to the server.

Two lanes do it: `data_lane` close to the wire, `slow_lane` through nats-py's public API.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

from slipstream.stores.nats.decode import NO_HEADERS, Headers, parse_head, status_of

NO_RESPONDERS = 503
_NOTHING: tuple[Headers, str] = (NO_HEADERS, "")


class Message:
    """A message from the server. Its headers are read when they are asked for: few readers do.

    Attributes:
        head: the header block as it came, empty where there is none or where the lane has read it already.
        status: the number of a status message (100, 404, 503, ...), None for one that carries data.
    """

    __slots__ = ("_read", "data", "head", "reply", "status", "subject")

    def __init__(
        self,
        subject: str,
        reply: str = "",
        data: bytes = b"",
        headers: Headers = NO_HEADERS,
        status: int | None = None,
        description: str = "",
    ) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self.head = b""
        self.status = status
        self._read: tuple[Headers, str] | None = (headers, description)

    @property
    def headers(self) -> Headers:
        return self._contents()[0]

    @property
    def description(self) -> str:
        """The text of a status message."""
        return self._contents()[1]

    def _contents(self) -> tuple[Headers, str]:
        if self._read is None:
            self._read = parse_head(self.head)
        return self._read

    def __repr__(self) -> str:
        return f"Message({self.subject!r}, {self.reply!r}, {len(self.data)} bytes, {dict(self.headers)}, {self.status})"


class WireMessage(Message):
    """A message made of what stood on the wire."""

    __slots__ = ()

    def __init__(self, subject: str, reply: str, data: bytes, head: bytes, status: int | None) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self.head = head
        self.status = status
        self._read = None if head else _NOTHING


Frame = tuple[bytes, bytes, bytes, bytes]
"""A message as it came: subject, reply subject, header block and payload. Plain, for there may be a million of them."""
OnFrames = Callable[[list[Frame]], None]


def read_frame(frame: Frame) -> Message:
    subject, reply, head, data = frame
    # "NATS/1.0 503": what begins a status line, where "NATS/1.0\r\n" begins headers.
    status = status_of(head) if head[8:9] == b" " else None
    # Whoever publishes past the client may use any bytes: that must not end the connection of those who listen.
    return WireMessage(subject.decode("utf-8", "replace"), reply.decode("utf-8", "replace"), data, head, status)


class LaneError(Exception):
    """The lane could not do it. Stays inside the backend."""


class Disconnected(LaneError):
    """The connection is down or went down. `sent`: the request may have reached the server."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("disconnected")
        self.sent = sent


class Closed(LaneError):
    """The connection is closed for good and nothing was sent."""


class NoResponders(LaneError):
    """Nobody listens on the subject: no such bucket, no JetStream, or an election is running. Nothing was stored."""


class Denied(LaneError):
    """The credentials do not permit the subject."""

    def __init__(self, action: str, subject: str) -> None:
        super().__init__(f"{action} on {subject}")
        self.action = action
        self.subject = subject


class TooLarge(LaneError):
    """The message exceeds the server's max_payload; nothing was sent."""


class Pending(Protocol):
    """A request under way."""

    @abstractmethod
    async def answer(self) -> Message:
        """Wait for the answer. Raises as `Lane.request`. One at a time may wait."""

    @abstractmethod
    def peek(self) -> bytes | None:
        """The payload of the answer if it is there, None if it is not, or is no answer but an error."""

    @abstractmethod
    def close(self) -> None:
        """No answer is wanted any more; safe to repeat."""


class Subscription(Protocol):
    """Interest in a subject."""

    @abstractmethod
    def close(self) -> None:
        """End it; messages that arrive later are dropped. Never blocks."""


class Listener(Protocol):
    """Somebody who must know when the connection goes and comes. Called on the loop; must not block."""

    @abstractmethod
    def on_disconnected(self) -> None: ...

    @abstractmethod
    def on_reconnected(self) -> None: ...

    @abstractmethod
    def on_closed(self) -> None:
        """The last call; what is sent in it still leaves if the connection is alive. May come twice."""

    def on_denied(self, subject: str) -> None:
        """The credentials do not permit something that was sent there; perhaps in lower case. Few need to know."""
        return


class Lane(Protocol):
    """Requests, subscriptions and sends over one connection, which reconnects by itself."""

    @property
    @abstractmethod
    def is_connected(self) -> bool: ...

    @property
    @abstractmethod
    def max_payload(self) -> int:
        """The largest message, headers included, in bytes."""

    @abstractmethod
    async def wait_connected(self) -> None:
        """Return once connected. Raises: Closed."""

    @abstractmethod
    async def request(self, subject: str, payload: bytes = b"", headers: Headers = NO_HEADERS) -> Message:
        """Send and wait for the answer, for as long as the caller lets it.

        Raises: Disconnected, at once when the connection goes; Closed; NoResponders; Denied; TooLarge.
        """

    @abstractmethod
    def post(self, subject: str, payload: bytes = b"", headers: Headers = NO_HEADERS) -> Pending:
        """Send now and wait later, so that many can be under way without a task for each. Raises as `request`."""

    @abstractmethod
    async def request_many(self, subject: str, payload: bytes = b"") -> list[Frame]:
        """Send and wait for all the answers: the last of them is the one that has a status. Raises as `request`."""

    @abstractmethod
    def send(self, subject: str, payload: bytes = b"") -> None:
        """Send without waiting and without being told; dropped while disconnected."""

    @abstractmethod
    async def subscribe(self, subject: str, on_frames: OnFrames) -> Subscription:
        """Have `on_frames` called with what arrives, in order, several where they arrive together.

        What is requested afterwards is handled after it.

        Raises: Closed.
        """

    @abstractmethod
    def new_inbox(self) -> str:
        """A subject that nobody else uses."""

    @abstractmethod
    def add_listener(self, listener: Listener) -> None: ...

    @abstractmethod
    def remove_listener(self, listener: Listener) -> None: ...

    @abstractmethod
    async def aclose(self) -> None:
        """End the lane: pending requests fail with Closed, listeners are told."""
