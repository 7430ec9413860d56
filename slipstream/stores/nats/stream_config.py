"""StoreConfig to the configuration of a stream and back, and what may go missing from it. Pure.

Fields and limits: PROTOCOL.md section a. Servers from 2.12 refuse a field that they do not know, older ones drop it
silently; so only what `ServerFeatures` vouches for is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from slipstream.errors import UnsupportedError
from slipstream.model import Placement, StoreConfig
from slipstream.resume import Retention
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.subjects import bucket_name, scratch_subject, stream_name, subject_prefix

NANOSECONDS = 1_000_000_000
HEADER_ROOM = 64 * 1024
"""The stream's message limit counts headers; `max_value_size` counts the value alone."""
VALUE_SIZE = "slipstream.max_value_size"
_NOT_THE_CALLERS = ("_nats.", VALUE_SIZE)
_DUPLICATE_WINDOW = timedelta(minutes=2)
_FALLBACK_BYTES = 10 * 1024 * 1024


def to_stream(config: StoreConfig, features: ServerFeatures) -> dict[str, Any]:
    """The body of a stream create request.

    Raises: UnsupportedError for a field that was asked for and that this server does not have.
    """
    _refuse_unknown(config, features)
    window = min(config.max_age, _DUPLICATE_WINDOW) if config.max_age else _DUPLICATE_WINDOW
    body: dict[str, Any] = {
        "name": stream_name(config.name),
        "retention": "limits",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": config.max_bytes or -1,
        "max_age": _ns(config.max_age) if config.max_age else 0,
        "max_msgs_per_subject": config.max_history,
        "max_msg_size": config.max_value_size + HEADER_ROOM if config.max_value_size else -1,
        "storage": "file" if config.storage == "persistent" else "memory",
        "discard": config.discard,
        "num_replicas": config.num_replicas,
        "duplicate_window": _ns(window),
        "deny_delete": True,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
    }
    if config.description is not None:
        body["description"] = config.description
    if config.placement is not None:
        placement = {"cluster": config.placement.cluster, "tags": list(config.placement.tags)}
        body["placement"] = {name: value for name, value in placement.items() if value}
    if config.compression:
        body["compression"] = "s2"
    metadata = dict(config.metadata)
    if config.max_value_size:
        metadata[VALUE_SIZE] = str(config.max_value_size)
    if metadata and features.metadata:
        body["metadata"] = metadata
    if config.mirror is not None:
        # A mirror has no subjects of its own, and the server forbids limit markers on it.
        body["mirror"] = {"name": stream_name(config.mirror)}
        body["mirror_direct"] = True
        return body
    body["subjects"] = [f"{subject_prefix(config.name)}>"]
    if features.markers and config.marker_ttl is not None:
        body["allow_msg_ttl"] = True
        body["subject_delete_marker_ttl"] = _ns(config.marker_ttl)
    if features.atomic_batches:
        body["subjects"].append(scratch_subject(config.name))
        body["allow_atomic"] = True
    return body


def with_byte_limit(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same bucket with 10 MiB, for accounts that demand a limit (10113)."""
    return {**body, "max_bytes": _FALLBACK_BYTES}


def _refuse_unknown(config: StoreConfig, features: ServerFeatures) -> None:
    wanted = config.model_fields_set
    missing = []
    if not features.metadata and (config.compression or config.metadata):
        missing.append("compression and metadata need nats-server 2.10")
    if "marker_ttl" in wanted and config.marker_ttl is not None and not features.markers:
        missing.append("marker_ttl needs nats-server 2.11.2")
    if config.mirror is not None and "marker_ttl" in wanted and config.marker_ttl is not None:
        missing.append("a mirror cannot have marker_ttl: set it on the bucket that it copies")
    if missing:
        raise UnsupportedError(store=config.name, message="; ".join(missing))


def from_stream(body: Mapping[str, Any]) -> StoreConfig:
    """The configuration of a bucket as the server has it, also one that somebody else made with values we refuse."""
    metadata = dict(body.get("metadata") or {})
    size = metadata.get(VALUE_SIZE, "")
    limit = body.get("max_msg_size", -1)
    placement = body.get("placement")
    mirror = body.get("mirror")
    return StoreConfig.model_construct(
        name=bucket_name(body["name"]) or body["name"],
        storage="memory" if body.get("storage") == "memory" else "persistent",
        max_history=body.get("max_msgs_per_subject", -1),
        max_age=_age(body.get("max_age", 0)),
        max_bytes=_limit(body.get("max_bytes", -1)),
        max_value_size=int(size) if size.isascii() and size.isdigit() else _limit(limit),
        num_replicas=body.get("num_replicas", 1),
        discard="new" if body.get("discard") == "new" else "old",
        description=body.get("description") or None,
        compression=body.get("compression", "none") not in ("none", ""),
        marker_ttl=_age(body.get("subject_delete_marker_ttl", 0)),
        placement=Placement(cluster=placement.get("cluster"), tags=tuple(placement.get("tags") or ()))
        if placement
        else None,
        mirror=(bucket_name(mirror["name"]) or mirror["name"]) if mirror else None,
        metadata={name: value for name, value in metadata.items() if not name.startswith(_NOT_THE_CALLERS)},
    )


def retention(body: Mapping[str, Any]) -> Retention:
    """What may remove records from this bucket without a trace."""
    markers = body.get("subject_delete_marker_ttl", 0)
    limited = body.get("max_bytes", -1) > 0 or body.get("max_msgs", -1) > 0
    return Retention(
        evicts=(body.get("discard") != "new" and limited) or (body.get("max_age", 0) > 0 and not markers),
        marker_seconds=markers / NANOSECONDS if markers else None,
    )


def _said(value: Any) -> Any:
    """A value as the server keeps it: an empty text or placement is the same as none."""
    if isinstance(value, Placement):
        return (value.cluster or None, value.tags) if value.cluster or value.tags else None
    return value or None


def _ns(span: timedelta) -> int:
    return span // timedelta(microseconds=1) * 1000


def _age(nanoseconds: int) -> timedelta | None:
    # Rounded: nats-py sends a float of seconds, cut to nanoseconds, which may come out one too small.
    return timedelta(microseconds=(nanoseconds + 500) // 1000) if nanoseconds > 0 else None


def _limit(number: int) -> int | None:
    return number if number > 0 else None
