"""Who watches a store, and how far behind: its consumers that slipstream made, by the metadata that `naming` gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipstream.stores.nats.api import JetStreamApi
from slipstream.stores.nats.subjects import stream_name

LIMIT = 1000
"""Consumers that are read: some pages of the server's answer."""
_OURS = "slipstream."


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """A consumer of a bucket.

    Attributes:
        purpose: what slipstream made it for, as `watch`.
        pending: updates that the server has for it and has not sent.
        delivered: the last revision that was sent.
    """

    application: str
    host: str
    pid: str
    purpose: str
    pending: int
    delivered: int


def watcher_of(info: Mapping[str, Any]) -> Watcher | None:
    """The watcher in the server's description of a consumer, None for one that is not slipstream's."""
    metadata = (info.get("config") or {}).get("metadata") or {}
    if f"{_OURS}application" not in metadata:
        return None
    said = {name: str(metadata.get(f"{_OURS}{name}", "?")) for name in ("application", "host", "pid", "purpose")}
    return Watcher(
        **said,
        pending=int(info.get("num_pending") or 0),
        delivered=int((info.get("delivered") or {}).get("stream_seq") or 0),
    )


async def read_watchers(api: JetStreamApi, store: str) -> list[Watcher]:
    """Those of a store, the one that is behind most first; of the first thousand consumers."""
    found: list[Mapping[str, Any]] = []
    while len(found) < LIMIT:
        answer = await api.call(f"CONSUMER.LIST.{stream_name(store)}", {"offset": len(found)})
        page = answer.get("consumers") or []
        found.extend(page)
        if not page or len(found) >= answer.get("total", 0):
            break
    watchers = [watcher for info in found if (watcher := watcher_of(info)) is not None]
    return sorted(watchers, key=lambda one: (-one.pending, one.application, one.host, one.pid))
