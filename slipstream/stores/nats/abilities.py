"""What one bucket can do beyond reading, writing and watching: by its server, and by how it was made. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipstream.checks import ttl_refusal
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.stream_config import from_stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """For each ability why it is missing, with what to do about it; None where it is there."""

    ttl: str | None


def abilities(features: ServerFeatures, body: Mapping[str, Any]) -> Abilities:
    """Those of the bucket with this configuration, as the server echoed it."""
    return Abilities(ttl=_ttl(features, body))


def _ttl(features: ServerFeatures, body: Mapping[str, Any]) -> str | None:
    if not features.markers:
        return f"a ttl needs nats-server 2.11.2, this is {features.version_text}"
    refusal = ttl_refusal(from_stream(body))
    if refusal is None and not body.get("allow_msg_ttl"):
        return "this bucket was made without ttls (allow_msg_ttl): create it with slipstream"
    return refusal
