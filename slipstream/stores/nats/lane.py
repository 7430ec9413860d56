"""What the backend needs of a connection to the server. One lane goes through nats-py's public API (`slow_lane`)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol

from slipstream.stores.nats.decode import NO_HEADERS, Headers

NO_RESPONDERS = 503


class Message(NamedTuple):
    """A message from the server.

    Attributes:
        status: the number of a status message (100, 404, 503, ...), None for one that carries data.
    """

    subject: str
    reply: str = ""
    data: bytes = b""
    headers: Headers = NO_HEADERS
    status: int | None = None
    description: str = ""


OnMessage = Callable[[Message], None]


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
    def send(self, subject: str, payload: bytes = b"") -> None:
        """Send without waiting and without being told; dropped while disconnected."""

    @abstractmethod
    async def subscribe(self, subject: str, on_message: OnMessage) -> Subscription:
        """Have `on_message` called, in order, with each message. What is requested afterwards is handled after it.

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
