"""The work of the listeners in the last 15 minutes, read once for all pages and viewers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgbus.database.statements import dashboard
from pgbus.database.statements.dashboard import QUARTER, Interval
from pgbus.database.store import Store

BUCKETS = 60
"""Quarters of a minute that are kept."""

FRESH = 1.5
"""Seconds in which another page gets what was read for the one before."""

WHOLE = 120.0
"""Seconds after which all is read again: a long attempt is written into an interval that has passed."""

AGAIN = 4
"""Intervals that are read each time, because attempts end in them."""


@dataclass(frozen=True, slots=True)
class Chronicle:
    """Intervals of 15 s by listener; `instants` are their beginnings, oldest first. The current one is not over."""

    instants: tuple[datetime, ...]
    intervals: dict[str, dict[datetime, Interval]]

    def of(self, listener_name: str) -> list[Interval | None]:
        """The intervals of one listener; None where it did nothing."""
        found = self.intervals.get(listener_name, {})
        return [found.get(instant) for instant in self.instants]

    def done(self, instant: datetime) -> int:
        """Events that all listeners handled."""
        return sum(found[instant].done for found in self.intervals.values() if instant in found)

    def failed(self, instant: datetime) -> int:
        """Events at which attempts failed, of all listeners."""
        return sum(found[instant].failed for found in self.intervals.values() if instant in found)


class Chronicler:
    """Keeps the chronicle, and reads what is new in it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._known = Chronicle((), {})
        self._read_at = self._whole_at = float("-inf")

    async def read(self, store: Store) -> Chronicle:
        """The chronicle of now; of those who ask at the same time one reads."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now - self._read_at >= FRESH:
                whole = now - self._whole_at >= WHOLE
                since = None if whole else self._known.instants[-AGAIN]
                current, found = await dashboard.read_intervals(store, since=since)
                self._known = _merge(self._known, since, current, found)
                self._read_at = now
                self._whole_at = now if whole else self._whole_at
            return self._known


def _merge(known: Chronicle, since: datetime | None, current: datetime, found: Sequence[Interval]) -> Chronicle:
    """Join the intervals known of before `since` with those found since then, without those that are too old."""
    instants = tuple(current - timedelta(seconds=QUARTER) * step for step in range(BUCKETS, 0, -1))
    intervals: dict[str, dict[datetime, Interval]] = {}
    kept = (one for of_one in known.intervals.values() for one in of_one.values()) if since is not None else ()
    for one in (*(one for one in kept if since is not None and one.beginning < since), *found):
        if one.beginning >= instants[0]:
            intervals.setdefault(one.listener_name, {})[one.beginning] = one
    return Chronicle(instants, intervals)
