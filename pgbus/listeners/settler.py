"""Settling: whatever has landed since the last time, in one statement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from pgbus.database.faults import Fault, classify, is_link_error, is_passing
from pgbus.database.statements import sequencer
from pgbus.database.store import Store
from pgbus.database.tries import LINK_PAUSE, LINK_PAUSE_LIMIT, Tries
from pgbus.listeners.claims import Hand
from pgbus.listeners.listener import Listener
from pgbus.listeners.settlement import Flight, Left, Tally, settlement
from pgbus.telemetry import ClaimsLost, Telemetry

logger = logging.getLogger("pgbus")

# Seconds between tries to settle what the database refuses, at most.
REFUSED_PAUSE_LIMIT = 60.0


class Settler:
    """Settles one listener's claims; `was_settled` gets those that were still ours, a tally, and retries' delays."""

    def __init__(
        self,
        listener: Listener,
        *,
        listener_id: int,
        worker: str,
        store: Store,
        hand: Hand,
        telemetry: Telemetry,
        was_settled: Callable[[Sequence[Flight], Tally, Sequence[float]], None],
    ) -> None:
        self._listener = listener
        self._listener_id = listener_id
        self._worker = worker
        self._store = store
        self._hand = hand
        self._telemetry = telemetry
        self._was_settled = was_settled

    async def run(self) -> None:
        """Settle until cancelled."""
        tries = Tries(f"settle events of {self._listener.name}")
        while True:
            flights = self._hand.take_landed()
            if not flights:
                self._hand.landing.clear()
                await self._hand.landing.wait()
                continue
            try:
                await self._settle(flights)
                tries.worked()
            except Exception as error:
                if not is_link_error(error):
                    await self._settle_one_by_one(flights)
                    continue
                self._hand.put_back(flights)
                await asyncio.sleep(tries.pause_after(error))

    async def finish(self) -> None:
        """Wait until everything in hand is settled, but not for ever."""
        try:
            async with asyncio.timeout(LINK_PAUSE_LIMIT):
                while len(self._hand) > self._hand.refused:
                    self._hand.changed.clear()
                    await self._hand.changed.wait()
        except TimeoutError:
            logger.warning("%s: the last claims could not be settled; they are delivered again", self._listener.name)

    async def _settle(self, flights: Sequence[Flight]) -> None:
        values, tally, delays = settlement(
            flights, listener_id=self._listener_id, worker=self._worker, blocking=self._listener.blocks
        )
        ours = {row["id"] for row in await self._store.fetch("settle_deliveries", **values)}
        for flight in flights:
            self._hand.let_go(flight)
        if lost := len(flights) - len(ours):
            self._telemetry.emit(ClaimsLost(self._listener.name, lost))
            logger.warning("%s lost %d claims before it settled them", self._listener.name, lost)
        self._was_settled([flight for flight in flights if flight.claim.id in ours], tally, delays)
        if any(isinstance(ending, Left) for flight in flights for ending in flight.endings):
            await self._tell_others()

    async def _tell_others(self) -> None:
        """Wake those to whom an event was left. They would find it by their poll, so this need not be tried again."""
        try:
            await sequencer.notify_workers(self._store, str(self._listener_id))
        except Exception as error:
            if not is_passing(error):
                raise

    async def _settle_one_by_one(self, flights: Sequence[Flight]) -> None:
        """One claim's outcome that the database refuses must not keep the others from being settled."""
        refused: list[Flight] = []
        reason: Exception | None = None
        for flight in flights:
            try:
                await self._settle_alone(flight)
            except Exception as error:
                if is_link_error(error):
                    self._hand.put_back([flight])
                else:
                    refused.append(flight)
                    reason = reason or error
        if reason:
            self._keep(refused, reason)

    async def _settle_alone(self, flight: Flight) -> None:
        try:
            await self._settle([flight])
        except Exception as error:
            if classify(error) is not Fault.VALUES or not flight.spell_in_ascii():
                raise
            await self._settle([flight])

    def _keep(self, flights: Sequence[Flight], error: Exception) -> None:
        """Settle them later. Let go of, their events would be handled again at once, and that for ever, uncounted."""
        for flight in flights:
            self._hand.refuse(flight)
        tries = min(flight.refusals for flight in flights)
        pause = min(REFUSED_PAUSE_LIMIT, LINK_PAUSE * 2.0 ** min(tries, 10))
        logger.error(
            "%s: the database refuses the outcome of %d claims (event %s first), which stay in flight; next try "
            "in %.1f s: %s", self._listener.name, len(flights), flights[0].claim.events[0].position, pause, error,
            exc_info=error if tries == 1 else None,
        )  # fmt: skip
        asyncio.get_running_loop().call_later(pause, self._hand.put_back, flights)
