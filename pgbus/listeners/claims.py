"""The claims that a listener of this worker has in hand.

They are in the air until each of their events has an ending, then landed, and let go of once they are settled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from uuid import UUID

from pgbus.listeners.listener import Listener
from pgbus.listeners.pace import Pace
from pgbus.listeners.quarantine import Quarantine
from pgbus.listeners.settlement import Ending, Flight
from pgbus.telemetry import ClaimsLost, Telemetry

logger = logging.getLogger("pgbus")


class Hand:
    """Shared by what claims, what handles and what settles. `wake` is called when there may be more to claim."""

    def __init__(
        self,
        listener: Listener,
        *,
        pace: Pace,
        telemetry: Telemetry,
        quarantine: Quarantine,
        wake: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._pace = pace
        self._telemetry = telemetry
        self._quarantine = quarantine
        self._wake = wake
        self._flights: dict[int, Flight] = {}
        self._landed: list[Flight] = []
        self._refused: set[int] = set()
        self.landing = asyncio.Event()
        """Set when a claim has landed."""
        self.changed = asyncio.Event()
        """Set when claims were let go of."""

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def flights(self) -> list[Flight]:
        """All of them."""
        return list(self._flights.values())

    @property
    def tokens(self) -> set[UUID]:
        """Their claim tokens."""
        return {flight.claim.token for flight in self._flights.values()}

    @property
    def refused(self) -> int:
        """How many of them the database refuses to settle."""
        return len(self._refused)

    def take(self, flight: Flight) -> None:
        """A new claim."""
        self._flights[flight.claim.id] = flight

    def end(self, flight: Flight, index: int, ending: Ending, *, started: float, duration: float) -> None:
        """Note what came of an event, unless it has ended otherwise by now. Times are those of the engine's clock."""
        if flight.endings[index] is None and flight.end(index, ending, started=started, duration=duration):
            self.land(flight)

    def land(self, flight: Flight) -> None:
        """Every event of it has its ending: it can be settled."""
        self._landed.append(flight)
        self.note_work(flight)
        self.landing.set()

    def note_work(self, flight: Flight) -> None:
        """Learn from how long its events took."""
        self._pace.saw_work(events=len(flight.durations), seconds=sum(flight.durations))

    def take_landed(self) -> list[Flight]:
        """What has landed since the last time."""
        landed, self._landed = self._landed, []
        return landed

    def put_back(self, flights: Iterable[Flight]) -> None:
        """They could not be settled: they count as landed again, before what has landed meanwhile."""
        self._landed = [*flights, *self._landed]
        self.landing.set()

    def refuse(self, flight: Flight) -> None:
        """The database does not let it be settled, for now: it stays in hand."""
        flight.refusals += 1
        self._refused.add(flight.claim.id)
        self.changed.set()

    def let_go(self, flight: Flight) -> None:
        """It is settled, or lost."""
        known = self._flights.pop(flight.claim.id, None)
        if known and flight.claim.suspect:
            self._quarantine.leave()
            self._wake()  # the next suspect
        if flight.claim.id in self._refused:
            self._refused.discard(flight.claim.id)
            self._wake()
        self.changed.set()

    def lose(self, flight: Flight) -> None:
        """Let go of a claim that is no longer ours."""
        self.let_go(flight)
        self._telemetry.emit(ClaimsLost(self._listener.name, 1))
        logger.warning("%s lost the claim of event %s", self._listener.name, flight.claim.events[0].position)
