"""When the retries of a listener's events are due that this worker has settled; others find them by their poll."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable


class Retries:
    """Calls `when_due` whenever the first of the delays is over."""

    def __init__(self, *, when_due: Callable[[], None]) -> None:
        self._when_due = when_due
        # A heap, by the loop's clock. Only a hint: what is due the claim asks of the database's.
        self._due: list[float] = []
        self._timer: asyncio.TimerHandle | None = None
        # Set by `stop`, for good: what is settled while the runner drains must not start the timer again.
        self._is_stopped = False

    def add(self, delays: Iterable[float]) -> None:
        """Retries that are due after these numbers of seconds."""
        if self._is_stopped:
            return
        at = asyncio.get_running_loop().time()
        for delay in delays:
            heapq.heappush(self._due, at + delay)
        self._set_timer()

    def stop(self) -> None:
        """Cancel the timer of the next retry."""
        self._is_stopped = True
        if self._timer:
            self._timer.cancel()

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._due:
            self._timer = asyncio.get_running_loop().call_at(self._due[0], self._end)

    def _end(self) -> None:
        at = asyncio.get_running_loop().time()
        while self._due and self._due[0] <= at:
            heapq.heappop(self._due)
        self._set_timer()
        self._when_due()
