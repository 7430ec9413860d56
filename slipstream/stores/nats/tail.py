"""What lies beyond a position, as the leader has it: the question that proves an initial state complete."""

from __future__ import annotations

from slipstream.stores.nats.bucket import Bucket
from slipstream.stores.nats.pipeline import pipelined

_PARALLEL_READS = 64


async def tail_revisions(bucket: Bucket, filters: list[str], start: int) -> dict[str, int | None]:
    """For each filter the first record from `start` on, None for none. Raises: what `Bucket.read` raises."""

    async def tail(filter_subject: str) -> int | None:
        found = await bucket.read(lambda: bucket.api.next_at_leader(bucket.stream, filter_subject, start))
        return None if found is None else found.sequence

    return dict(zip(filters, await pipelined(filters, tail, window=_PARALLEL_READS), strict=True))
