"""The rows of history for events that are done: one for each run of them.

A run is of one claim, lies in one block of 64 positions, as the history's index asks, and its events began within a
millisecond, so that one instant serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgbus.database.statements.deliveries import Claim

# A block is so many positions: two to this power.
BLOCK_BITS = 6
# Seconds between the first event of a run and another one of it, less than that.
STARTED_WITHIN = 0.001


class DoneRuns:
    """Columns of runs, and two arrays for those of several events: `since` and `upto` say which part is a run's.

    They count from 1, as the database does.
    """

    __slots__ = ("_columns", "_durations", "_offsets")

    def __init__(self) -> None:
        self._columns: tuple[list[Any], ...] = tuple([] for _ in _COLUMNS)
        self._offsets: list[int] = []
        self._durations: list[float] = []

    def add(self, claim: Claim, done: Sequence[int], *, started: Sequence[float], durations: Sequence[float]) -> None:
        """Add the events of a claim with these ascending indexes; the times are those of all its events."""
        if not done:
            return
        events = claim.events
        run: list[int] = []
        block, base = -1, 0.0
        for index in done:
            block_of_event = (events[index].position or 0) >> BLOCK_BITS
            begun = started[index]
            if block_of_event != block or not -STARTED_WITHIN < begun - base < STARTED_WITHIN:
                if run:
                    self._add_run(claim, run, base, durations)
                run, block, base = [], block_of_event, begun
            run.append(index)
        self._add_run(claim, run, base, durations)

    def values(self) -> dict[str, list[Any]]:
        """The columns, as the statements that settle name them."""
        columns = {f"done_{name}": column for name, column in zip(_COLUMNS, self._columns, strict=True)}
        return {**columns, "run_offsets": self._offsets, "run_durations": self._durations}

    def _add_run(self, claim: Claim, run: Sequence[int], began: float, durations: Sequence[float]) -> None:
        first = claim.events[run[0]].position or 0
        duration: float | None = durations[run[0]]
        since = upto = None
        span = 0
        if len(run) > 1:
            offsets = [(claim.events[index].position or 0) - first for index in run]
            span = offsets[-1]
            since = len(self._offsets) + 1
            upto = since + len(run) - 1
            self._offsets += offsets
            self._durations += [durations[index] for index in run]
            if any(durations[index] != duration for index in run):
                duration = None
        row = (claim.id, first, span, claim.attempt, began, duration, since, upto)
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)


_COLUMNS = ("deliveries", "firsts", "spans", "attempts", "started", "durations", "since", "upto")
