"""Whether what a store did is what it promises: recorded histories and watches, checked afterwards.

    history             who did what when, and how it ended
    linearizability     is there one order of the operations that explains every answer, key by key
    watching            did a watch deliver what was written: order, no repeat, nothing made up, nothing lost

All but the recording is pure.
"""

from slipstream.testing.checkers.history import Action, Client, History, Kind, Outcome
from slipstream.testing.checkers.linearizability import NotLinearizable, Undecided, check_linearizable, linearize
from slipstream.testing.checkers.watching import (
    Change,
    Finding,
    Ledger,
    Violation,
    WatchViolated,
    check_watch,
    watch_violations,
)

__all__ = [
    "Action",
    "Change",
    "Client",
    "Finding",
    "History",
    "Kind",
    "Ledger",
    "NotLinearizable",
    "Outcome",
    "Undecided",
    "Violation",
    "WatchViolated",
    "check_linearizable",
    "check_watch",
    "linearize",
    "watch_violations",
]
