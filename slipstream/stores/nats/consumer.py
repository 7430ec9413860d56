"""One ephemeral push consumer with an inbox of its own.

A new inbox for every consumer: a late message or heartbeat of an old one can then never be taken for the new one's.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from slipstream.errors import UnsupportedError
from slipstream.stores.nats.api import ConsumerCreated
from slipstream.stores.nats.bucket import LANE_FAILURES, Bucket, Pauses
from slipstream.stores.nats.error_map import CONSUMER_NOT_FOUND, ApiError
from slipstream.stores.nats.lane import Closed, Disconnected, NoResponders, OnFrames, Subscription
from slipstream.stores.nats.naming import consumer_metadata, consumer_name
from slipstream.stores.nats.stream_config import NANOSECONDS

_log = logging.getLogger(__name__)
_INACTIVE_SECONDS = 300
"""After so long without interest the server removes a consumer by itself."""
_CLEAN_UP_SECONDS = 0.5
"""How long closing, and a successor, wait for the server's word on the removal; it goes on in the background.

No longer: of a consumer that was on a node that died, no word ever comes.
"""


class PushConsumer:
    """Messages of the filters, pushed in stream order: from a sequence on, or beginning with the last of each key."""

    def __init__(self, bucket: Bucket, name: str, subscription: Subscription, leaving: set[asyncio.Task[None]]) -> None:
        self._bucket = bucket
        self._subscription = subscription
        self._leaving = leaving
        self._closed = False
        self.name = name
        self.start = 0
        self.pending = 0

    @classmethod
    async def open(
        cls,
        bucket: Bucket,
        on_frames: OnFrames,
        *,
        leaving: set[asyncio.Task[None]],
        purpose: str,
        filters: list[str],
        start_after: int | None,
        last_per_key: bool = True,
        headers_only: bool = False,
    ) -> PushConsumer:
        """Subscribe, then create; what fails or is cancelled half way leaves neither behind.

        Args:
            leaving: the removals of the consumers before it, which come first: a reader has one consumer at a time.
            start_after: deliver what comes after this sequence; None: from the beginning.
            last_per_key: from the beginning, deliver the last message of each key only.
        Raises: UnsupportedError, and what `JetStreamApi` raises.
        """
        if leaving:
            await asyncio.wait(leaving, timeout=_CLEAN_UP_SECONDS)
        inbox = bucket.lane.new_inbox()
        subscription = await bucket.lane.subscribe(inbox, on_frames)
        consumer = cls(bucket, consumer_name(bucket.application, purpose), subscription, leaving)
        config: dict[str, Any] = {
            "name": consumer.name,
            "metadata": consumer_metadata(bucket.application, purpose),
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "deliver_subject": inbox,
            "idle_heartbeat": int(bucket.heartbeat * NANOSECONDS),
            "flow_control": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _INACTIVE_SECONDS * NANOSECONDS,
        }
        if headers_only:
            config["headers_only"] = True
        if len(filters) == 1:
            config["filter_subject"] = filters[0]
        else:
            config["filter_subjects"] = filters
        if start_after is not None:
            config["deliver_policy"] = "by_start_sequence"
            config["opt_start_seq"] = start_after + 1
        else:
            config["deliver_policy"] = "last_per_subject" if last_per_key else "all"
        creating = asyncio.create_task(
            bucket.api.create_consumer(bucket.stream, consumer.name, config), name=f"create {consumer.name}"
        )
        creating.add_done_callback(_look_at)
        try:
            created = await asyncio.shield(creating)
            # nats-server before 2.10 drops filter_subjects silently and would deliver everything (PROTOCOL.md, d).
            if len(filters) > 1 and set(created.config.get("filter_subjects") or ()) != set(filters):
                raise UnsupportedError(store=bucket.name, message="several prefixes need nats-server 2.10")
        except BaseException:
            # Also when the answer never came: the server may have made it.
            consumer._begin_removal(creating)
            raise
        consumer.start = created.start
        consumer.pending = created.pending
        return consumer

    def is_flow_control(self, subject: str) -> bool:
        """It is where the server wants to be told to go on; in any case of letters."""
        subject = subject.lower()
        return subject.startswith("$js.fc.") and f".{self.name.lower()}." in subject

    def abandon(self) -> None:
        """Drop the inbox and have the consumer removed, without waiting."""
        if not self._closed:
            self._begin_removal()

    def forget(self) -> None:
        """As `abandon` where the connection is about to be closed: nobody would hear the answer."""
        if not self._closed:
            self._closed = True
            self._subscription.close()
            self._bucket.api.delete_consumer_unasked(self._bucket.stream, self.name)

    async def aclose(self) -> None:
        """As `abandon`, and wait a moment for the server's word."""
        if self._closed:
            return
        removal = self._begin_removal()
        if self._bucket.lane.is_connected:
            await asyncio.wait({removal}, timeout=_CLEAN_UP_SECONDS)

    def _begin_removal(self, creating: asyncio.Task[ConsumerCreated] | None = None) -> asyncio.Task[None]:
        self._closed = True
        self._subscription.close()
        removal = self._bucket.background.spawn(self._remove(creating), name=f"remove {self.name}")
        self._leaving.add(removal)
        removal.add_done_callback(self._leaving.discard)
        return removal

    async def _remove(self, creating: asyncio.Task[ConsumerCreated] | None) -> None:
        """Ask until the server has answered, over reconnects too: it may have made a consumer that nobody hears of."""
        pauses = Pauses()
        try:
            async with asyncio.timeout(_INACTIVE_SECONDS):
                if creating is not None:
                    await self._answered(creating)
                while not await self._removed():
                    await pauses.pause()
        except TimeoutError:
            self._warn("no answer")
        except Closed:
            _log.debug("consumer %s is left to the server: the connection was shut down", self.name)
        except LANE_FAILURES as error:
            self._warn(str(error) or type(error).__name__)

    async def _answered(self, creating: asyncio.Task[ConsumerCreated]) -> None:
        # The server works on several requests at once: a removal may overtake the creation, and find nothing.
        try:
            await asyncio.wait({creating}, timeout=self._bucket.op_timeout)
        finally:
            creating.cancel()

    async def _removed(self) -> bool:
        """Ask once. True: it is gone."""
        await self._bucket.lane.wait_connected()
        try:
            async with asyncio.timeout(self._bucket.op_timeout):
                await self._bucket.api.delete_consumer(self._bucket.stream, self.name)
        except (Disconnected, NoResponders, TimeoutError):
            return False
        except ApiError as error:
            if error.is_temporary:
                return False
            if error.err_code != CONSUMER_NOT_FOUND and not error.is_stream_missing:
                raise
        return True

    def _warn(self, why: str) -> None:
        _log.warning(
            "consumer %s of bucket %s could not be removed (%s); the server removes it after %d s without interest",
            self.name,
            self._bucket.name,
            why,
            _INACTIVE_SECONDS,
        )


def _look_at(task: asyncio.Task[ConsumerCreated]) -> None:
    """An exception that nobody waits for any more is not one that was forgotten."""
    if not task.cancelled():
        task.exception()
