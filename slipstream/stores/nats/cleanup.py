"""Clean-up that is not cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def uninterrupted(clean_up: Coroutine[Any, Any, None]) -> None:
    """Do it to its end, and be cancelled only then: cut short by a second cancel, it would leave what it is there for.

    It has to bound itself.
    """
    task = asyncio.create_task(clean_up, name="slipstream-clean-up")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from task.exception()
    task.result()
