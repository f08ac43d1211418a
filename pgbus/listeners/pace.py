"""How much to claim: enough to keep the slots busy for about a second, and no more than another worker would miss.

Pure arithmetic on what was measured.
"""

from __future__ import annotations

# Events of one claim: all of their payloads are in memory until they are handled.
MAX_CLAIM = 2_000
# Seconds of work in one claimed piece: its events are settled together, so a slow event keeps only few others waiting.
PIECE_SECONDS = 0.1
# The part of its target that a worker claims when other workers could handle the rest at once.
SHARED_PART = 0.2
# The part of the newest measurement in a moving mean.
_WEIGHT = 0.3
# Seconds an event is taken for when the first one was seen to be quicker: careful at first, quick to learn.
_FIRST_GUESS = 0.05


class Pace:
    """Learns how long events take; `batch_size` set means that its user knows better."""

    def __init__(self, *, concurrency: int, target: float, batch_size: int | None) -> None:
        self._concurrency = concurrency
        self._target = target
        self._batch_size = batch_size
        self._seconds = _FIRST_GUESS
        self._seen = False
        self.shared = False
        """Whether other workers live, which may be idle."""
        # Events per waiting row, a moving mean: how many rows a claim has to read for the events that it wants.
        self._row_events = 1.0

    @property
    def reserve(self) -> int:
        """Return the number of events to claim beyond the running ones: `target` seconds of work for all slots.

        None before one was seen: another worker may be idle, and they may be slow. Less when there are other workers.
        """
        if self._batch_size is not None:
            return self._batch_size
        return self._events(self._target * (SHARED_PART if self.shared else 1.0)) if self._seen else 0

    @property
    def batch(self) -> int:
        """Events that a handler of batches takes in one call."""
        if self._batch_size is not None:
            return self._batch_size
        return self._events(self._target)

    def _events(self, seconds: float) -> int:
        return min(MAX_CLAIM, int(seconds * self._concurrency / self._seconds))

    def wanted(self, *, free_slots: int, waiting: int) -> int:
        """Events to claim now, given the free slots and the claimed events that wait for one; 0: none yet."""
        reserve = self.reserve
        # The free slots take what waits before they take anything new.
        taken = min(free_slots, waiting)
        free_slots, waiting = free_slots - taken, waiting - taken
        if waiting > reserve // 2:
            return 0
        most = MAX_CLAIM if self._batch_size is None else self._batch_size
        return max(0, min(most, free_slots + reserve - waiting))

    @property
    def piece(self) -> int:
        """Events of one claimed piece."""
        if self._batch_size is not None:
            return self._batch_size
        return max(1, min(MAX_CLAIM, int(PIECE_SECONDS / self._seconds)))

    def rows(self, events: int) -> int:
        """Return the number of waiting runs to read for this many events."""
        return max(1, min(events, int(events / self._row_events) + 2))

    def saw_claim(self, *, events: int, rows: int) -> None:
        """Record the numbers of events and of rows of a claim."""
        self._row_events += _WEIGHT * (max(1.0, events / max(1, rows)) - self._row_events)

    def saw_work(self, *, events: int, seconds: float) -> None:
        """Record the number of handled events, and their seconds of slots' time."""
        self._seen = True
        mean = max(1e-6, seconds / max(1, events))
        # Slower at once, quicker bit by bit: a claim that is too large hurts more than one that is too small.
        self._seconds = mean if mean > self._seconds else self._seconds + _WEIGHT * (mean - self._seconds)
