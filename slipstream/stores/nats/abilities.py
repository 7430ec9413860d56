"""What one bucket can do beyond reading, writing and watching: by its server, and by how it was made. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipstream.checks import ttl_refusal
from slipstream.stores.nats.batch import Part, scratch_part
from slipstream.stores.nats.features import ServerFeatures
from slipstream.stores.nats.stream_config import from_stream
from slipstream.stores.nats.subjects import bucket_name, scratch_subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """For each ability why it is missing, with what to do about it; None where it is there.

    Attributes:
        scratch: a message for guards that find no other, None where the bucket does not take it.
    """

    ttl: str | None
    transactions: str | None
    fencing: str | None
    scratch: Part | None


def abilities(features: ServerFeatures, body: Mapping[str, Any]) -> Abilities:
    """Those of the bucket with this configuration, as the server echoed it."""
    return Abilities(
        ttl=_ttl(features, body),
        transactions=_transactions(features, body),
        fencing=None if features.guards_on_others else f"fencing needs nats-server 2.11, this is {features.text}",
        scratch=_scratch(body),
    )


def _ttl(features: ServerFeatures, body: Mapping[str, Any]) -> str | None:
    if not features.markers:
        return f"a ttl needs nats-server 2.11.2, this is {features.text}"
    refusal = ttl_refusal(from_stream(body))
    if refusal is None and not body.get("allow_msg_ttl"):
        return "this bucket was made without ttls (allow_msg_ttl): create it with slipstream"
    return refusal


def _transactions(features: ServerFeatures, body: Mapping[str, Any]) -> str | None:
    if not features.atomic_batches:
        return f"transactions need nats-server 2.12.1, this is {features.text}"
    if body.get("mirror"):
        return "a mirror takes no transactions: use the bucket that it copies"
    if not body.get("allow_atomic"):
        return "this bucket takes no atomic batches (allow_atomic): create it with slipstream, or enable them on it"
    return None


def _scratch(body: Mapping[str, Any]) -> Part | None:
    bucket = bucket_name(body["name"]) or ""
    if scratch_subject(bucket) not in (body.get("subjects") or ()):
        return None
    return scratch_part(bucket, expires=bool(body.get("allow_msg_ttl")))
