"""The slots of one listener: loops that each take what is next of the backlog, and have it attempted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pgbus.aio.clock import now
from pgbus.handlers.outcomes import Dead, Retry
from pgbus.listeners.attempts import Attempts
from pgbus.listeners.backlog import Backlog
from pgbus.listeners.claims import ClaimsInFlight
from pgbus.listeners.hooks import Afterwards
from pgbus.listeners.pace import Pace
from pgbus.listeners.running import RunningListener
from pgbus.listeners.settlement import BLOCKED, HeldClaim, Left, Released

logger = logging.getLogger("pgbus")


class Slots:
    """Handles the events of the backlog: one loop per slot, and no task per event."""

    def __init__(
        self,
        running: RunningListener,
        *,
        backlog: Backlog,
        in_flight: ClaimsInFlight,
        attempts: Attempts,
        afterwards: Afterwards,
        pace: Pace,
    ) -> None:
        self._running = running
        self._listener = running.listener
        self._backlog = backlog
        self._in_flight = in_flight
        self._attempts = attempts
        self._afterwards = afterwards
        self._pace = pace
        # Once it is set, a lane that runs gives back its rest.
        self._is_draining = False

    async def run(self) -> None:
        """Be one slot until cancelled."""
        backlog, work = self._backlog, self._choose_work()
        while True:
            if not backlog.queue:
                backlog.has_more.clear()
                await backlog.has_more.wait()
                continue
            if self._afterwards.is_full:
                await self._afterwards.wait_for_room()
                continue
            # No `await` between the look into the queue and what `work` takes out of it: two slots get no event twice.
            backlog.running += 1
            try:
                await work()
            finally:
                backlog.running -= 1
                backlog.slot_is_free.set()
            backlog.has_room.set()

    def drain(self) -> None:
        """Begin no more events, and release those that wait."""
        self._is_draining = True
        # Without an `await`: no slot can take one of these in between.
        while self._backlog.queue:
            self._give_back(self._backlog.queue.popleft())

    async def wait_until_idle(self, limit: float) -> None:
        """Wait until no handler runs, for at most `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                while self._backlog.running:
                    self._backlog.slot_is_free.clear()
                    await self._backlog.slot_is_free.wait()
        except TimeoutError:
            logger.warning(
                "%s: handlers still ran after the grace period; their events are released", self._listener.name
            )

    # ------------------------------------------------------------------------------------------------------- taking

    def _choose_work(self) -> Callable[[], Awaitable[None]]:
        if self._listener.batch:
            return self._handle_batch
        return self._handle_lane if self._listener.ordered else self._handle_next

    async def _handle_next(self) -> None:
        queue = self._backlog.queue
        held = queue[0]
        if not self._may_begin(held):
            self._give_back(queue.popleft())
            return
        index = held.next
        # Before the attempt: what a drain gives back meanwhile is only the rest.
        held.next += 1
        if held.next == len(held.claim.events):
            queue.popleft()
        self._backlog.waiting -= 1
        await self._attempts.attempt(held, index)

    async def _handle_lane(self) -> None:
        """One run of a lane, event after event; a failed one sends the rest back behind it."""
        held = self._backlog.queue.popleft()
        claim = held.claim
        # Keys that an event of this run blocks by now; `claim.blocked` has those that were blocked before the claim.
        barred: set[str] = set()
        for index, event in enumerate(claim.events):
            if not self._may_begin(held):
                self._give_back(held)
                break
            # Before the attempt, as in `_handle_next`.
            held.next = index + 1
            self._backlog.waiting -= 1
            if event.key in barred or (claim.blocked and claim.blocked[index]):
                self._in_flight.end_event(held, index, BLOCKED, started=now(), duration=0.0)
                continue
            ending = await self._attempts.attempt(held, index)
            if isinstance(ending, Dead) and self._listener.blocks and event.key is not None:
                barred.add(event.key)
            # What comes back comes first again, so nothing of the lane may pass it: a retry, an event left to another
            # worker, and one that is released because the bus could not be reached from its handler. A dead letter does
            # not come back by itself.
            if isinstance(ending, Retry | Left | Released) or self._is_draining:
                self._give_back(held)
                break

    async def _handle_batch(self) -> None:
        queue = self._backlog.queue
        held_claims: list[HeldClaim] = []
        size = 0
        # Whole claims, as a transaction settles a claim as a whole; at least one, though it may be larger than the
        # batch.
        while queue and (not held_claims or size + len(queue[0].claim.events) <= self._pace.batch):
            held = queue.popleft()
            if not self._may_begin(held):
                self._give_back(held)
                continue
            held.next = len(held.claim.events)
            size += held.next
            held_claims.append(held)
        self._backlog.waiting -= size
        if held_claims:
            await self._attempts.attempt_batch(held_claims)

    def _may_begin(self, held: HeldClaim) -> bool:
        """Whether the claim is ours for certain. Without a session it may not be: with that goes the lock by which the
        leader sees that we live.
        """
        return self._running.standing.claimant() != 0 and held.may_begin(now())

    def _give_back(self, held: HeldClaim) -> None:
        """Begin no more of it: what was not begun is released when it is settled, if it is still ours then."""
        # Nothing was left to release: it has ended by itself, and may be settled already.
        if released := held.release_rest():
            self._backlog.waiting -= released
            if not held.left:
                self._in_flight.mark_ended(held)
