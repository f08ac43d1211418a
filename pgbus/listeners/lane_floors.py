"""Where the scans of an ordered listener's lanes begin: below lie only dead rows, and what has come back to a lane."""

from __future__ import annotations

from collections.abc import Mapping


class LaneFloors:
    """A position for each lane. A claim that begins there, and looks for what has come back, misses no row.

    The sequencer adds to the lanes in the order of the log, one statement after the other. So who sees a row at a
    position sees every row that the sequencer has written below it: the next row of a lane in which there is none comes
    above. A row is seen as waiting until the claim that takes it has committed; and what comes back is a new row, and
    due.
    """

    def __init__(self, lanes: int) -> None:
        self.positions = [0] * lanes

    def lower(self) -> None:
        """Begin at the bottom again: what has committed may have been lost, as with a server that crashed."""
        self.positions = [0] * len(self.positions)

    def saw(self, tops: Mapping[int, int]) -> None:
        """Raise the floors by what a claim saw: the first row of each lane in which it found one."""
        last = max(tops.values(), default=0)
        self.positions = [max(floor, tops.get(lane, last)) for lane, floor in enumerate(self.positions)]
