"""Changing a bucket in place: what an update of its stream may say. Pure.

What the server lets be changed was tried on 2.10.26, 2.11.11, 2.12.8, 2.14.6 and 2.15.1 (tests/cli/test_stores.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from slipstream.checks import drift
from slipstream.model import Drift, StoreConfig
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.stream_config import VALUE_SIZE, from_stream, to_stream

_SERVERS_OWN = "_nats."
_STREAM_FIELDS: Mapping[str, tuple[str, ...]] = {
    "max_history": ("max_msgs_per_subject",),
    "max_age": ("max_age", "duplicate_window"),
    "max_bytes": ("max_bytes",),
    "max_value_size": ("max_msg_size", "metadata"),
    "num_replicas": ("num_replicas",),
    "discard": ("discard",),
    "description": ("description",),
    "compression": ("compression",),
    "marker_ttl": ("allow_msg_ttl", "subject_delete_marker_ttl"),
    "placement": ("placement",),
    "metadata": ("metadata",),
}
"""What of a stream carries each field that can be changed; `storage`, `mirror` and the name are for ever."""
_ABSENT: Mapping[str, Any] = {
    "description": "",
    "compression": "none",
    "placement": None,
    "subject_delete_marker_ttl": 0,
    "metadata": {},
}
"""What says "none" in an update where a create request leaves the field out."""


def is_changeable(difference: Drift) -> bool:
    """The server changes it in place; all else needs a bucket made anew."""
    return difference.field in _STREAM_FIELDS


def drops_data(difference: Drift) -> bool:
    """To change it may remove what the bucket holds now: a limit is set, or set lower."""
    if difference.field not in ("max_history", "max_age", "max_bytes"):
        return False
    wanted, actual = difference.wanted, difference.actual
    return wanted is not None and (_is_unlimited(actual) or wanted < actual)


def updated_stream(body: Mapping[str, Any], config: StoreConfig, features: ServerFeatures) -> dict[str, Any]:
    """The stream with every difference between it and what was asked for that can be changed; the rest as it is.

    Fields of the configuration that were left to their defaults are no wish, as with `drift`.

    Raises: UnsupportedError for a field that this server does not have.
    """
    wanted = to_stream(config, features)
    updated = dict(body)
    for field in _changed(drift(config, from_stream(body))):
        for part in _STREAM_FIELDS[field]:
            if part == "metadata":
                continue
            if part in wanted or part in _ABSENT:
                updated[part] = wanted.get(part, _ABSENT.get(part))
        if field in ("metadata", "max_value_size"):
            updated["metadata"] = _metadata(updated.get("metadata") or {}, wanted.get("metadata") or {}, field)
    return updated


def _changed(differences: Iterable[Drift]) -> list[str]:
    return [difference.field for difference in differences if is_changeable(difference)]


def _metadata(actual: Mapping[str, str], wanted: Mapping[str, str], field: str) -> dict[str, str]:
    """The caller's pairs and the one that keeps `max_value_size` change apart from each other and from the server's."""
    if field == "max_value_size":
        others = {name: value for name, value in actual.items() if name != VALUE_SIZE}
        return others | {name: value for name, value in wanted.items() if name == VALUE_SIZE}
    kept = {name: value for name, value in actual.items() if name == VALUE_SIZE or name.startswith(_SERVERS_OWN)}
    return kept | {name: value for name, value in wanted.items() if name != VALUE_SIZE}


def _is_unlimited(limit: int | timedelta | None) -> bool:
    # A bucket that another tool made may say -1 for no limit.
    return limit is None or (isinstance(limit, int) and limit < 0)
