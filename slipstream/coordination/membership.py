"""Who is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

from slipstream.coordination.clock import now
from slipstream.coordination.lease import DEFAULT_TTL, default_name, to_seconds
from slipstream.coordination.live import Live, first_of
from slipstream.coordination.patience import PatientStore
from slipstream.coordination.presence import PresenceKey
from slipstream.coordination.records import new_id
from slipstream.coordination.scope import clean_up
from slipstream.coordination.turns import Pauses, passes, persistently
from slipstream.errors import AlreadyExistsError, KvError
from slipstream.interfaces import KvStore, Ttl
from slipstream.keys import check_key

_GRACE_SECONDS = 5.0
"""How much later than its ttl a key may be seen to expire: servers look for expired keys now and then."""


class MemberEvent(Enum):
    """What happened to a member."""

    JOINED = "joined"
    CHANGED = "changed"
    LEFT = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberChange:
    """One change of a membership; `value` is the member's new one, after LEFT its last."""

    __match_args__ = ("event", "member", "value")

    event: MemberEvent
    member: str
    value: bytes


class Membership(Mapping[str, bytes]):
    """The members of a group, each with a value, and this process as one of them.

    `async with Membership(store, "workers", value=b"10.0.0.7:80") as members:` joins and returns when the view is
    complete. The block sees a live mapping of the members' names to their values; `async for change in members` tells
    of all who are there first and then of every change. A change that was overtaken by another one of the same member
    before it was told is not told: what was told always adds up to the mapping.

    A member that dies leaves when its `ttl` is over. One that was only cut off for so long joins again by itself.

    Args:
        store, ttl: see `Lease`.
        name: a key of its own; the keys `<name>.*` belong to the group.
        member: the name of this member, a key: unique in the group. None: made from host and process.
        value: of this member; see `set_value`.
        join: False only looks on.
    Entering raises: AlreadyExistsError: another process has this name, still after its ttl; KvError.
    """

    def __init__(
        self,
        store: KvStore,
        name: str,
        *,
        member: str | None = None,
        value: bytes = b"",
        ttl: Ttl = DEFAULT_TTL,
        join: bool = True,
    ) -> None:
        self._ttl = to_seconds(ttl)
        self._store = PatientStore(store, ttl=self._ttl)
        self._prefix = f"{check_key(name, store=store.name)}."
        self.member = f"{_as_key(default_name())}-{new_id()}" if member is None else member
        self._key = check_key(f"{self._prefix}{self.member}", store=store.name)
        self._value = bytes(value)
        self._joins = join
        self._presence: PresenceKey | None = None
        self._live = Live(self._store)
        self._hydrated = False
        self._joined = False
        self._members: dict[str, bytes] = {}
        self._told: dict[str, bytes] = {}
        self._untold: dict[str, None] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # ---- the mapping

    def __getitem__(self, member: str) -> bytes:
        return self._members[member]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    __hash__ = object.__hash__  # it is a thing that lives, not a value

    def __eq__(self, other: object) -> bool:
        return self is other

    # ---- the changes

    def __aiter__(self) -> AsyncIterator[MemberChange]:
        return self

    async def __anext__(self) -> MemberChange:
        """The next change; cancelled, none is lost. Raises what ended the membership, StopAsyncIteration after it."""
        while True:
            while self._untold:
                member = next(iter(self._untold))
                del self._untold[member]
                change = self._tell(member)
                if change is not None:
                    return change
            if not await self._changes():
                raise StopAsyncIteration

    async def set_value(self, value: bytes) -> None:
        """Give this member another value; returns when the view shows it.

        Raises: RuntimeError for one that only looks on, or outside of the block; what ended the membership.
        """
        if not self._joins or self._task is None:
            raise RuntimeError("only a member that has joined has a value")
        self._value = bytes(value)
        if self._presence is not None:
            self._presence.change(value=self._value)
        while not self._shows_this_one():
            if not await self._changes():
                raise RuntimeError("the membership has ended: nobody has a value any more")

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a membership is entered once at a time")
        self._task = asyncio.create_task(self._run(), name=f"slipstream-membership-{self._prefix}")
        self._task.add_done_callback(self._ended)
        try:
            while not (self._hydrated and (self._joined or not self._joins) and self._shows_this_one()):
                await self._changes()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    # ---- what runs beside the block

    async def _run(self) -> None:
        failure: KvError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(persistently(self._follow))
                if self._joins:
                    group.create_task(self._stay())
        except* KvError as errors:
            failure = first_of(errors)
        if failure is not None:
            raise failure  # out here: Python before 3.11.4 makes a group of what is raised inside of except*

    async def _follow(self) -> None:
        """Keep the view; raises when the watch ends."""
        self._live = Live(self._store)
        async with self._store.watch(self._prefix) as watch:
            await self._live.hydrate(watch)
            while True:
                self._show()
                await self._live.next(watch)

    async def _stay(self) -> None:
        """Keep this member in, also after it was lost."""
        pauses = Pauses()
        while True:
            presence = self._presence = PresenceKey(self._store, self._key, ttl=self._ttl, value=self._value)
            try:
                await self._join(presence)
                self._joined = True
                self._changed.set()
                if self._value != presence.value:
                    presence.change(value=self._value)
                await presence.lost.wait()
            finally:
                self._presence = None
                await clean_up(presence.remove(), what=self._key, timeout=self._ttl)
            await pauses.pause()

    async def _join(self, presence: PresenceKey) -> None:
        pauses = Pauses()
        taken_since: float | None = None
        while True:
            try:
                await presence.create()
                return
            except AlreadyExistsError:
                # Perhaps of one who died, or of this one before it was cut off: its time will be up.
                taken_since = now() if taken_since is None else taken_since
                if now() > taken_since + self._ttl + _GRACE_SECONDS:
                    raise
            except KvError as error:
                if not passes(error):
                    raise
                taken_since = None  # a server that is away removes nobody: the time begins anew
            await pauses.pause()

    def _show(self) -> None:
        self._hydrated = True
        members = {
            key.removeprefix(self._prefix): ticket.presence.value for key, ticket in sorted(self._live.tickets.items())
        }
        changed = {member for member in {*members, *self._members} if members.get(member) != self._members.get(member)}
        self._members = members
        self._untold.update(dict.fromkeys(sorted(changed)))
        self._changed.set()

    def _tell(self, member: str) -> MemberChange | None:
        before, after = self._told.get(member), self._members.get(member)
        if before == after:
            return None
        if after is None:
            assert before is not None  # they differ
            del self._told[member]
            return MemberChange(event=MemberEvent.LEFT, member=member, value=before)
        self._told[member] = after
        event = MemberEvent.JOINED if before is None else MemberEvent.CHANGED
        return MemberChange(event=event, member=member, value=after)

    def _shows_this_one(self) -> bool:
        return not self._joins or self._members.get(self.member) == self._value

    async def _changes(self) -> bool:
        """Return True after a change, False when there will be none. Raises: what ended it."""
        if self._task is None:
            return False
        if self._task.done():
            self._task.result()
            return False
        self._changed.clear()
        await self._changed.wait()
        return True

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        self._changed.set()
        await asyncio.wait([task])  # bounded: what it still does is clean_up

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # told to whoever asks; nobody need
        self._changed.set()


def _as_key(text: str) -> str:
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "-" for letter in text)
