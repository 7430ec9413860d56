"""The initial state of a watch, to its proven end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from slipstream.interfaces import Watch
from slipstream.model import KvUpdate


async def backlog(watch: Watch) -> AsyncGenerator[list[KvUpdate], None]:
    """The updates that a watch begins with (with a cursor: the backlog), in batches; ends once all were handed out.

    What is written meanwhile may be among the last. Close it (`aclose`) if it is left early.
    """
    batches = watch.batches()
    hydrated = asyncio.ensure_future(watch.wait_hydrated())
    try:
        while not watch.hydrated:
            following = asyncio.ensure_future(anext(batches))
            try:
                # Where there is nothing to hand out, no batch comes.
                await asyncio.wait({following, hydrated}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    hydrated.result()
                    return
                yield following.result()
            finally:
                following.cancel()
                await asyncio.wait({following})
    finally:
        hydrated.cancel()
        await asyncio.wait({hydrated})
