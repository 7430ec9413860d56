"""Watching models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from slipstream.interfaces import Watch
from slipstream.model import WatchCursor, WatchStatistics
from slipstream.typed.values import Format, TypedUpdate

M = TypeVar("M")


class TypedWatch(Generic[M]):
    """As `Watch`, with models.

    Where a stored value does not decode and the policy is to raise, the next item raises DeserializationError once:
    the cursor has passed that update then, and iterating goes on after it.
    """

    def __init__(self, watch: Watch, form: Format[M]) -> None:
        self._watch = watch
        self._format = form

    async def __aenter__(self) -> Self:
        await self._watch.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._watch.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[TypedUpdate[M]]:
        return self

    async def __anext__(self) -> TypedUpdate[M]:
        while True:
            update = self._format.or_poison(self._format.update, await anext(self._watch))
            if update is not None:
                return update

    async def batches(self, max_items: int = 1000, max_wait: float = 0.01) -> AsyncIterator[list[TypedUpdate[M]]]:
        """The same updates in lists, as `Watch.batches`. A poisonous update that raises ends this iterator.

        What came with it in one list is not handed out then: resume from an earlier cursor, or have it skipped.
        """
        async for batch in self._watch.batches(max_items, max_wait):
            if updates := self._format.updates(batch):
                yield updates

    @property
    def cursor(self) -> WatchCursor:
        """The position after the last update handed out or skipped."""
        return self._watch.cursor

    @property
    def hydrated(self) -> bool:
        """As `Watch.hydrated`."""
        return self._watch.hydrated

    async def wait_hydrated(self) -> None:
        """As `Watch.wait_hydrated`."""
        await self._watch.wait_hydrated()

    def statistics(self) -> WatchStatistics:
        """As `Watch.statistics`; what was skipped counts as delivered."""
        return self._watch.statistics()

    async def aclose(self) -> None:
        """End the watch; safe to repeat."""
        await self._watch.aclose()
