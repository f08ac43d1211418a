"""The clock by which a worker measures its leases and attempts, in seconds: it never goes back."""

from __future__ import annotations

import time

# One that goes on while the machine sleeps, as the database's does: Linux's has a name of its own, macOS's has not.
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """The instant, to be compared with others of this clock only."""
    return time.clock_gettime(_CLOCK)
