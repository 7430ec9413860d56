"""Does the leader that answers still lead? And is this server one to stay with?

A leader that was cut off from the others, or paused, takes itself for the leader for 10 to 20 s (raft.go:
lostQuorumInterval, lostQuorumCheck), and answers reads and conflicts from what it has, while the others elect another
after 4 s at the earliest (raft.go: minElectionTimeout; the same from 2.10 to 2.15, and no setting) and acknowledge
writes. Its pings are answered all the while. But it says when it last heard from its followers, and none of those
stands for election within 4 s of that. So what it says of itself is a lease on leadership: bought with one request,
good for a few seconds of reads.

What the lease does not see: a follower votes although it hears from the leader (no pre-vote in raft.go). Where only the
path between the leader and one follower is cut, the old leader learns that from its next heartbeat, within 2 s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

from slipstream.stores.nats.api import JetStreamApi
from slipstream.stores.nats.error_map import ApiError
from slipstream.stores.nats.lane import Closed, Denied, LaneError, Listener

T = TypeVar("T")
_log = logging.getLogger(__name__)
_ELECTION_SECONDS = 4.0
_MARGIN_SECONDS = 1.0
"""For the way of an answer from a follower to its leader, and clocks that do not run alike."""
_AGAIN_SECONDS = 0.25
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 3.0
_CUT_OFF_SECONDS = 4.5
"""Idle leaders hear from their followers every 2 s."""
_SILENT_SECONDS = 10.0
"""Longer than an election, which nobody can leave by going elsewhere."""
_LONGEST_STAY_SECONDS = 60.0


def is_cut_off(*, heard: float, answered: bool, patience: float = 1.0) -> bool:
    """Whether to try another server: nobody here has been known to lead a majority for so many seconds. Pure.

    Args:
        answered: a leader answers here, and has for a while; not: nobody does, as in an election.
        patience: grows with every server that was no better.
    """
    limit = _CUT_OFF_SECONDS if answered else _SILENT_SECONDS
    return heard > min(limit * patience, _LONGEST_STAY_SECONDS)


class Leadership:
    """The lease on one stream's leader, over one connection."""

    def __init__(self, quorum: Quorum, api: JetStreamApi, stream: str) -> None:
        self._quorum = quorum
        self._api = api
        self._stream = stream
        self._begins_at = self._ends_at = 0.0
        self._asking = asyncio.Lock()

    async def vouches(self, since: float) -> bool:
        """No other has led since then (loop time), so what was asked then and answered by now was the leader's word.

        Asks where that is not known. Raises what `JetStreamApi` raises; the caller bounds it.
        """
        if not self._covers(since):
            async with self._asking:  # one asks for all
                if not self._covers(since):
                    await self.ask()
        return self._covers(since)

    async def certain(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What an attempt that changes nothing answers where the leader vouches for it; repeated until then."""
        while True:
            since = asyncio.get_running_loop().time()
            answer = await attempt()
            if await self.vouches(since):
                return answer
            await asyncio.sleep(_AGAIN_SECONDS)  # an election announces its end to nobody

    async def ask(self) -> None:
        """Have the leader say when it last heard from the others."""
        asked = asyncio.get_running_loop().time()
        lost = self._quorum.lost_at
        silence = (await self._api.stream_info(self._stream)).silence or 0.0
        if lost != self._quorum.lost_at:
            return  # another server may answer the next request
        heard = asked - silence
        self._quorum.note(heard)
        if heard > self._ends_at:
            self._begins_at = heard
        self._ends_at = max(self._ends_at, heard + _ELECTION_SECONDS - _MARGIN_SECONDS)

    def void(self) -> None:
        """The next answer may be another server's."""
        self._ends_at = 0.0

    def _covers(self, since: float) -> bool:
        begins_at = max(self._begins_at, self._quorum.lost_at)
        return begins_at <= since and asyncio.get_running_loop().time() < self._ends_at


class Quorum(Listener):
    """What is known through one connection of the leaders of its streams; moves it away from a server that is cut off.

    Args:
        leave: go to another server, for this reason; None where that is not ours to do.
    Attributes:
        lost_at: when the connection before this one was lost (loop time).
    """

    def __init__(self, leave: Callable[[str], Awaitable[None]] | None) -> None:
        self._leave = leave
        self._leaderships: dict[str, Leadership] = {}
        self._looker: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._connected = asyncio.Event()
        self._connected.set()
        self._heard = 0.0
        self._answered_at = self._answers_since = -inf
        self._patience = 1.0
        self.lost_at = 0.0

    def leadership(self, api: JetStreamApi, stream: str) -> Leadership:
        """The lease on the leader of a stream with several copies; one for all handles."""
        if stream not in self._leaderships:
            self._leaderships[stream] = Leadership(self, api, stream)
            self._wanted.set()
        if self._leave is not None and self._looker is None:
            self._begin()
            self._looker = asyncio.create_task(self._look(self._leave), name="slipstream-quorum")
        return self._leaderships[stream]

    def note(self, heard: float) -> None:
        """A leader answered, and knew a majority behind it at this time (of the loop)."""
        now = asyncio.get_running_loop().time()
        if now - self._answered_at > _CUT_OFF_SECONDS / 2:
            self._answers_since = now
        self._answered_at = now
        if heard > self._heard:
            self._heard = heard
        if now - heard < _CUT_OFF_SECONDS:
            self._patience = 1.0

    async def aclose(self) -> None:
        looker, self._looker = self._looker, None
        if looker is not None:
            looker.cancel()
            await asyncio.wait({looker})

    def on_disconnected(self) -> None:
        self.lost_at = asyncio.get_running_loop().time()
        self._connected.clear()
        for leadership in self._leaderships.values():
            leadership.void()

    def on_reconnected(self) -> None:
        self._begin()
        self._connected.set()

    def on_closed(self) -> None:
        self._connected.clear()

    def _answers(self) -> bool:
        """One leader has answered for a while. One that was just chosen has not heard from its followers yet."""
        since = max(self._answers_since, asyncio.get_running_loop().time() - _CUT_OFF_SECONDS / 2)
        return self._answers_since < since <= self._answered_at

    def _begin(self) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._answered_at = -inf

    async def _look(self, leave: Callable[[str], Awaitable[None]]) -> None:
        """Ask again and again: pings say that the server is there, not whether the others are."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            await self._connected.wait()
            lost = self.lost_at
            try:
                await self._ask_one()
            except Denied:
                _log.info("nobody may ask here which leader has its followers: a server that is cut off is stayed with")
                return
            except Closed:
                return
            heard = loop.time() - self._heard
            if lost == self.lost_at and is_cut_off(heard=heard, answered=self._answers(), patience=self._patience):
                self._patience *= 2
                self._begin()
                await leave(f"no leader with most of its followers was heard of here for {heard:.1f} s")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _ask_one(self) -> None:
        """Ask the leader of one stream: what cuts off a server cuts off all that it leads."""
        stream, leadership = next(reversed(self._leaderships.items()))
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await leadership.ask()
        except (Closed, Denied):
            raise
        except (LaneError, TimeoutError) as error:
            _log.debug("nobody answers for stream %s: %r", stream, error)
        except ApiError as error:
            if not error.is_temporary:
                # It was deleted, for one: says nothing of this server, and others may be asked about.
                self._leaderships.pop(stream, None)
                if not self._leaderships:
                    self._wanted.clear()
                self._begin()
