"""The contract suite: what every backend of slipstream does, whatever it is made of.

A backend subclasses `StoreContract` in a test module of its own and says how a connection to it is made:

    class TestMyBackend(StoreContract):
        @pytest.fixture
        def new_connection(self, tmp_path: Path) -> NewConnection:
            return lambda *, op_timeout: MyConnection(tmp_path, op_timeout=op_timeout)

Every connection that one test makes has to reach the same data. The suite needs pytest and pytest-asyncio with
`asyncio_mode = "auto"`. Nothing is skipped: what a backend lacks, it says in `capabilities`, and has to refuse.
The areas can be subclassed one by one, too.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{area}"
        for area in (
            "atomically",
            "cancel",
            "commits",
            "conditional",
            "cursors",
            "fencing",
            "guards",
            "keys",
            "lifecycle",
            "limits",
            "optional",
            "reads",
            "scans",
            "stores",
            "transactions",
            "ttl",
            "watch",
            "watching",
            "writes",
        )
    )
)

from slipstream.testing.contract.atomically import AtomicallyContract  # noqa: E402
from slipstream.testing.contract.base import BackendContract, ConnectAgain, NewConnection  # noqa: E402
from slipstream.testing.contract.cancel import CancelContract  # noqa: E402
from slipstream.testing.contract.commits import CommitContract  # noqa: E402
from slipstream.testing.contract.conditional import ConditionalWriteContract  # noqa: E402
from slipstream.testing.contract.cursors import CursorContract, CursorExpiryContract  # noqa: E402
from slipstream.testing.contract.fencing import FencingContract  # noqa: E402
from slipstream.testing.contract.guards import GuardContract  # noqa: E402
from slipstream.testing.contract.keys import KeyContract  # noqa: E402
from slipstream.testing.contract.lifecycle import LifecycleContract  # noqa: E402
from slipstream.testing.contract.limits import LimitContract  # noqa: E402
from slipstream.testing.contract.optional import OptionalContract  # noqa: E402
from slipstream.testing.contract.reads import AbsenceContract, ReadContract  # noqa: E402
from slipstream.testing.contract.scans import ScanContract  # noqa: E402
from slipstream.testing.contract.stores import StoresContract  # noqa: E402
from slipstream.testing.contract.transactions import TransactionContract, TransactionLimitContract  # noqa: E402
from slipstream.testing.contract.ttl import TtlContract  # noqa: E402
from slipstream.testing.contract.watch import WatchContract  # noqa: E402
from slipstream.testing.contract.watching import BatchContract, HydrationContract, WatchEndContract  # noqa: E402
from slipstream.testing.contract.writes import WriteContract  # noqa: E402

__all__ = [
    "AbsenceContract",
    "AtomicallyContract",
    "BackendContract",
    "BatchContract",
    "CancelContract",
    "CommitContract",
    "ConditionalWriteContract",
    "ConnectAgain",
    "CursorContract",
    "CursorExpiryContract",
    "FencingContract",
    "GuardContract",
    "HydrationContract",
    "KeyContract",
    "LifecycleContract",
    "LimitContract",
    "NewConnection",
    "OptionalContract",
    "ReadContract",
    "ScanContract",
    "StoreContract",
    "StoresContract",
    "TransactionContract",
    "TransactionLimitContract",
    "TtlContract",
    "WatchContract",
    "WatchEndContract",
    "WriteContract",
]


class StoreContract(
    KeyContract,
    ReadContract,
    AbsenceContract,
    WriteContract,
    ConditionalWriteContract,
    LimitContract,
    OptionalContract,
    TtlContract,
    TransactionContract,
    TransactionLimitContract,
    GuardContract,
    CommitContract,
    AtomicallyContract,
    FencingContract,
    ScanContract,
    WatchContract,
    HydrationContract,
    BatchContract,
    WatchEndContract,
    CursorContract,
    CursorExpiryContract,
    CancelContract,
    LifecycleContract,
    StoresContract,
):
    """All of it."""
