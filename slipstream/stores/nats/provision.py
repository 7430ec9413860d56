"""Opening a bucket: look it up, else create it, and look it up again before it is handed out."""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import Any

from nats.aio.client import Client
from nats.js.api import StreamConfig

from slipstream.errors import KvError, OperationFailedError, StoreNotFoundError, UnsupportedError
from slipstream.model import StoreConfig
from slipstream.stores.nats.api import JetStreamApi, StreamInfo
from slipstream.stores.nats.error_map import (
    MAX_BYTES_REQUIRED,
    ApiError,
    CreateOutcome,
    CreateReply,
    classify_create_reply,
    to_kv_error,
)
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.lane import Lane, Listener
from slipstream.stores.nats.stream_config import to_stream, with_byte_limit
from slipstream.stores.nats.subjects import api_prefix, stream_name

_log = logging.getLogger(__name__)


async def find_bucket(api: JetStreamApi, name: str) -> StreamInfo | None:
    """The bucket as it is, None if there is none."""
    try:
        return await api.stream_info(stream_name(name))
    except ApiError as error:
        if error.is_stream_missing:
            return None
        raise


async def open_bucket(
    api: JetStreamApi,
    client: Client,
    config: StoreConfig,
    features: ServerFeatures,
    *,
    domain: str | None,
    create_timeout: float,
) -> StreamInfo:
    """The bucket, made if there was none. The caller bounds the whole.

    nats-py creates it; on any failure of that the same request is made raw and its answer classified.
    """
    found = await find_bucket(api, config.name)
    if found is not None:
        return found
    body = to_stream(config, features)
    error = await _create_through_client(api.lane, client, body, domain=domain, timeout=create_timeout)
    if error is not None:
        # Said before the raw attempt, which may succeed and hide it.
        _log.warning("bucket %s could not be created through nats-py, trying the raw API: %s", config.name, error)
        reply = await _create_raw(api, body)
        if reply.error is not None and reply.error.err_code == MAX_BYTES_REQUIRED and config.max_bytes is None:
            limited = with_byte_limit(body)
            _log.warning(
                "this account wants a size limit on every bucket: %s is created with %d bytes; set max_bytes to choose",
                config.name,
                limited["max_bytes"],
            )
            reply = await _create_raw(api, limited)
        if reply.error is not None and reply.error.is_temporary:
            raise reply.error  # the caller tries again
        if reply.outcome in (CreateOutcome.FAILED, CreateOutcome.LIMIT_REACHED):
            raise _refusal(config.name, reply)
    found = await find_bucket(api, config.name)
    if found is None:
        raise StoreNotFoundError(store=config.name, message="the bucket was created, but is not there: try again")
    return found


async def _create_through_client(
    lane: Lane, client: Client, body: dict[str, Any], *, domain: str | None, timeout: float
) -> BaseException | None:
    """What went wrong, None if nothing did."""
    try:
        context = client.jetstream(prefix=api_prefix(domain), timeout=timeout)
        # A copy: nats-py writes into what it reads.
        call = asyncio.create_task(context.add_stream(StreamConfig.from_response(copy.deepcopy(body))))
    except Exception as error:  # noqa: BLE001 - whatever nats-py fails at, the raw request is tried
        return error
    watcher = _ConnectionWatcher(call)
    lane.add_listener(watcher)
    try:
        await asyncio.wait({call}, timeout=timeout)
    finally:
        lane.remove_listener(watcher)
        call.cancel()
        await asyncio.wait({call})
    return TimeoutError("no answer") if call.cancelled() else call.exception()


class _ConnectionWatcher(Listener):
    """Ends a call of nats-py when the connection goes: nats-py would wait for an answer that cannot come."""

    def __init__(self, call: asyncio.Task[Any]) -> None:
        self._call = call

    def on_disconnected(self) -> None:
        self._call.cancel()

    def on_reconnected(self) -> None:
        pass

    def on_closed(self) -> None:
        self._call.cancel()


async def _create_raw(api: JetStreamApi, body: dict[str, Any]) -> CreateReply:
    return classify_create_reply(await api.create_stream_raw(body))


def _refusal(name: str, reply: CreateReply) -> KvError:
    assert reply.error is not None
    if reply.outcome is CreateOutcome.LIMIT_REACHED:
        return OperationFailedError(
            store=name,
            code=reply.error.code,
            err_code=reply.error.err_code,
            message="the account has no room for another bucket: delete one, or have its limit of streams raised",
        )
    if reply.error.err_code == 10074:
        return UnsupportedError(store=name, message="num_replicas above 1 needs a cluster")
    return to_kv_error(reply.error, store=name)
