"""Watches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from slipstream.errors import OperationTimeoutError
from slipstream.interfaces import Watch
from slipstream.model import KvUpdate, WatchCursor, WatchStatistics
from slipstream.sync.portal import Portal, close, following, read


class SyncWatch:
    """As `Watch`: `with store.watch(...) as watch: for update in watch`.

    Several threads may take updates, each update goes to one of them. `aclose` from another thread ends the waiting.
    """

    def __init__(self, watch: Watch, portal: Portal) -> None:
        self._watch = watch
        self._portal = portal
        self._taking = threading.Lock()  # a watch has one reader at a time

    def __enter__(self) -> Self:
        self._portal.call(self._watch.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._portal.call_at_end(self._watch.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[KvUpdate]:
        return self

    def __next__(self) -> KvUpdate:
        with self._taking:
            update = self._portal.call(following(self._watch))
        if update is None:
            raise StopIteration
        return update

    def batches(self, max_items: int = 1000, max_wait: float = 0.01) -> Iterator[list[KvUpdate]]:
        """The same updates in lists; see `Watch.batches`."""
        batches = self._watch.batches(max_items, max_wait)
        try:
            while True:
                with self._taking:
                    batch = self._portal.call(following(batches))
                if batch is None:
                    return
                yield batch
        finally:
            self._portal.call_at_end(close(batches))

    @property
    def cursor(self) -> WatchCursor:
        """The position after the last update handed out."""
        return self._portal.call(read(lambda: self._watch.cursor))

    @property
    def hydrated(self) -> bool:
        """The initial state has been handed out."""
        return self._portal.call(read(lambda: self._watch.hydrated))

    def wait_hydrated(self, timeout: float = 30.0) -> None:
        """Return once `hydrated`. Another thread has to take the updates meanwhile.

        Raises: OperationTimeoutError after so many seconds; what ended the watch.
        """
        self._portal.call(_within(timeout, self._watch))

    def statistics(self) -> WatchStatistics:
        """How the watch is doing now; no I/O."""
        return self._portal.call(read(self._watch.statistics))

    def aclose(self) -> None:
        """End the watch and free what it holds; safe to repeat."""
        self._portal.call_at_end(self._watch.aclose())

    close = aclose


async def _within(timeout: float, watch: Watch) -> None:
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            await watch.wait_hydrated()
    except TimeoutError:
        if not limit.expired():
            raise
        raise OperationTimeoutError(
            message=f"the initial state was not handed out within {timeout:g} s: another thread has to take the updates"
        ) from None
