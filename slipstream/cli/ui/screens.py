"""What is asked beside the main view: which store to compare with, and what differs."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Label, OptionList, Static

from slipstream.cli.commands.differences import Difference, Kind
from slipstream.cli.ui.compare import compare
from slipstream.cli.ui.leaving import while_shown
from slipstream.cli.ui.rows import Rows
from slipstream.cli.ui.values import value_difference
from slipstream.errors import KvError
from slipstream.interfaces import KvStore
from slipstream.model import KvEntry

_SIGNS = {Kind.ADDED: "+", Kind.REMOVED: "-", Kind.CHANGED: "~", Kind.UNKNOWN: "?"}
_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def colored(lines: list[str]) -> Text:
    """A diff in its colours."""
    text = Text()
    for line in lines:
        text.append(f"{line}\n", _STYLES.get(line[:1], ""))
    return text


class ChooseStore(ModalScreen[str | None]):
    """Which store; None if it is left."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Back")]
    CSS = """
    ChooseStore { align: center middle; }
    ChooseStore Vertical { width: 50; height: auto; max-height: 80%; border: round $primary; background: $surface; }
    """

    def __init__(self, question: str, stores: list[str]) -> None:
        super().__init__()
        self._question = question
        self._stores = stores

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label(Text(self._question))
            yield OptionList(*map(Text, self._stores), id="choice")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._stores[event.option_index])


class Comparison(Screen[None]):
    """The keys in which two stores differ; of the chosen one, what differs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back"),
        Binding("q", "app.quit", "Quit"),
    ]
    CSS = """
    Comparison #differing { width: 40%; border: round $primary; }
    Comparison VerticalScroll { border: round $primary; }
    """

    def __init__(self, left: KvStore, right: KvStore, prefix: str) -> None:
        super().__init__()
        self._left = left
        self._right = right
        self._prefix = prefix
        self._signs: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        yield Static("comparing …", id="verdict")
        with Horizontal():
            yield Rows("differing")
            with VerticalScroll():
                yield Static(id="difference")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(Rows).focus()
        self.run_worker(while_shown(self, self._compare()), group="compare", exclusive=True)

    def on_rows_chosen(self, event: Rows.Chosen) -> None:
        if event.row is not None:
            self.run_worker(while_shown(self, self._show(event.row)), group="difference", exclusive=True)

    async def _compare(self) -> None:
        names = f"{self._left.name} -> {self._right.name}"
        try:
            found = await compare(self._left, self._right, self._prefix)
        except KvError as error:
            self._tell(f"{names}: {error}")
            return
        self._signs = {difference.key: _SIGNS[difference.kind] for difference in found}
        self.query_one(Rows).show([difference.key for difference in found])
        self._tell(f"{names}: {_summary(found)}")

    async def _show(self, key: str) -> None:
        try:
            left, right = await self._left.get(key), await self._right.get(key)
        except KvError as error:
            shown = Text(str(error), "red")
        else:
            lines = value_difference(_value(left), _value(right))
            shown = Text().append(f"{self._signs.get(key, '')} {key}\n\n", "bold")
            shown.append(colored(lines) if lines else Text("the same by now"))
        self.query_one("#difference", Static).update(shown)

    def _tell(self, text: str) -> None:
        self.query_one("#verdict", Static).update(Text(text, "bold"))


def _value(entry: KvEntry | None) -> bytes | None:
    return None if entry is None else entry.value


def _summary(found: list[Difference]) -> str:
    if not found:
        return "nothing differs"
    counts = {kind: sum(one.kind is kind for one in found) for kind in Kind}
    return ", ".join(f"{count:,} {kind.value}" for kind, count in counts.items() if count)
