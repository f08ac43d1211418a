"""The lanes of an ordered listener, as a worker knows them: in which there may be something, and where to look."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence


class Lanes:
    """A floor for each lane, and the lanes in which there may be rows. A listener without order has none.

    A claim that begins at the floors, and looks for what has come back, misses no row. The sequencer adds to the lanes
    in the order of the log, one statement after the other. So who sees a row at a position sees every row that the
    sequencer has written below it: the next row of a lane in which there is none comes above. A row is seen as waiting
    until the claim that takes it has committed; and what comes back is a new row, and due.

    A lane in which a claim has seen nothing, or taken all, has nothing for us until someone says so. No lane is named
    where it may be any.
    """

    def __init__(self, lanes: int) -> None:
        self.floors = [0] * lanes
        self.are_unknown = lanes > 0
        """Whether there may be rows in any lane, or in none, as from before the listener had an order."""
        self._waiting: set[int] = set()

    def may_have(self, lane: int | None) -> bool:
        """Whether there may be rows in this lane that nobody here has claimed."""
        return self.are_unknown or lane in self._waiting

    def expect(self, lanes: Iterable[int] = ()) -> None:
        """There may be rows in these lanes; in any, if none is named, or one that there is not."""
        named = set(lanes)
        if named and named.issubset(range(len(self.floors))):
            self._waiting |= named
        elif self.floors:
            self.are_unknown = True

    def lower(self) -> None:
        """Begin at the bottom again: what has committed may have been lost, as with a server that crashed."""
        self.floors = [0] * len(self.floors)
        self.expect()

    def take(self, *, held: Collection[int | None]) -> Sequence[int] | None:
        """The lanes to look into now, which count as looked into; None: everywhere.

        They are those that may have rows, but for the ones that are held by us.
        """
        if self.are_unknown:
            self.are_unknown = False
            self._waiting.clear()
            return None
        lanes = self._waiting.difference(held)
        self._waiting -= lanes
        return sorted(lanes)

    def empty(self, *, held: Collection[int | None]) -> dict[int, int]:
        """The lanes in which there is nothing, as far as we know, not even what we hold; each with its floor."""
        if self.are_unknown:
            return {}
        occupied = self._waiting.union(held)
        return {lane: floor for lane, floor in enumerate(self.floors) if lane not in occupied}

    def saw(self, looked: Collection[int], tops: Mapping[int, int], left: Iterable[int] = ()) -> None:
        """Raise the floors of the lanes that a claim has looked into, by the first row of each in which it saw one.

        In the lanes `left` there may be rows that it has not taken.
        """
        last = max(tops.values(), default=0)
        for lane in looked:
            self.floors[lane] = max(self.floors[lane], tops.get(lane, last))
        self._waiting.update(left)
