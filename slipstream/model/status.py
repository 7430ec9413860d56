"""How a bucket, a watch and the server are doing, and what the server can do."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from slipstream.model.config import StoreConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A field in which an existing bucket differs from the configuration that was asked for."""

    field: str
    wanted: Any
    actual: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """A bucket as the server has it.

    Attributes:
        keys: keys with a record, tombstones included.
        bytes: size of what is stored.
        first_revision: the oldest revision held; `last_revision + 1` where nothing is held any more.
        last_revision: the newest revision ever given out; 0 before the first write.
        incarnation: when this bucket was made (UTC); another one is another life of the bucket.
        replicas: how many servers hold it.
        leader: the server that takes its writes, None where unknown or not clustered.
        config: the configuration in force.
        drift: where `config` differs from what was asked for when the store was opened.
    """

    keys: int
    bytes: int
    first_revision: int
    last_revision: int
    incarnation: datetime
    replicas: int
    leader: str | None
    config: StoreConfig
    drift: list[Drift] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchStatistics:
    """How a watch is doing.

    Attributes:
        pending: updates that the server holds for this watch or that wait to be handed out, as last reported.
        delivered: updates handed out.
        resumes: how often the watch was set up anew behind the scenes.
        last_heard: seconds since the server was last heard from on this watch.
    """

    pending: int
    delivered: int
    resumes: int
    last_heard: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionCapabilities:
    """What the server at the other end really does, so that a caller can choose before trying.

    Attributes:
        streaming_watch: `watch` delivers changes as they happen.
        prefix_watch: `watch` filters by prefix on the server, several prefixes included.
        ttl: keys may expire one by one.
        purge: `purge` removes the history of a key.
        cas: `create`, `update` and `delete_with_version` are atomic.
        transactions: `transaction` and `atomically`.
        fencing: `fenced`.
        max_value_size: bytes, 0 where no limit is known.
        global_ordering: revisions are ordered across stores.
    """

    streaming_watch: bool = True
    prefix_watch: bool = True
    ttl: bool = False
    purge: bool = True
    cas: bool = True
    transactions: bool = False
    fencing: bool = False
    max_value_size: int = 0
    global_ordering: bool = False


class ConnectionState(Enum):
    """What has become of a connection; it works in CONNECTED and, as long as it lasts, in LAME_DUCK."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    RECONNECTING = "reconnecting"
    LAME_DUCK = "lame duck"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionEvent:
    """A connection has come into a state. Works with `match`: `ConnectionEvent(state, server, reason)`.

    Attributes:
        state: CONNECTED, for the first time or again; DISCONNECTED, operations wait for the next connection;
            RECONNECTING, an attempt begins; LAME_DUCK, the server announced that it goes; CLOSED, for good.
        server: which one, `nats://host:port` without secrets; None where there is none or none any more.
        reason: why it was lost, for people; empty for the other states.
        attempt: of RECONNECTING, counted from 1 at every loss; else 0.
        missed: how many events before this one were dropped, because they were not taken in time.
    """

    __match_args__ = ("state", "server", "reason")

    state: ConnectionState
    server: str | None = None
    reason: str = ""
    attempt: int = 0
    missed: int = 0
