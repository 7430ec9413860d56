"""Names on the wire: streams, subjects and the filters that a prefix becomes. Pure."""

from __future__ import annotations

from collections.abc import Iterable

STREAM_PREFIX = "KV_"
ALL_SCRATCH = "$KV.$guard.*"
ALL_BUCKETS = "$KV.*.>"


def stream_name(bucket: str) -> str:
    return STREAM_PREFIX + bucket


def bucket_name(stream: str) -> str | None:
    """The bucket that a stream is, None for a stream that is no bucket."""
    return stream.removeprefix(STREAM_PREFIX) if stream.startswith(STREAM_PREFIX) else None


def subject_prefix(bucket: str) -> str:
    """What stands before the key in a subject of this bucket."""
    return f"$KV.{bucket}."


def scratch_subject(bucket: str) -> str:
    """Where a bucket takes messages that are there to carry a guard and for nothing else.

    A guard needs a message to ride on, and a transaction may have more guards than writes. This subject belongs to
    the bucket's stream, but lies beside `$KV.<bucket>.>`: everything that reads keys filters by the latter, as other
    clients do, so that no read, scan, watch or list of keys meets it, and a guard on every key of the bucket does not
    count it as a change. No bucket can be called `$guard`. Beneath `$KV.` it is for the permissions that programs
    usually have. Only the number of keys in the stream's state includes it: see `JetStreamApi.stream_info`.
    """
    return f"$KV.$guard.{bucket}"


def filter_for(bucket: str, prefix: str) -> str:
    """The narrowest subject filter that holds every key with this prefix: its whole tokens.

    "node" could also begin "nodes.b", so only what stands before the last dot is whole.
    """
    whole, _, _ = prefix.rpartition(".")
    return f"{subject_prefix(bucket)}{whole}.>" if whole else f"{subject_prefix(bucket)}>"


def filters_for(bucket: str, prefixes: Iterable[str]) -> list[str]:
    """The filters of several prefixes without those that another one covers.

    The server refuses overlapping filters: 10138 "consumer subject filters cannot overlap" (PROTOCOL.md, d).
    """
    kept: list[str] = []
    for candidate in sorted({filter_for(bucket, prefix) for prefix in prefixes}, key=lambda f: (f.count("."), f)):
        if not any(candidate.startswith(shorter.removesuffix(">")) for shorter in kept):
            kept.append(candidate)
    return kept


def api_prefix(domain: str | None) -> str:
    """Where the JetStream API of this domain listens."""
    return f"$JS.{domain}.API" if domain else "$JS.API"
