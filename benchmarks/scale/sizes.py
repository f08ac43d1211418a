"""The sizes of each curve: a short form that runs in minutes, a full one, and whatever the environment names.

`PGBUS_SCALE=full` chooses the full form; `PGBUS_SCALE_BACKLOG=10000,100000` the sizes of one curve.
"""

from __future__ import annotations

import os

SHORT = {
    "publishers": [1, 4, 16, 64],
    "workers": [1, 2, 4, 8],
    "listeners": [1, 10, 100, 1_000],
    "backlog": [10_000, 100_000, 500_000],
    "payload": [100, 1_000, 10_000, 100_000, 1_000_000],
    "topics": [1, 100, 10_000],
    "log": [10_000, 100_000, 1_000_000],
}
FULL = {
    "publishers": [1, 2, 4, 8, 16, 32, 64],
    "workers": [1, 2, 4, 8],
    "listeners": [1, 10, 100, 1_000, 5_000],
    "backlog": [10_000, 100_000, 1_000_000, 10_000_000],
    "payload": [100, 1_000, 10_000, 100_000, 1_000_000],
    "topics": [1, 10, 100, 1_000, 10_000],
    "log": [100_000, 1_000_000, 10_000_000],
}


def sizes(curve: str) -> list[int]:
    if given := os.environ.get(f"PGBUS_SCALE_{curve.upper()}"):
        return sorted(int(one) for one in given.split(","))
    return (FULL if os.environ.get("PGBUS_SCALE") == "full" else SHORT)[curve]


def events(count: int) -> int:
    """Events of a run, of which there are fewer when `PGBUS_SCALE_PART` is below 1, for a first look."""
    return max(20, int(count * float(os.environ.get("PGBUS_SCALE_PART", "1"))))
