"""One suspect at a time in a process: an event whose workers died twice may be what kills them.

Two in the same hands would share the blame for a third death; and what shares it often enough is a dead letter.
"""

from __future__ import annotations

from collections.abc import Callable


class Quarantine:
    """Room for one suspect. Enter before claiming, and leave when no suspect came or when it has been let go."""

    def __init__(self) -> None:
        self._taken = False
        self._refused: dict[Callable[[], bool], None] = {}

    def enter(self, when_free: Callable[[], bool]) -> bool:
        """Whether a suspect may be claimed now. If not, `when_free` is called at most once when it may, in turn; it
        returns whether its owner is about to enter.
        """
        if self._taken:
            self._refused[when_free] = None
            return False
        self._taken = True
        # Who was refused before may enter by a claim of its own. If it is called later, when it has found that there is
        # no suspect for it, it does not enter, and those after it wait for a turn that it does not pass on.
        self._refused.pop(when_free, None)
        return True

    def leave(self) -> None:
        """Make room for the next suspect."""
        self._taken = False
        # One at a time: each of them claims, and all but one would be refused again. As many listeners that start would
        # claim as often as there are pairs of them. Who is not about to enter tries again with its next claim.
        while self._refused:
            when_free = next(iter(self._refused))
            del self._refused[when_free]
            if when_free():
                return
