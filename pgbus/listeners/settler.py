"""Settling: all claims that have ended since the last time, in one statement."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Sequence

from pgbus.aio.clock import now
from pgbus.database.faults import Fault, classify, is_link_error, is_passing
from pgbus.database.statements import deliveries, notifications
from pgbus.database.tries import LINK_PAUSE, LINK_PAUSE_LIMIT, Tries
from pgbus.listeners.claims import ClaimsInFlight
from pgbus.listeners.running import RunningListener
from pgbus.listeners.settlement import HeldClaim, Left, Tally, settlement
from pgbus.telemetry import ClaimsLost
from pgbus.telemetry.figures import duration

logger = logging.getLogger("pgbus")

# Seconds from one settling statement to the next, at least: one costs nearly the same for a claim as for ten.
PAUSE = 0.020
# Seconds between tries to settle what the database refuses, at most.
REFUSED_PAUSE_LIMIT = 60.0


class Settler:
    """Settles one listener's claims; `was_settled` gets those that were still ours, a tally, and retries' delays."""

    def __init__(
        self,
        running: RunningListener,
        *,
        in_flight: ClaimsInFlight,
        was_settled: Callable[[Sequence[HeldClaim], Tally, Sequence[float]], None],
    ) -> None:
        self._running = running
        self._listener = running.listener
        self._in_flight = in_flight
        self._was_settled = was_settled
        self._settled_at = -math.inf

    async def run(self) -> None:
        """Settle ended attempts until the task is cancelled."""
        tries = Tries(f"settle events of {self._listener.name}")
        while True:
            await self._in_flight.some_ended.wait()
            await self._wait_for_others()
            self._in_flight.some_ended.clear()
            held_claims = self._in_flight.take_ended()
            self._settled_at = now()
            try:
                await self._settle(held_claims)
                tries.worked()
            except Exception as error:
                if not is_link_error(error):
                    await self._settle_one_by_one(held_claims)
                    continue
                # Before the pause, in which the task may be cancelled: the claims are then still known as ended.
                self._in_flight.put_back(held_claims)
                await asyncio.sleep(tries.pause_after(error))

    async def _wait_for_others(self) -> None:
        """Let more claims end, if the last settlement was just now, unless something waits in a lane of these."""
        if (pause := self._settled_at + PAUSE - now()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._in_flight.lanes_are_needed.wait()

    async def finish(self) -> None:
        """Wait until everything in flight is settled, for a limited time."""
        try:
            async with asyncio.timeout(LINK_PAUSE_LIMIT):
                # Not those that the database refuses: they would hold up each stop. Their claims are freed when we are
                # gone.
                while len(self._in_flight) > self._in_flight.refused:
                    self._in_flight.changed.clear()
                    await self._in_flight.changed.wait()
        except TimeoutError:
            logger.warning("%s: the last claims could not be settled; they are delivered again", self._listener.name)

    async def _settle(self, held_claims: Sequence[HeldClaim]) -> None:
        values, tally, delays = settlement(
            held_claims, listener_id=self._running.id, worker=self._running.worker, blocking=self._listener.blocks
        )
        # Conditional on the tokens: a claim that is no longer ours is left alone, and missing in the answer. So a
        # statement whose answer was lost may be sent again.
        ours = await deliveries.settle_deliveries(self._running.store, values)
        # First of all: what follows is for observers, and its failure must not have the claims settled again.
        for held in held_claims:
            self._in_flight.remove(held)
        if lost := len(held_claims) - len(ours):
            self._running.telemetry.emit(ClaimsLost(self._listener.name, lost))
            logger.warning("%s lost %d claims before it settled them", self._listener.name, lost)
        self._was_settled([held for held in held_claims if held.claim.id in ours], tally, delays)
        if any(isinstance(ending, Left) for held in held_claims for ending in held.endings):
            await self._tell_others()

    async def _tell_others(self) -> None:
        """Wake those to whom an event was left. They would find it by their poll, so this need not be tried again."""
        try:
            await notifications.notify_workers(self._running.store, str(self._running.id))
        except Exception as error:
            if not is_passing(error):
                raise

    async def _settle_one_by_one(self, held_claims: Sequence[HeldClaim]) -> None:
        """One claim's outcome that the database refuses must not keep the others from being settled."""
        refused: list[HeldClaim] = []
        reason: Exception | None = None
        for held in held_claims:
            try:
                await self._settle_alone(held)
            except Exception as error:
                if is_link_error(error):
                    self._in_flight.put_back([held])
                else:
                    refused.append(held)
                    reason = reason or error
        if reason:
            self._keep(refused, reason)

    async def _settle_alone(self, held: HeldClaim) -> None:
        try:
            await self._settle([held])
        except Exception as error:
            if classify(error) is not Fault.VALUES or not held.spell_in_ascii():
                raise
            await self._settle([held])

    def _keep(self, held_claims: Sequence[HeldClaim], error: Exception) -> None:
        """Settle them later. If they were dropped, their events would be handled again at once, forever, and
        uncounted.
        """
        for held in held_claims:
            self._in_flight.refuse(held)
        # By those that are refused for the first time: they may be fine at the next try, and do not wait with the
        # others.
        tries = min(held.refusals for held in held_claims)
        pause = min(REFUSED_PAUSE_LIMIT, LINK_PAUSE * 2.0 ** min(tries, 10))
        logger.error(
            "%s: the database refuses the outcome of %d claims (event %s first), which stay in flight; next try "
            "in %s: %s",
            self._listener.name, len(held_claims), held_claims[0].claim.events[0].position, duration(pause), error,
            exc_info=error if tries == 1 else None,
        )  # fmt: skip
        asyncio.get_running_loop().call_later(pause, self._in_flight.put_back, held_claims)
