"""Work beside what is shown, when that is left."""

from __future__ import annotations

from collections.abc import Awaitable

from textual.app import App, ScreenStackError
from textual.css.query import NoMatches
from textual.dom import DOMNode


async def while_shown(node: DOMNode, work: Awaitable[None]) -> None:
    """Do the work; that what it shows is gone is no error once the node is left.

    textual removes the widgets first and cancels what works for them afterwards (8.2: `App._shutdown`).
    """
    try:
        await work
    except (NoMatches, ScreenStackError, IndexError):
        app: App[object] = node.app
        if node.is_running and app.is_running:
            raise
