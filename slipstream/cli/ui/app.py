"""The app: stores, keys, and of the chosen ones what there is to see. It reads only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import textual
from rich.text import Text
from rich.traceback import Traceback
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, OptionList, Static, TabbedContent, TabPane
from textual.widgets.option_list import Option

from slipstream.cli.connecting import find_admin, find_store
from slipstream.cli.render import moment, shown_in_line
from slipstream.cli.ui.claims import candidates, claims
from slipstream.cli.ui.following import TooManyKeysError, follow_keys
from slipstream.cli.ui.index import KeyIndex
from slipstream.cli.ui.leaving import while_shown
from slipstream.cli.ui.lines import connection_line, store_line
from slipstream.cli.ui.rows import Rows
from slipstream.cli.ui.screens import ChooseStore, Comparison, colored
from slipstream.cli.ui.values import View, value_difference, view_value
from slipstream.errors import KvError, StoreNotFoundError
from slipstream.interfaces import Connection, KvStore
from slipstream.model import KvUpdate, Operation

_REFRESH_SECONDS = 2.0
"""Of what no watch tells: stores, consumers, who holds what."""
_AGAIN_SECONDS = 1.0
_OF_THE_MAIN_SCREEN = frozenset({"search", "leave_search", "view", "mark", "compare"})
_NO_STORE = "there are no stores yet: slipstream put STORE KEY VALUE makes one"


class LiveView(App[None]):
    """Follows a server that is connected to; ends by `q`, Ctrl-C, or by being cancelled."""

    TITLE = "slipstream"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
        Binding("slash", "search", "Search"),
        Binding("escape", "leave_search", "Keys", show=False),
        Binding("v", "view", "View as"),
        Binding("space", "mark", "Mark revision"),
        Binding("c", "compare", "Compare stores"),
    ]
    CSS = """
    #connection, #store { height: 1; padding: 0 1; }
    #stores { width: 24; height: 100%; text-wrap: nowrap; text-overflow: ellipsis; border: round $primary; }
    #left { width: 36; }
    #keys { border: round $primary; }
    #search { height: 3; }
    #history { height: 50%; }
    """

    def __init__(self, connection: Connection, *, store: str | None = None, prefix: str = "") -> None:
        super().__init__()
        self._connection = connection
        self._wanted = store
        self._prefix = prefix
        self._names: list[str] = []
        self._store: KvStore | None = None
        self._index = KeyIndex()
        self._key: str | None = None
        self._view = View.AUTO
        self._history: list[KvUpdate] = []
        self._marked: int | None = None
        self._problem = ""
        self._key_stale = asyncio.Event()
        self._refresh_due = asyncio.Event()

    def compose(self) -> ComposeResult:
        yield Static("connecting …", id="connection")
        yield Static("", id="store")
        with Horizontal():
            yield OptionList(id="stores")
            with Vertical(id="left"):
                yield Input(placeholder="/ prefix of the keys", id="search", select_on_focus=False)
                yield Rows("keys")
            with TabbedContent(id="tabs"):
                with TabPane("Value", id="value-tab"), VerticalScroll():
                    yield Static(id="value")
                with TabPane("History", id="history-tab"):
                    yield DataTable[str](id="history", cursor_type="row")
                    with VerticalScroll():
                        yield Static(id="revision-diff")
                with TabPane("Watchers", id="watchers-tab"):
                    yield DataTable[str](id="watchers", cursor_type="none")
                with TabPane("Leases", id="leases-tab"):
                    yield DataTable[str](id="claims", cursor_type="none")
        yield Footer()

    def on_mount(self) -> None:
        self._table("history").add_columns("", "revision", "operation", "written", "value")
        self._table("watchers").add_columns("application", "host", "pid", "purpose", "behind", "at revision")
        self._table("claims").add_columns("kind", "name", "who", "ttl", "last written")
        self._main.query_one("#stores").border_title = "Stores"
        self._main.query_one("#keys").border_title = "Keys"
        self._main.query_one("#keys").focus()
        self.run_worker(while_shown(self, self._follow_connection()), group="connection")
        self.run_worker(while_shown(self, self._follow_key()), group="key")
        self.run_worker(while_shown(self, self._refresh()), group="refresh")
        if self._wanted is not None:
            self._follow(self._wanted)  # also who may not list the stores may look at one

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action not in _OF_THE_MAIN_SCREEN or len(self.screen_stack) == 1

    def _fatal_error(self) -> None:
        # textual's own shows the local variables: stored values, and how the server is logged in to.
        self.panic(Traceback(show_locals=False, suppress=[textual]))

    # ---- what is chosen

    @on(OptionList.OptionHighlighted, "#stores")
    def _store_chosen(self, event: OptionList.OptionHighlighted) -> None:
        name = event.option_id
        if name is not None and name != self._wanted:
            self._follow(name)

    @on(Rows.Chosen, "#keys")
    def _key_chosen(self, event: Rows.Chosen) -> None:
        self._key, self._marked = event.row, None
        self._key_stale.set()

    @on(Input.Changed, "#search")
    def _searched(self) -> None:
        self._show_keys()

    @on(Input.Submitted, "#search")
    def _search_done(self) -> None:
        self._main.query_one("#keys").focus()

    @on(DataTable.RowHighlighted, "#history")
    def _revision_chosen(self) -> None:
        self._show_difference()

    @on(TabbedContent.TabActivated)
    def _tab_chosen(self) -> None:
        self.run_worker(while_shown(self, self._attempt(self._read_tab)), group="tab", exclusive=True)

    def action_search(self) -> None:
        self._main.query_one("#search").focus()

    def action_leave_search(self) -> None:
        self._main.query_one("#keys").focus()

    def action_view(self) -> None:
        self._view = self._view.next
        self._show_value()

    def action_mark(self) -> None:
        """The chosen revision is what the others are compared with; once more, it is not."""
        at = self._table("history").cursor_row
        if at < len(self._history):
            revision = self._history[at].revision
            self._marked = None if self._marked == revision else revision
            self._show_history()

    def action_compare(self) -> None:
        store, others = self._store, [name for name in self._names if self._store and name != self._store.name]
        if store is None or not others:
            self.notify("there is no other store to compare with")
            return

        def chosen(name: str | None) -> None:
            if name is not None:
                self.run_worker(while_shown(self, self._compare(store, name)), group="compare", exclusive=True)

        self.push_screen(ChooseStore(f"Compare {store.name} with", others), chosen)

    # ---- what goes on beside

    async def _follow_connection(self) -> None:
        async for event in self._connection.events():
            self._tell("connection", *connection_line(event))

    async def _refresh(self) -> None:
        """What no watch tells, again and again."""
        while True:
            self._refresh_due.clear()
            await self._attempt(self._read_stores)
            await self._attempt(self._read_status)
            await self._attempt(self._read_tab)
            with suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await self._refresh_due.wait()

    async def _follow_key(self) -> None:
        """One reading at a time: of a key that is written all the time, each reading shows what is there by then."""
        while True:
            await self._key_stale.wait()
            self._key_stale.clear()
            await self._attempt(self._read_history)

    def _follow(self, name: str) -> None:
        self._wanted = name
        self.run_worker(while_shown(self, self._follow_store(name)), group="store", exclusive=True)

    async def _follow_store(self, name: str) -> None:
        self._store, self._key = None, None
        self._listed(KeyIndex())
        while True:
            try:
                store = await find_store(self._connection, name)
                self._store = store
                await follow_keys(store, self._prefix, listed=self._listed, changed=self._changed)
            except TooManyKeysError as error:
                self._stop_listing(f"{name}: {error}")
                return
            except StoreNotFoundError as error:
                self._store = None
                self._stop_listing(str(error))
            except KvError as error:
                self._tell("store", str(error), "red")
            # It may be made again, or the server be back.
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _compare(self, store: KvStore, name: str) -> None:
        async def show() -> None:
            await self.push_screen(Comparison(store, await find_store(self._connection, name), self._prefix))

        await self._attempt(show)

    async def _attempt(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except KvError as error:
            self._tell("store", str(error), "red")

    # ---- what is read

    async def _read_stores(self) -> None:
        names = await self._connection.stores()
        if names == self._names:
            return
        self._names = names
        stores = self._main.query_one("#stores", OptionList)
        stores.clear_options().add_options(Option(Text(name), id=name) for name in names)
        if not names:
            self._tell("store", _NO_STORE, "yellow")
        elif self._wanted is None:
            stores.highlighted = 0
        elif self._wanted in names:
            stores.highlighted = names.index(self._wanted)

    async def _read_status(self) -> None:
        if self._store is not None and not self._problem:
            self._tell("store", store_line(await self._store.status()))

    def _listed(self, index: KeyIndex) -> None:
        self._index, self._problem = index, ""
        self._show_keys()
        self._key_stale.set()
        self._refresh_due.set()

    def _stop_listing(self, problem: str) -> None:
        self._listed(KeyIndex())
        self._problem = problem
        self._tell("store", problem, "red")

    def _changed(self, updates: Sequence[KvUpdate]) -> None:
        self._show_keys()
        if any(update.key == self._key for update in updates):
            self._key_stale.set()

    async def _read_history(self) -> None:
        store, key = self._store, self._key
        # The newest first: what a table begins with.
        history = [] if store is None or key is None else (await store.history(key))[::-1]
        if (store, key) != (self._store, self._key):
            return  # another one was chosen meanwhile, and is read next
        self._history = history
        self._show_value()
        self._show_history()

    async def _read_tab(self) -> None:
        store = self._store
        if store is None:
            return
        match self._main.query_one(TabbedContent).active:
            case "watchers-tab":
                await self._read_watchers(store)
            case "leases-tab":
                await self._read_claims(store)

    async def _read_watchers(self, store: KvStore) -> None:
        admin = find_admin(self._connection)
        found = [] if admin is None else await admin.watchers(store.name)
        self._fill(
            "watchers",
            [
                (one.application, one.host, one.pid, one.purpose, f"{one.pending:,}", f"{one.delivered:,}")
                for one in found
            ],
        )

    async def _read_claims(self, store: KvStore) -> None:
        keys = candidates(self._index.matching(), stored_bytes=(await store.status()).bytes)
        found = claims((await store.get_many(keys)).values())
        self._fill(
            "claims",
            [
                (one.kind, one.name, one.who, "" if one.ttl is None else f"{one.ttl:g} s", moment(one.renewed) or "")
                for one in found
            ],
        )

    # ---- what is shown

    def _show_keys(self) -> None:
        prefix = self._main.query_one("#search", Input).value
        shown = self._index.matching(prefix)
        keys = self._main.query_one("#keys", Rows)
        keys.show(shown)
        total = len(self._index)
        keys.border_title = f"Keys {len(shown):,}" + (f" of {total:,}" if len(shown) != total else "")

    def _show_value(self) -> None:
        last = self._history[0] if self._history else None
        shown = Text()
        if self._key is not None:
            shown.append(f"{self._key}\n", "bold")
            if last is None or last.operation is not Operation.PUT:
                shown.append("absent\n" if last is None else f"{_operation(last)}, revision {last.revision}\n", "red")
            else:
                view, text = view_value(last.value, self._view)
                shown.append(f"revision {last.revision}, {moment(last.created)}, as {view.value}\n\n", "dim")
                shown.append(text)
        self._main.query_one("#value", Static).update(shown)

    def _show_history(self) -> None:
        self._fill(
            "history",
            [
                (
                    "*" if update.revision == self._marked else "",
                    str(update.revision),
                    _operation(update),
                    moment(update.created) or "",
                    shown_in_line(update.value[:200], width=60),
                )
                for update in self._history
            ],
        )
        self._show_difference()

    def _show_difference(self) -> None:
        """From the marked revision, else the one before, to the chosen one."""
        at = self._table("history").cursor_row
        shown = Text()
        if at < len(self._history):
            right = self._history[at]
            marked = next((one for one in self._history if one.revision == self._marked), None)
            left = marked or (self._history[at + 1] if at + 1 < len(self._history) else None)
            if left is None:
                shown.append("the oldest that is held", "dim")
            else:
                shown.append(f"{left.revision} -> {right.revision}\n", "bold")
                shown.append(colored(value_difference(_value(left), _value(right)) or ["nothing differs"]))
        self._main.query_one("#revision-diff", Static).update(shown)

    def _fill(self, name: str, rows: Sequence[Sequence[str]]) -> None:
        table = self._table(name)
        at = table.cursor_row
        table.clear()
        for row in rows:
            table.add_row(*map(Text, row))
        table.move_cursor(row=min(at, max(len(rows) - 1, 0)))

    @property
    def _main(self) -> Screen[Any]:
        """Also while another one lies over it, what is read goes here."""
        return self.screen_stack[0]

    def _table(self, name: str) -> DataTable[Any]:
        return self._main.query_one(f"#{name}", DataTable)

    def _tell(self, where: str, text: str, style: str = "") -> None:
        self._main.query_one(f"#{where}", Static).update(Text(text, style))


def _operation(update: KvUpdate) -> str:
    return "EXPIRED" if update.expired else update.operation.value


def _value(update: KvUpdate) -> bytes | None:
    return update.value if update.operation is Operation.PUT else None
