"""A list of any length, of which only what is seen is drawn."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import ClassVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip


class Rows(ScrollView, can_focus=True):
    """Sorted texts, one of which is chosen. It draws a screenful and keeps nothing but the sequence it was given."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "move_page(-1)", "Page up", show=False),
        Binding("pagedown", "move_page(1)", "Page down", show=False),
        Binding("home,g", "move_to(0)", "First", show=False),
        Binding("end,G", "move_to(-1)", "Last", show=False),
    ]

    class Chosen(Message):
        """Another row is chosen; None where there is none."""

        def __init__(self, rows: Rows, row: str | None) -> None:
            super().__init__()
            self.rows = rows
            self.row = row

        @property
        def control(self) -> Rows:
            return self.rows

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._rows: Sequence[str] = ()
        self._at = 0
        self._chosen: str | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def chosen(self) -> str | None:
        """The row that is chosen."""
        return self._chosen

    def show(self, rows: Sequence[str]) -> None:
        """Show these instead. What was chosen stays chosen if it is still there, else the row in its place."""
        self._rows = rows
        self.virtual_size = Size(self.size.width, len(rows))
        if self._chosen is not None:
            place = bisect_left(rows, self._chosen)
            if place < len(rows) and rows[place] == self._chosen:
                self._at = place
        self._choose(self._at, follow=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        at = self.scroll_offset.y + y
        if at >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        chosen = at == self._at
        style = self.rich_style + Style(reverse=chosen and self.has_focus, bold=chosen, underline=chosen)
        return Strip([Segment(set_cell_size(self._rows[at], width), style)], width)

    def action_move(self, by: int) -> None:
        self._choose(self._at + by)

    def action_move_page(self, pages: int) -> None:
        self._choose(self._at + pages * max(self.size.height - 1, 1))

    def action_move_to(self, at: int) -> None:
        self._choose(at if at >= 0 else len(self._rows) + at)

    def on_click(self, event: Click) -> None:
        self._choose(self.scroll_offset.y + event.y)

    def _choose(self, at: int, *, follow: bool = True) -> None:
        self._at = max(0, min(at, len(self._rows) - 1))
        chosen = self._rows[self._at] if self._rows else None
        if follow:
            self.scroll_to_region(Region(0, self._at, 1, 1), animate=False)
        self.refresh()
        if chosen != self._chosen:
            self._chosen = chosen
            self.post_message(self.Chosen(self, chosen))
