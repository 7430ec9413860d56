"""The clock that leases are measured by. Every lease of the package asks `now`, nothing asks the time of day."""

from __future__ import annotations

import sys
import time

if sys.platform == "linux":

    def now() -> float:
        """Seconds; runs on while the process is stopped and while the machine sleeps, and is never set."""
        # Linux halts CLOCK_MONOTONIC in suspend: a lease would wake up as valid as it fell asleep.
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:

    def now() -> float:
        """Seconds; runs on while the process is stopped, and is never set."""
        return time.monotonic()
