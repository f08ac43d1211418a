"""The rows of history for events that are done: one for each run of them.

A run is of one claim, lies in one block of 64 positions, as the history's index asks, and its events began within a
millisecond, so that one instant serves them all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

from pgbus.database.statements.deliveries import Claim

# The bits of a position that say where in its block of 64 it is.
LAST_OF_BLOCK = 63
# Seconds between the first event of a run and another one of it, less than that.
STARTED_WITHIN = 0.001


class DoneRuns:
    """Rows of runs, and two arrays for those of several events: `since` and `upto` say which part is a run's.

    They count from 1, as the database does.
    """

    __slots__ = ("_durations", "_offsets", "_rows")

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._offsets: list[int] = []
        self._durations: list[float] = []

    def add(
        self, claim: Claim, positions: Sequence[int], *, started: Sequence[float], durations: Sequence[float]
    ) -> None:
        """Add events of a claim that are done: their positions, ascending, when each began and how long it took."""
        start, size = 0, len(positions)
        while start < size:
            end = start + 1
            if end < size:
                end = bisect_left(positions, (positions[start] | LAST_OF_BLOCK) + 1, end)
                end = _end_of_run(started, start, end)
            self._add_run(claim, positions[start:end], started[start], durations[start:end])
            start = end

    def values(self) -> dict[str, list[Any]]:
        """The columns, as the statements that settle name them."""
        columns: Iterable[list[Any]] = (
            map(list, zip(*self._rows, strict=True)) if self._rows else ([] for _ in _COLUMNS)
        )
        named = {f"done_{name}": column for name, column in zip(_COLUMNS, columns, strict=True)}
        return {**named, "run_offsets": self._offsets, "run_durations": self._durations}

    def _add_run(self, claim: Claim, positions: Sequence[int], began: float, durations: Sequence[float]) -> None:
        first, size = positions[0], len(positions)
        if size == 1:
            self._rows.append((claim.id, first, 0, claim.attempt, began, durations[0], None, None))
            return
        span = positions[-1] - first
        since = len(self._offsets) + 1
        duration = durations[0] if durations.count(durations[0]) == size else None
        self._rows.append((claim.id, first, span, claim.attempt, began, duration, since, since + size - 1))
        self._offsets += range(size) if span == size - 1 else [position - first for position in positions]
        self._durations += durations


def _end_of_run(started: Sequence[float], start: int, end: int) -> int:
    """The index of the first of these events that began a millisecond or more from that at `start`; or else `end`."""
    began = started[start]
    end = bisect_left(started, began + STARTED_WITHIN, start + 1, end)
    # What is tried alone after its batch has failed may begin out of order, and then a bisection means little.
    part = started[start:end]
    if max(part) - began < STARTED_WITHIN and began - min(part) < STARTED_WITHIN:
        return end
    return start + next(index for index, other in enumerate(part) if abs(other - began) >= STARTED_WITHIN)


_COLUMNS = ("deliveries", "firsts", "spans", "attempts", "started", "durations", "since", "upto")
