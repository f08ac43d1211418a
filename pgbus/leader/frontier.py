"""How far the leader has read the outbox: the highest id that it knows of, and the holes below it.

Ids are handed out in order, but transactions commit in any. So below an id that the leader has seen there are others
that it has not: a hole is the id of a transaction that is still open, or that was rolled back.

- Each transaction takes its xid before its outbox ids (the default of the column before theirs does that). So the owner
  of a hole that a look notes has an xid below any that is taken after that look's read: the look's *fence*.
- The snapshot of the next read lists the transactions that are in progress. Those below the fence may own the hole:
  they are its *possible owners*. With none, it is nobody's and is dropped.
- From then on the hole is looked up only when one of its possible owners has ended: an open transaction costs nothing.

The fence must be an xid that the leader takes, and ends with its own commit. A snapshot's `xmax` would not do: it is
one more than the highest xid that has *ended*, and a transaction that still runs may well lie above that. What is found
in holes must be read in the same snapshot as what is new: see `read_outbox_and_holes`.

All of it lives in memory: a leader begins with everything below the last id as one hole, and a restore cannot make it
wrong.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

NOBODY: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions had ended when something was read: those that are not `running`, and lie below `xmax`."""

    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """From the text of a `pg_snapshot`: xmin:xmax:xid,xid,..."""
        _, xmax, running = text.split(":")
        return cls(int(xmax), frozenset(map(int, running.split(","))) if running else NOBODY)


@dataclass(frozen=True, slots=True)
class Holes:
    """Ids with the same possible owners, `owners`; None: all transactions with an xid below the fence.

    `is_quiet`: all owners have been running for two looks, so that they are likely to run for longer. `is_pending`: to
    be looked up, whatever the owners do, as a look has left rows behind.
    """

    ids: tuple[range, ...]
    owners: frozenset[int] | None
    is_quiet: bool = False
    is_pending: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """The rows that a look has read, and its conclusions.

    `ids` are those of all rows that it read, in their order, `kept` those among them that must be read again, and
    `stop` the id above which it left everything, if it did.
    """

    ids: Sequence[int]
    kept: Collection[int] = ()
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Frontier:
    """Ids above `high` were never seen. `is_starting` until the rows of before this leader's time are read."""

    high: int = 0
    holes: tuple[Holes, ...] = ()
    fence: int = 0
    is_starting: bool = False

    @classmethod
    def begin(cls, *, last_id: int, fence: int) -> Frontier:
        """For a new leader; `fence` was taken after the last id was read."""
        all_below = (Holes((range(1, last_id + 1),), None, is_pending=True),) if last_id else ()
        return cls(high=last_id, holes=all_below, fence=fence, is_starting=bool(last_id))

    @property
    def needs_fence(self) -> bool:
        """Whether there are holes whose owners are not known yet: the next fence is theirs."""
        return any(group.owners is None for group in self.holes)

    def questions(self, *, quiet_ones: bool = False) -> list[range]:
        """The holes to look up with the next read, in their order; those that are quiet only if asked for."""
        asked = [hole for group in self.holes if quiet_ones or not group.is_quiet for hole in group.ids]
        return sorted(asked, key=lambda hole: hole.start)

    def is_disturbed(self, snapshot: Snapshot) -> bool:
        """Whether a possible owner of quiet holes has ended in this snapshot: then it is worth nothing without them."""
        return any(group.is_quiet and not (group.owners or NOBODY) <= snapshot.running for group in self.holes)

    def after(self, snapshot: Snapshot, seen: Seen, *, reach: int = 0) -> Frontier:
        """The frontier after a look. Take a new fence for it if it `needs_fence`.

        Ids up to `reach` were handed out before that fence: those that the look has not seen are holes, too.
        """
        kept = sorted(seen.kept)
        holes = [left for group in self.holes for left in self._review(group, snapshot, seen)]
        if kept:
            holes.append(Holes(_ranges(kept), NOBODY, is_pending=True))
        last = seen.stop if seen.stop is not None else max([reach, *seen.ids[-1:]])
        high = max(self.high, last)
        # Stepped over by this look: their owners are found among the transactions below the fence that is taken next.
        new = _without([range(self.high + 1, high + 1)], _from(seen.ids, self.high + 1))
        if new:
            holes.append(Holes(tuple(new), None))
        return replace(self, high=high, holes=_merged(holes), is_starting=self.is_starting and seen.stop is not None)

    def _review(self, group: Holes, snapshot: Snapshot, seen: Seen) -> Iterable[Holes]:
        """Return the holes that are still open."""
        if group.owners is None:
            owners = frozenset(xid for xid in snapshot.running if xid < self.fence)
        else:
            owners = group.owners & snapshot.running
        if group.is_quiet and owners == group.owners:
            # Nothing was asked about it (see `questions`), and nobody has ended who could have filled it.
            yield group
            return
        # Rows above the stop were left, some of them perhaps in these holes.
        ids, pending = _split(_without(group.ids, seen.ids), seen.stop)
        # Without possible owners it is dropped: its owner had ended in this snapshot, in which the read asked for its
        # rows, so that what it has committed was found, and what it has not never comes.
        if ids and owners:
            is_quiet = owners == group.owners and not group.is_pending
            yield Holes(tuple(ids), owners, is_quiet=is_quiet)
        if pending:
            yield Holes(tuple(pending), owners, is_pending=True)


def _merged(holes: Iterable[Holes]) -> tuple[Holes, ...]:
    together: dict[tuple[frozenset[int] | None, bool, bool], tuple[range, ...]] = {}
    for group in holes:
        key = (group.owners, group.is_quiet, group.is_pending)
        together[key] = together.get(key, ()) + group.ids
    return tuple(Holes(ids, owners, is_quiet, is_pending) for (owners, is_quiet, is_pending), ids in together.items())


def _without(holes: Iterable[range], ids: Sequence[int]) -> list[range]:
    """The holes without these ids, which are in order."""
    left = []
    for hole in holes:
        low = hole.start
        for id_ in _from(ids, low):
            if id_ >= hole.stop:
                break
            if id_ > low:
                left.append(range(low, id_))
            low = id_ + 1
        if low < hole.stop:
            left.append(range(low, hole.stop))
    return left


def _from(ids: Sequence[int], low: int) -> Sequence[int]:
    return ids[bisect_left(ids, low) :]


def _split(holes: list[range], stop: int | None) -> tuple[list[range], list[range]]:
    """The parts up to `stop`, and above it."""
    if stop is None:
        return holes, []
    below, above = [], []
    for hole in holes:
        if hole.start <= stop:
            below.append(range(hole.start, min(hole.stop, stop + 1)))
        if hole.stop > stop + 1:
            above.append(range(max(hole.start, stop + 1), hole.stop))
    return below, above


def _ranges(ids: Sequence[int]) -> tuple[range, ...]:
    """Ids in order as ranges."""
    found: list[range] = []
    for id_ in ids:
        if found and found[-1].stop == id_:
            found[-1] = range(found[-1].start, id_ + 1)
        else:
            found.append(range(id_, id_ + 1))
    return tuple(found)
