"""L4: the `slipstream` command.

    app          the tree of commands, and what every run of it goes through
    options      what every command takes; contexts, target: which server that means
    connecting   from there to a connection or a store, made or only looked up
    exits        errors to exit codes and to what to do about them
    running      one event loop, signals, the end
    output       text for people, JSON lines for programs; render: what a value looks like
    commands/    a module for each group of commands: what it prints and which code it ends with

What is decided is pure and apart from what is done: contexts, target, exits, render, and in commands/ the files
`diagnosis`, `plan`, `tree`, `grants`, `differences`. Nothing here is imported before a command needs it.
"""

from __future__ import annotations

import sys

_NEEDED = ("cyclopts", "rich", "yaml")


def main() -> int:
    """Run the command that the arguments of the process name; its exit code."""
    try:
        from slipstream.cli.app import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return 128 + 2  # before there was a command to end
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.stderr.write("the slipstream command needs: pip install 'slipstream-kv[cli]'\n")
        return 2
