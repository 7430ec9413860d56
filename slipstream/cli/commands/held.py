"""A command for as long as something is held: elect, lock."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from slipstream.cli.commands.process import run_child
from slipstream.cli.connecting import open_store
from slipstream.cli.exits import Failure, UsageError, failure_of
from slipstream.cli.options import DEFAULTS, Options, Seconds
from slipstream.cli.output import Output
from slipstream.coordination import FencingToken, LeaderElection, Lease
from slipstream.coordination.lease import DEFAULT_TTL
from slipstream.coordination.records import SAFETY
from slipstream.errors import FencedError

STORE = "coordination"
Name = Annotated[str, Parameter(help="What all who take part call it; a key.")]
Child = Annotated[
    tuple[str, ...], Parameter(help="The command and its arguments, after --.", allow_leading_hyphen=True)
]
Bucket = Annotated[str, Parameter(help="The store that all who take part use; made if there is none.")]
Ttl = Annotated[Seconds, Parameter(help="Seconds after which a holder that died is replaced, at least 1.")]
Grace = Annotated[
    Seconds | None, Parameter(help="Seconds from SIGTERM to SIGKILL, when it is lost; a tenth of the ttl unless given.")
]
As = Annotated[str | None, Parameter(help="What this holder is called towards others; host and process unless given.")]
Wait = Annotated[Seconds | None, Parameter(help="Seconds to wait for it; as long as it takes unless given.")]


async def elect(
    name: Name,
    command: Child,
    /,
    *,
    again: Annotated[bool, Parameter(help="When leadership is lost, wait for it and run the command anew.")] = False,
    store: Bucket = STORE,
    ttl: Ttl = DEFAULT_TTL,
    grace: Grace = None,
    wait: Wait = None,
    candidate: As = None,
    options: Options = DEFAULTS,
) -> int:
    """Run a command only while this process is the leader; the exit code is the command's.

    When leadership is lost the command is sent SIGTERM, then SIGKILL: with the grace that is the default it has ended
    before another one can lead. Exit code 3, unless --again. Signals are passed on to the command. It finds the fencing
    token of its term in $SLIPSTREAM_FENCING_TOKEN.
    """
    out = options.output()
    _check(command)
    async with open_store(options, store, make=True) as opened:
        while True:
            election = LeaderElection(opened, name, ttl=ttl, candidate=candidate)
            out.note(f"(waiting to lead {name})")
            try:
                async with election.campaign(timeout=wait) as term:
                    return await _run(out, name, command, term.fencing_token, _grace(grace, ttl))
            except FencedError as error:
                if not again:
                    raise
                _tell_lost(out, failure_of(error))


async def lock(
    name: Name,
    command: Child,
    /,
    *,
    store: Bucket = STORE,
    ttl: Ttl = DEFAULT_TTL,
    grace: Grace = None,
    wait: Wait = None,
    holder: As = None,
    options: Options = DEFAULTS,
) -> int:
    """Run a command while holding a lock, in turn with all who use its name; the exit code is the command's.

    When the lock is lost the command is ended as by `elect`: exit code 3. Signals are passed on to the command.
    """
    out = options.output()
    _check(command)
    async with open_store(options, store, make=True) as opened:
        lease = Lease(opened, name, ttl=ttl, holder=holder)
        out.note(f"(waiting for the lock {name})")
        # Not `Lock`, whose block waits without an end: it is this lease, shared by the tasks of one process.
        await lease.acquire(timeout=wait)
        async with lease:
            return await _run(out, name, command, lease.fencing_token, _grace(grace, ttl))


async def _run(out: Output, name: str, command: Child, token: FencingToken, grace: float) -> int:
    out.note(f"(holding {name}, fencing token {token})")
    return await run_child(command, grace=grace, environment={"SLIPSTREAM_FENCING_TOKEN": str(token)})


def _grace(grace: float | None, ttl: float) -> float:
    """A holder takes itself for lost so much before the server lets another one in."""
    return ttl * SAFETY if grace is None else grace


def _check(command: tuple[str, ...]) -> None:
    if not command:
        raise UsageError("name a command to run, after --")


def _tell_lost(out: Output, failure: Failure | None) -> None:
    out.warn("leadership was lost" if failure is None else failure.message)
