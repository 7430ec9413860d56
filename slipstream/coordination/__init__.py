"""L2: who may do it now, and who is there. Sees the interfaces only: the same on every backend.

    Lease                    one holder of a name, kept alive, with a fencing token
    LeaderElection, Lock     a lease as a scope that is cancelled when it is lost
    Semaphore                up to n holders
    Membership               who is there, live
    Barrier, Counter         waiting for each other; counting together

What is pure: `records`. What does the work: `presence` (a key that lives as long as its owner), `keepalive` (the one
task that renews them), `live` (who is there), `queue` and `turns` (waiting in turn), `scope`, `guarded`,
`patience` (requests that are given up and made again).
docs/coordination.md says what a lease promises and what it does not.
"""

from slipstream.coordination.barrier import Barrier
from slipstream.coordination.counter import Counter
from slipstream.coordination.election import Leader, LeaderElection, Term
from slipstream.coordination.lease import Lease
from slipstream.coordination.lock import Lock
from slipstream.coordination.membership import MemberChange, MemberEvent, Membership
from slipstream.coordination.presence import Lost
from slipstream.coordination.records import FencingToken
from slipstream.coordination.semaphore import Permit, Semaphore

__all__ = [
    "Barrier",
    "Counter",
    "FencingToken",
    "Leader",
    "LeaderElection",
    "Lease",
    "Lock",
    "Lost",
    "MemberChange",
    "MemberEvent",
    "Membership",
    "Permit",
    "Semaphore",
    "Term",
]
