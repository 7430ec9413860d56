"""What a running feed knows of its bucket, and what a look at it means for the feed."""

from __future__ import annotations

import asyncio
import logging
import math
from datetime import datetime

from slipstream.resume import Seen, gap_is_benign
from slipstream.stores.nats.api import StreamInfo
from slipstream.stores.nats.bucket import LANE_FAILURES, Bucket
from slipstream.stores.nats.opening import FeedOptions, expired

_log = logging.getLogger(__name__)
_LOOKS = 4
"""So often while a mark of expiry lasts a feed finds out whether it is level with its bucket."""


class Lookout:
    """Looks at the bucket tell a feed that nothing it has not received can have gone.

    Heartbeats cannot: one that was read late, by a process that was stopped, is of long ago.
    """

    def __init__(self, bucket: Bucket, options: FeedOptions) -> None:
        self._bucket = bucket
        self._options = options
        self._looked_at = 0.0
        self.seen: Seen | None = None

    @property
    def incarnation(self) -> datetime | None:
        """Of the bucket that the feed follows."""
        return self.seen.last.incarnation if self.seen is not None else None

    def opened(self, seen: Seen) -> None:
        """A consumer was made, which took looks."""
        self.seen = seen
        self._looked_at = asyncio.get_running_loop().time()

    def received(self, revision: int | None) -> None:
        """Everything up to the revision has been."""
        if self.seen is not None:
            self.seen = self.seen.received(revision)

    @property
    def due_in(self) -> float:
        """Seconds until the next look; infinite where none is needed. One that was not reached yet is kept."""
        lasting = self._bucket.retention.marker_seconds
        if lasting is None or self._options.ends or self.seen is None or not self.seen.is_level:
            return math.inf
        return self._looked_at + lasting / _LOOKS - asyncio.get_running_loop().time()

    async def look(self, within: float) -> StreamInfo | None:
        """The bucket as it is now; None where nobody said it in time, which shows in the heartbeats if it lasts."""
        self._looked_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(within):
                return await self._bucket.api.stream_info(self._bucket.stream)
        except (TimeoutError, *LANE_FAILURES) as error:
            _log.debug("no look at %s: %r", self._bucket.name, error)
            return None

    def saw(self, info: StreamInfo, position: int | None) -> None:
        """Take in a look, everything up to the position being received.

        Raises: CursorExpiredError where it is another bucket.
        """
        if self.seen is None:
            return
        if info.view.incarnation != self.incarnation:
            raise expired(self._bucket, self._options, "recreated", info.view, position, self.seen)
        self.seen = self.seen.looked(info.view, info.at).received(position)
        self._looked_at = asyncio.get_running_loop().time()

    def judge_gap(self, info: StreamInfo, position: int) -> None:
        """As `saw`, where the next record is not the one after the position.

        Raises: CursorExpiredError where something between the two may have been evicted.
        """
        self.saw(info, position)
        first = info.view.first_revision
        if not gap_is_benign(position=position, first_revision=first, retention=self._bucket.retention):
            raise expired(self._bucket, self._options, "compacted", info.view, position, self.seen)
