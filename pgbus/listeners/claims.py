"""The claims that a listener of this worker holds, from the claim until they are settled or lost.

A claim whose events have all ended waits to be settled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from uuid import UUID

from pgbus.listeners.lanes import Lanes
from pgbus.listeners.pace import Pace
from pgbus.listeners.quarantine import Quarantine
from pgbus.listeners.running import RunningListener
from pgbus.listeners.settlement import Ending, HeldClaim
from pgbus.telemetry import ClaimsLost

logger = logging.getLogger("pgbus")


class ClaimsInFlight:
    """Shared by what claims, what handles and what settles. `wake` is called when there may be more to claim."""

    def __init__(
        self,
        running: RunningListener,
        *,
        lanes: Lanes,
        pace: Pace,
        quarantine: Quarantine,
        wake: Callable[[], None],
    ) -> None:
        self._running = running
        self._lanes = lanes
        self._pace = pace
        self._quarantine = quarantine
        self._wake = wake
        # By the ids of their deliveries. A claim stays in here, and its lease is extended, until it is settled or lost.
        self._held_claims: dict[int, HeldClaim] = {}
        # Of these, handed from the slots to the settler. What a failed statement could not settle comes back to its
        # front.
        self._ended: list[HeldClaim] = []
        # Claims that the database refuses to settle, by delivery. Only this process knows their outcomes, so they stay
        # in `_held_claims`, and their leases are extended.
        self._refused: set[int] = set()
        self.some_ended = asyncio.Event()
        """Set when all events of a claim have ended."""
        self.lanes_are_needed = asyncio.Event()
        """Set when more may wait in the lane of a claim that has ended: it cannot be claimed until that is settled."""
        self.changed = asyncio.Event()
        """Set when claims were removed or refused."""

    def __len__(self) -> int:
        return len(self._held_claims)

    @property
    def held_claims(self) -> list[HeldClaim]:
        """The claims that are not settled yet."""
        return list(self._held_claims.values())

    @property
    def tokens(self) -> set[UUID]:
        """The tokens of these claims."""
        return {held.claim.token for held in self._held_claims.values()}

    @property
    def are_handled(self) -> bool:
        """Whether all events of the claims have ended, so that there is nothing left but to settle them."""
        return not any(held.left for held in self._held_claims.values())

    @property
    def lanes(self) -> set[int | None]:
        """The lanes of the claims."""
        return {held.claim.lane for held in self._held_claims.values()}

    @property
    def refused(self) -> int:
        """How many of them the database refuses to settle."""
        return len(self._refused)

    def add(self, held: HeldClaim) -> None:
        """Add a claim that was just made."""
        self._held_claims[held.claim.id] = held

    def end_event(self, held: HeldClaim, index: int, ending: Ending, *, started: float, duration: float) -> None:
        """Note what came of an event, unless it has ended otherwise by now. Times are those of the engine's clock."""
        # The first ending counts. A handler that was left ends late, when a stop has given its event back; and what is
        # settled by then must not change.
        if held.endings[index] is None and held.end(index, ending, started=started, duration=duration):
            self.mark_ended(held)

    def mark_ended(self, held: HeldClaim) -> None:
        """Hand over a claim to the settler: each of its events has an ending."""
        self._ended.append(held)
        self.note_work(held)
        self.some_ended.set()
        if self._lanes.may_have(held.claim.lane):
            self.lanes_are_needed.set()

    def note_work(self, held: HeldClaim) -> None:
        """Let the pace learn from the durations of its events."""
        self._pace.saw_work(events=len(held.durations), seconds=sum(held.durations))

    def ask_for_lanes(self) -> None:
        """Have claims settled soon in whose lanes there may be more by now."""
        if any(self._lanes.may_have(held.claim.lane) for held in self._ended):
            self.lanes_are_needed.set()

    def take_ended(self) -> list[HeldClaim]:
        """The claims that have ended since the last time."""
        self.lanes_are_needed.clear()
        ended, self._ended = self._ended, []
        return ended

    def put_back(self, held_claims: Iterable[HeldClaim]) -> None:
        """Put back claims that could not be settled, before those that have ended meanwhile."""
        self._ended = [*held_claims, *self._ended]
        self.some_ended.set()

    def refuse(self, held: HeldClaim) -> None:
        """Keep a claim in flight whose outcome the database refuses for now."""
        held.refusals += 1
        self._refused.add(held.claim.id)
        self.changed.set()

    def remove(self, held: HeldClaim) -> None:
        """Remove a claim that is settled or lost."""
        known = self._held_claims.pop(held.claim.id, None)
        # `known`: it is removed twice when a transaction commits after `break_off` has let go of all claims. By then
        # the place in the quarantine may be another listener's, and must not be given away.
        if known and held.claim.suspect:
            self._quarantine.leave()
            self._wake()  # the next suspect
        if held.claim.id in self._refused:
            self._refused.discard(held.claim.id)
            self._wake()
        self.changed.set()

    def lose(self, held: HeldClaim) -> None:
        """Let go of a claim that is no longer ours."""
        self.remove(held)
        self._running.telemetry.emit(ClaimsLost(self._running.name, 1))
        logger.warning("%s lost the claim of event %s", self._running.name, held.claim.events[0].position)
