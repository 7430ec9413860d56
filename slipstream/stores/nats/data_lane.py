"""The lane close to the wire: messages reach plain functions in the very turn of the loop that receives them."""

from __future__ import annotations

import asyncio
import itertools
import logging

from slipstream.stores.nats.client import LaneClient
from slipstream.stores.nats.decode import NO_HEADERS, Headers
from slipstream.stores.nats.error_map import denied_subject
from slipstream.stores.nats.lane import (
    NO_RESPONDERS,
    Closed,
    Denied,
    Disconnected,
    Frame,
    Lane,
    Listener,
    Message,
    NoResponders,
    OnFrames,
    Pending,
    Subscription,
    TooLarge,
    read_frame,
)
from slipstream.stores.nats.wire import SID_MARK, publish_command, subscribe_command, too_large, unsubscribe_command

_log = logging.getLogger(__name__)
_LINE_BYTES = 4096


class DataLane(Lane):
    """Requests matched by a counter in the reply subject, subscriptions by ids of our own.

    Life and liveness of the connection stay nats-py's. The owner of the client forwards its events to `disconnected`,
    `reconnected` and `closed`.
    """

    def __init__(self, client: LaneClient) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._tokens = itertools.count()
        self._sids = itertools.count(1)
        self._pending: dict[bytes, _Request] = {}
        self._interests: dict[bytes, str] = {}
        self._listeners: set[Listener] = set()
        self._connected = asyncio.Event()
        self._closed = False
        self._deaf = False  # the credentials do not permit the inbox: no answer will come

    async def open(self) -> None:
        """Subscribe the inbox. The client is connected."""
        self._client.on_error_text = self._refused
        self._subscribe(f"{self._inbox}.*", self._answered)
        if self._client.is_connected:
            self._connected.set()

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set() and not self._closed and self._client.is_connected

    @property
    def max_payload(self) -> int:
        return self._client.max_payload

    async def wait_connected(self) -> None:
        await self._connected.wait()
        if self._closed:
            raise Closed

    async def request(self, subject: str, payload: bytes = b"", headers: Headers = NO_HEADERS) -> Message:
        request = self.post(subject, payload, headers)
        try:
            return await request.answer()
        finally:
            request.close()

    def post(self, subject: str, payload: bytes = b"", headers: Headers = NO_HEADERS) -> _Request:
        return self._post(_Request(self, subject, many=False), payload, headers)

    async def request_many(self, subject: str, payload: bytes = b"") -> list[Frame]:
        request = self._post(_Request(self, subject, many=True), payload, NO_HEADERS)
        try:
            await request.answer()
            return request.frames
        finally:
            request.close()

    def send(self, subject: str, payload: bytes = b"") -> None:
        if self.is_connected:
            self._client.send(publish_command(subject, "", payload, NO_HEADERS))

    async def subscribe(self, subject: str, on_frames: OnFrames) -> Subscription:
        self._check_open()
        return _Interest(self, self._subscribe(subject, on_frames))

    def new_inbox(self) -> str:
        return self._client.new_inbox()

    def add_listener(self, listener: Listener) -> None:
        self._listeners.add(listener)

    def remove_listener(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    async def aclose(self) -> None:
        if self._closed:
            return
        for listener in tuple(self._listeners):
            listener.on_closed()  # while it can still send its farewell
        self.closed()

    # What the owner of the client forwards.

    def disconnected(self) -> None:
        """The connection went: nothing that is pending will be answered on another one."""
        if self._closed or not self._connected.is_set():
            return
        self._connected.clear()
        self._deaf = False
        self._fail(Disconnected(sent=True))
        for listener in tuple(self._listeners):
            listener.on_disconnected()

    def reconnected(self) -> None:
        """Connected again, with no subscription of ours yet."""
        if self._closed:
            return
        for sid, subject in self._interests.items():
            self._client.send(subscribe_command(subject, sid))
        self._connected.set()
        for listener in tuple(self._listeners):
            listener.on_reconnected()

    def closed(self) -> None:
        """The client will not connect again."""
        if self._closed:
            return
        self._closed = True
        self._fail(Disconnected(sent=True))
        self._connected.set()  # releases who waits; wait_connected() then says Closed
        for listener in tuple(self._listeners):
            listener.on_closed()

    def error(self, error: Exception) -> None:
        """An error that the server reported by itself: the lane has read it already."""

    # Inside.

    def _check_open(self) -> None:
        if self._closed or self._client.is_closed:
            raise Closed

    def _post(self, request: _Request, payload: bytes, headers: Headers) -> _Request:
        if self._closed:
            raise Closed
        # The socket's end clears it, before nats-py knows.
        if not self._connected.is_set():
            raise Disconnected(sent=False)
        if self._deaf:
            raise Denied("subscription", f"{self._inbox}.*")
        reply = f"{self._inbox}.{next(self._tokens)}"
        request.reply = reply.encode()
        command = publish_command(request.subject, reply, payload, headers)
        # Counted with its first line, which is shorter than that: looked at closely only where it could matter.
        if len(command) > self._client.max_payload - _LINE_BYTES and too_large(command, self._client.max_payload):
            raise TooLarge
        self._pending[request.reply] = request
        self._client.send(command)
        return request

    def _answered(self, frames: list[Frame]) -> None:
        pending = self._pending
        for frame in frames:
            request = pending.get(frame[0])
            if request is not None:
                request.take(frame)

    def forget(self, request: _Request) -> None:
        self._pending.pop(request.reply, None)

    def _fail(self, error: Exception) -> None:
        requests, self._pending = self._pending, {}
        for request in requests.values():
            request.fail(error)

    def _subscribe(self, subject: str, on_frames: OnFrames) -> bytes:
        def deliver(frames: list[Frame]) -> None:
            try:
                on_frames(frames)
            except Exception:  # noqa: BLE001 - a bug of one reader: the others on this connection go on
                _log.exception("a reader of %s failed", subject)

        sid = SID_MARK + b"%d" % next(self._sids)
        self._interests[sid] = subject
        self._client.routes[sid] = deliver
        if self._client.is_connected:
            self._client.send(subscribe_command(subject, sid))
        return sid

    def unsubscribe(self, sid: bytes) -> None:
        if self._interests.pop(sid, None) is not None:
            del self._client.routes[sid]
            if self._client.is_connected:
                self._client.send(unsubscribe_command(sid))

    def _refused(self, text: str) -> None:
        denied = denied_subject(text)
        if denied is None:
            return
        action, refused = denied
        if action == "subscription":
            if refused == f"{self._inbox}.*":
                self._deaf = True
                self._fail(Denied(action, refused))
            return
        for request in tuple(self._pending.values()):
            if request.subject == refused:
                request.fail(Denied(action, refused))
        for listener in tuple(self._listeners):
            listener.on_denied(refused)


class _Request(Pending):
    """A request and what came for it. A future is made only where somebody has to wait."""

    __slots__ = ("_done", "_error", "_lane", "_many", "_waiter", "frames", "reply", "subject")

    def __init__(self, lane: DataLane, subject: str, *, many: bool) -> None:
        self._lane = lane
        self._many = many
        self._done = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.subject = subject
        self.reply = b""
        self.frames: list[Frame] = []

    async def answer(self) -> Message:
        if not self._done:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        message = read_frame(self.frames[-1])
        if message.status == NO_RESPONDERS and not message.data:
            raise NoResponders
        return message

    def peek(self) -> bytes | None:
        return self.frames[-1][3] if self._done and self._error is None else None

    def close(self) -> None:
        self._lane.forget(self)

    def take(self, frame: Frame) -> None:
        self.frames.append(frame)
        if not self._many or frame[2][8:9] == b" ":  # a status: the last of them
            self._finish()

    def fail(self, error: Exception) -> None:
        if not self._done:
            self._error = error
            self._finish()

    def _finish(self) -> None:
        self._done = True
        self._lane.forget(self)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Interest(Subscription):
    def __init__(self, lane: DataLane, sid: bytes) -> None:
        self._lane = lane
        self._sid = sid

    def close(self) -> None:
        self._lane.unsubscribe(self._sid)
