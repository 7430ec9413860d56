"""The lane through nats-py's public API: the reference, and the fallback of every faster one."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

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

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MAX_QUEUED_SENDS = 1024
"""Sends are flow-control answers and best-effort deletes: a few a watch. Beyond this the oldest is dropped."""


class SlowLane(Lane):
    """Requests matched by a counter in the reply subject, over one wildcard inbox of its own.

    nats-py's own `request` would leave a pending request waiting for its timeout after a disconnect; here it fails at
    once. The owner of the client forwards its events to `disconnected`, `reconnected`, `closed` and `error`.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._tokens = itertools.count()
        self._pending: dict[str, tuple[str, asyncio.Future[Message], list[Frame] | None]] = {}
        self._listeners: set[Listener] = set()
        self._connected = asyncio.Event()
        self._closed = False
        self._deaf = False  # the credentials do not permit the inbox: no answer will come
        self._sends: deque[tuple[str, bytes]] = deque(maxlen=_MAX_QUEUED_SENDS)
        self._sends_waiting = asyncio.Event()
        self._retired: deque[NatsSubscription] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._replies: NatsSubscription | None = None

    async def open(self) -> None:
        """Subscribe the inbox and start the sender. The client is connected."""
        self._replies = await self._client.subscribe(
            f"{self._inbox}.*", cb=self._on_reply, pending_msgs_limit=0, pending_bytes_limit=0
        )
        self._sender = asyncio.create_task(self._send_queued(), name="slipstream-sender")
        self._connected.set()

    @property
    def is_connected(self) -> bool:
        # nats-py says connected before it has replayed the subscriptions; the event comes after.
        return not self._closed and self._connected.is_set() and self._client.is_connected

    @property
    def max_payload(self) -> int:
        return self._client.max_payload

    async def wait_connected(self) -> None:
        await self._connected.wait()
        if self._closed:
            raise Closed

    async def request(self, subject: str, payload: bytes = b"", headers: Headers = NO_HEADERS) -> Message:
        return await self._exchange(subject, payload, headers, None)

    def post(self, subject: str, payload: bytes = b"", headers: Headers = NO_HEADERS) -> Pending:
        return _Posted(self.request(subject, payload, headers))

    async def request_many(self, subject: str, payload: bytes = b"") -> list[Frame]:
        frames: list[Frame] = []
        await self._exchange(subject, payload, NO_HEADERS, frames)
        return frames

    async def _exchange(self, subject: str, payload: bytes, headers: Headers, answers: list[Frame] | None) -> Message:
        """The answer; with a list for several, the last of them, once all are in the list."""
        self._check_open()
        if not self.is_connected:
            if self._connected.is_set():
                # nats-py knows already, but says so only after it has closed the old socket.
                self.disconnected()
            raise Disconnected(sent=False)
        if self._deaf:
            raise Denied("subscription", f"{self._inbox}.*")
        token = str(next(self._tokens))
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._pending[token] = (subject, future, answers)
        try:
            await self._publish(subject, payload, reply=f"{self._inbox}.{token}", headers=headers)
            message = await future
        finally:
            del self._pending[token]
            future.cancel()  # an error that it was given meanwhile has nobody to be told to
        if message.status == NO_RESPONDERS and not message.data:
            raise NoResponders
        return message

    def send(self, subject: str, payload: bytes = b"") -> None:
        if self.is_connected:
            self._sends.append((subject, payload))
            self._sends_waiting.set()

    async def subscribe(self, subject: str, on_frames: OnFrames) -> Subscription:
        self._check_open()

        interest = _Interest(self)

        async def forward(msg: Msg) -> None:
            if not interest.closed:
                on_frames([_frame(msg)])

        try:
            # No limits: nats-py drops what exceeds them. The server's flow control bounds what can be under way.
            interest.subscription = await _uncancelled(
                self._client.subscribe(subject, cb=forward, pending_msgs_limit=0, pending_bytes_limit=0)
            )
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError):
            raise Closed from None
        return interest

    def new_inbox(self) -> str:
        return self._client.new_inbox()

    def add_listener(self, listener: Listener) -> None:
        self._listeners.add(listener)

    def remove_listener(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    async def aclose(self) -> None:
        for listener in tuple(self._listeners):
            listener.on_closed()  # while it can still send its farewell
        try:
            if self._sender is not None:
                self._sender.cancel()
                await asyncio.wait({self._sender})
            if self._replies is not None:
                self._retired.append(self._replies)
                self._replies = None
            # Also while disconnected: nats-py would subscribe for a borrowed client again on its next connection.
            if not self._client.is_closed and not self._client.is_draining:
                await self._send_all()
        finally:
            self.closed()

    # What the owner of the client forwards.

    def disconnected(self) -> None:
        """The connection went: nothing that is pending will be answered on another one."""
        self._connected.clear()
        self._sends.clear()
        self._fail_pending(Disconnected(sent=True))
        for listener in tuple(self._listeners):
            listener.on_disconnected()

    def reconnected(self) -> None:
        """Connected again; nats-py has replayed the subscriptions."""
        if self._closed:
            return
        self._deaf = False
        self._connected.set()
        self._sends_waiting.set()
        for listener in tuple(self._listeners):
            listener.on_reconnected()

    def closed(self) -> None:
        """The client will not connect again."""
        if self._closed:
            return
        self._closed = True
        self._fail_pending(Disconnected(sent=True))
        self._connected.set()  # releases who waits; wait_connected() then says Closed
        for listener in tuple(self._listeners):
            listener.on_closed()

    def error(self, error: Exception) -> None:
        """An error that the server reported by itself, not as an answer."""
        denied = denied_subject(str(error))
        if denied is None:
            return
        action, refused = denied
        if action == "subscription" and refused.lower() == f"{self._inbox}.*".lower():
            self._deaf = True
            self._fail_pending(Denied(action, f"{self._inbox}.*"))
        for subject, future, _ in tuple(self._pending.values()):
            # nats-py hands the text on in lower case.
            if subject.lower() == refused.lower() and not future.done():
                future.set_exception(Denied(action, subject))
        if action == "publish":
            for listener in tuple(self._listeners):
                listener.on_denied(refused)

    # Inside.

    def _check_open(self) -> None:
        if self._closed or self._client.is_closed:
            raise Closed

    async def _publish(self, subject: str, payload: bytes, *, reply: str = "", headers: Headers = NO_HEADERS) -> None:
        try:
            await _uncancelled(
                self._client.publish(subject, payload, reply=reply, headers=dict(headers) if headers else None)
            )
        except nats.errors.OutboundBufferLimitError:
            raise Disconnected(sent=False) from None
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError):
            raise Closed from None
        except nats.errors.MaxPayloadError:
            raise TooLarge from None
        except OSError:
            raise Disconnected(sent=True) from None

    async def _on_reply(self, msg: Msg) -> None:
        waiting = self._pending.get(msg.subject[len(self._inbox) + 1 :])
        if waiting is None or waiting[1].done():
            return
        _, future, answers = waiting
        frame = _frame(msg)
        message = read_frame(frame)
        if answers is not None:
            answers.append(frame)
        if answers is None or message.status is not None:
            future.set_result(message)

    def _fail_pending(self, error: Exception) -> None:
        for _, future, _ in tuple(self._pending.values()):
            if not future.done():
                future.set_exception(error)

    def retire(self, subscription: NatsSubscription) -> None:
        """Unsubscribe it when the sender gets to it."""
        self._retired.append(subscription)
        self._sends_waiting.set()

    async def _send_queued(self) -> None:
        """Do in a task of its own what `send` and `close` of a subscription promise to do without blocking."""
        while True:
            await self._sends_waiting.wait()
            self._sends_waiting.clear()
            await self._send_all()

    async def _send_all(self) -> None:
        while self._sends or self._retired:
            try:
                if self._sends:
                    subject, payload = self._sends.popleft()
                    await self._publish(subject, payload)
                if self._retired:
                    await _uncancelled(self._retired.popleft().unsubscribe())
            except (Disconnected, Closed, TooLarge, nats.errors.Error) as error:
                _log.debug("a message without an answer was not sent: %s", error)
            except Exception:  # noqa: BLE001 - without the sender flow control stops, and watches with it
                _log.exception("a message without an answer was not sent")


class _Posted(Pending):
    """A request in a task of its own: nats-py cannot publish without waiting."""

    def __init__(self, request: Coroutine[Any, Any, Message]) -> None:
        self._task = asyncio.create_task(request, name="slipstream-request")

    async def answer(self) -> Message:
        await asyncio.wait({self._task})
        return self._task.result()

    def peek(self) -> bytes | None:
        done = self._task.done() and not self._task.cancelled() and self._task.exception() is None
        return self._task.result().data if done else None

    def close(self) -> None:
        if not self._task.done():
            self._task.cancel()
        elif not self._task.cancelled():
            self._task.exception()  # whoever closes it without having waited does not want to know


class _Interest(Subscription):
    def __init__(self, lane: SlowLane) -> None:
        self._lane = lane
        self.subscription: NatsSubscription | None = None
        self.closed = False

    def close(self) -> None:
        self.closed = True
        if self.subscription is not None:
            self._lane.retire(self.subscription)
            self.subscription = None


async def _uncancelled(call: Awaitable[T]) -> T:
    """Await nats-py without losing a cancellation in it: its `_flush_pending` swallows CancelledError (2.16.0).

    A swallowed one would disarm the caller's timeout, and its next await would have no bound.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    result = await call
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return result


def _frame(msg: Msg) -> Frame:
    """The message as it came, from what nats-py has made of it."""
    head = b""
    if msg.headers:
        lines = dict(msg.headers)
        status, description = lines.pop("Status", ""), lines.pop("Description", "")
        first = f"NATS/1.0 {status} {description}".rstrip()
        head = "\r\n".join([first, *(f"{name}: {value}" for name, value in lines.items()), "", ""]).encode()
    return msg.subject.encode(), msg.reply.encode(), head, msg.data
