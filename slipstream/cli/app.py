"""The tree of commands, and what every run goes through: parse, run, tell what went wrong."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from cyclopts import App, CycloptsError, Group, Parameter

from slipstream.cli.exits import Exit, Failure, failure_of
from slipstream.cli.output import LogHandler, Output, tell
from slipstream.cli.running import run_command

_COMMANDS = "slipstream.cli.commands"
_VALUES = Group("Keys and values", sort_key=1)
_COPIES = Group("Trees, copies and comparisons", sort_key=2)
_COORDINATION = Group("Coordination", sort_key=3)
_OPERATIONS = Group("Servers and stores", sort_key=4)


class _Command(NamedTuple):
    name: str
    home: str
    group: Group
    example: str


_TABLE = (
    _Command("get", "values:get", _VALUES, "slipstream get config node.eu-1"),
    _Command("put", "values:put", _VALUES, "slipstream put config node.eu-1 up"),
    _Command("create", "values:create", _VALUES, "slipstream create config node.eu-1 @node.json"),
    _Command("update", "values:update", _VALUES, "slipstream update config node.eu-1 down --version 42"),
    _Command("delete", "values:delete", _VALUES, "slipstream delete config node.eu-1"),
    _Command("purge", "values:purge", _VALUES, "slipstream purge config node.eu-1"),
    _Command("keys", "reading:keys", _VALUES, "slipstream keys config --prefix node."),
    _Command("scan", "reading:scan", _VALUES, "slipstream scan config --prefix node. --json"),
    _Command("history", "reading:history", _VALUES, "slipstream history config node.eu-1"),
    _Command("watch", "watch:watch", _VALUES, "slipstream watch config --prefix node. --prefix job."),
    _Command("diff", "diff:diff", _COPIES, "slipstream diff config@40 config@42"),
    _Command("apply", "apply:apply", _COPIES, "slipstream apply config tree.yaml --prefix app. --prune"),
    _Command("dump", "dump:dump", _COPIES, "slipstream dump config config.jsonl"),
    _Command("restore", "dump:restore", _COPIES, "slipstream restore config config.jsonl"),
    _Command("elect", "held:elect", _COORDINATION, "slipstream elect scheduler -- ./run-scheduler --fast"),
    _Command("lock", "held:lock", _COORDINATION, "slipstream lock migration -- ./migrate"),
    _Command("members", "members:members", _COORDINATION, "slipstream members workers --watch"),
    _Command("ui", "ui:ui", _OPERATIONS, "slipstream ui config --web"),
    _Command("server", "server:server", _OPERATIONS, "slipstream server ./data"),
    _Command("doctor", "doctor:doctor", _OPERATIONS, "slipstream doctor config"),
    _Command("permissions", "permissions:permissions", _OPERATIONS, "slipstream permissions reader config"),
    _Command("bench", "bench:bench", _OPERATIONS, "slipstream bench --count 1000"),
)
_STORES = (
    _Command("list", "stores:list_stores", _OPERATIONS, "slipstream stores list"),
    _Command("create", "stores:create", _OPERATIONS, "slipstream stores create config --max-history 5"),
    _Command("info", "stores:info", _OPERATIONS, "slipstream stores info config"),
    _Command("delete", "stores:delete", _OPERATIONS, "slipstream stores delete config --yes"),
    _Command("ensure", "stores:ensure", _OPERATIONS, "slipstream stores ensure config --max-bytes 1000000 --dry-run"),
)
_REPLICA = (
    _Command("follow", "replica:follow", _COPIES, "slipstream replica follow config ./copy"),
    _Command("inspect", "replica:inspect", _COPIES, "slipstream replica inspect ./copy --prefix node."),
    _Command("verify", "replica:verify", _COPIES, "slipstream replica verify config ./copy"),
    _Command("export", "artifacts:export", _COPIES, "slipstream replica export ./copy ./artifact --store config"),
    _Command("import", "artifacts:import_", _COPIES, "slipstream replica import ./artifact ./copy"),
    _Command("publish", "artifacts:publish", _COPIES, "slipstream replica publish ./artifact s3://backups/config"),
    _Command("fetch", "artifacts:fetch", _COPIES, "slipstream replica fetch s3://backups/config ./artifact"),
)


def make_app(arguments: Sequence[str] = ()) -> App:
    """The tree. No command is imported before it is asked for; a list of commands with their summaries asks for all."""
    app = App(
        name="slipstream",
        help="A replicated key-value store on NATS JetStream: read, write, watch, copy, coordinate, look after.",
        help_epilogue="Exit codes: 0 ok, 1 not found or no, 2 usage, 3 conflict, 4 connection, 5 timeout.",
        version=_version,
        default_parameter=Parameter(negative=()),
        result_action="return_value",
    )
    _add(app, _TABLE)
    stores = App(name="stores", help="The buckets of the server.", group=_OPERATIONS)
    _add(stores, _STORES)
    app.command(stores)
    replica = App(name="replica", help="A copy of a store in a folder of this machine.", group=_COPIES)
    _add(replica, _REPLICA)
    app.command(replica)
    first = next(iter(arguments), "--help")
    lists = {"--help": app, "-h": app, "stores": stores, "replica": replica}
    if first in lists:
        lists[first].resolved_commands()
    app.register_install_completion_command(help="Install completion for your shell (bash, zsh or fish).")
    return app


def _add(app: App, commands: Sequence[_Command]) -> None:
    for command in commands:
        app.command(
            f"{_COMMANDS}.{command.home}",
            name=command.name,
            group=command.group,
            help_epilogue=f"Example: {command.example}",
        )


def run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name; its exit code. What goes wrong is told on stderr."""
    json = _wants_json(arguments)
    logging.getLogger().addHandler(LogHandler(Output(json=json)))
    try:
        command, bound, _ = make_app(arguments).parse_args(list(arguments), exit_on_error=False, print_error=False)
        result = command(*bound.args, **bound.kwargs)
        return run_command(command, result) if inspect.iscoroutine(result) else Exit.OK
    except CycloptsError as error:
        failure: Failure | None = Failure(
            exit=Exit.USAGE,
            kind="UsageError",
            message=" ".join(str(error).split()),
            advice=f"see: {_help_of(arguments)}",
        )
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
    assert failure is not None
    tell(failure, json=json)
    return failure.exit


def _wants_json(arguments: Sequence[str]) -> bool:
    """Asked before the arguments are understood, for what is wrong with them is told in JSON, too."""
    before_command = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in before_command


def _help_of(arguments: Sequence[str]) -> str:
    groups = {"stores", "replica"}
    words = [word for word in arguments[:2] if not word.startswith("-")]
    named = words[:2] if words and words[0] in groups else words[:1]
    return " ".join(["slipstream", *named, "--help"])


def _version() -> str:
    try:
        return version("slipstream-kv")
    except PackageNotFoundError:
        return "unknown (not installed)"
