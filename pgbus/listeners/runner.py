"""One listener in one worker: claim -> handler -> settle.

claimer   claims when there is room and someone said that there may be work
slots     `concurrency` loops that each take the next event of the backlog and attempt it; no task per event
settler   settles the claims whose events have all ended since the last time, in one statement
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from pgbus.aio.clock import now
from pgbus.aio.tasks import end_tasks, failure_of
from pgbus.handlers.hooks import Hooks
from pgbus.listeners.attempts import Attempts
from pgbus.listeners.backlog import Backlog
from pgbus.listeners.claimer import Claimer
from pgbus.listeners.claims import ClaimsInFlight
from pgbus.listeners.executor import Executor
from pgbus.listeners.handler_call import HandlerCall
from pgbus.listeners.hooks import Afterwards
from pgbus.listeners.known_topics import KnownTopics
from pgbus.listeners.lanes import Lanes
from pgbus.listeners.pace import Pace
from pgbus.listeners.quarantine import Quarantine
from pgbus.listeners.retries import Retries
from pgbus.listeners.running import RunningListener
from pgbus.listeners.settlement import ALONE, RELEASED, HeldClaim, Tally
from pgbus.listeners.settler import Settler
from pgbus.listeners.slots import Slots
from pgbus.listeners.transactions import HandlerTransactions
from pgbus.telemetry import ListenerDraining, Settled

logger = logging.getLogger("pgbus")

# Seconds that the hooks of the events settled last have in any case.
LAST_HOOKS = 2.0
# Seconds that a handler has to end when it is cancelled, and when it is cancelled once more.
CANCEL_LIMITS = (5.0, 1.0)


class Runner:
    """Runs one listener; `start` it once it is registered, `stop` it to drain."""

    def __init__(self, running: RunningListener, *, executor: Executor, hooks: Hooks, quarantine: Quarantine) -> None:
        self.listener = running.listener
        self._running = running
        self._hooks = hooks
        self._afterwards = Afterwards(hooks.after_event_execution)
        backlog = self._backlog = Backlog(slots=running.slots)
        pace = Pace(concurrency=running.slots, target=running.config.batch_target, batch_size=self.listener.batch_size)
        lanes = Lanes(self.listener.lanes or 0)
        in_flight = ClaimsInFlight(running, lanes=lanes, pace=pace, quarantine=quarantine, wake=self.wake)
        known = KnownTopics(running)
        transactions = HandlerTransactions(
            running, executor=executor, in_flight=in_flight, was_settled=self._was_settled
        )
        attempts = Attempts(
            running, executor=executor, transactions=transactions, hooks=hooks, in_flight=in_flight, known=known
        )
        self._attempts = attempts
        self._in_flight = in_flight
        self.claimer = Claimer(
            running, backlog=backlog, in_flight=in_flight, lanes=lanes, known=known, pace=pace, quarantine=quarantine
        )
        self._slots = Slots(
            running, backlog=backlog, in_flight=in_flight, attempts=attempts, afterwards=self._afterwards, pace=pace
        )
        self._settler = Settler(running, in_flight=in_flight, was_settled=self._was_settled)
        self._retries = Retries(when_due=self.claimer.wake_for_due)
        self._started_at = 0.0
        # Apart, as a stop ends them one after the other: no claim comes in when the slots are drained, and the settler
        # goes on until what the slots have ended is written.
        self._claiming: list[asyncio.Task[None]] = []
        self._handling: list[asyncio.Task[None]] = []
        self._settling: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------------------------------------------------ life

    def start(self, *, ended: Callable[[], None]) -> None:
        """Begin to claim; `ended` is called when one of the loops ends."""
        self._started_at = now()
        name = f"pgbus {self.listener.name}"
        self._claiming = [asyncio.create_task(self.claimer.run(), name=name)]
        self._settling = [asyncio.create_task(self._settler.run(), name=name)]
        self._handling = [asyncio.create_task(self._slots.run(), name=name) for _ in range(self._backlog.slots)]
        for task in self._tasks:
            task.add_done_callback(lambda _: ended())

    @property
    def _tasks(self) -> list[asyncio.Task[None]]:
        return [*self._claiming, *self._settling, *self._handling]

    @property
    def age(self) -> float:
        """The seconds since the runner started."""
        return now() - self._started_at

    def failure(self) -> BaseException | None:
        """The error that ended one of the loops, which should never end by themselves."""
        return failure_of(self._tasks)

    async def break_off(self) -> None:
        """End at once; what is in flight is neither settled nor given back."""
        self.claimer.stop()
        self._retries.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=LAST_HOOKS)
        # In the database they are claimed by us still. Nobody here knows them now, so the worker forfeits them as
        # forgotten ones, which counts against their events: they may be what made a loop fail.
        for held in self.held_claims:
            self._in_flight.remove(held)
        self._afterwards.abandon()

    async def stop(self, *, grace: float) -> None:
        """Claim no more, let running handlers finish for `grace` seconds, settle, and give back the rest."""
        deadline = now() + grace
        self.claimer.stop()
        self._retries.stop()
        # The claimer first: what it claims from here on would be handled, or be forgotten.
        await end_tasks(*self._claiming)
        self._slots.drain()
        self._running.telemetry.emit(ListenerDraining(self.listener.name))
        await self._slots.wait_until_idle(grace)
        await self._end_handlers()
        # A handler that did not end may still run: its event is then handled twice, and its own late ending is not
        # noted.
        for held in self.held_claims:
            if held.left:
                held.release_running()
                self._in_flight.mark_ended(held)
        # Then the settler, when nothing is left for it: ended any sooner, outcomes would stay in memory, and their
        # events be handled again.
        await self._settler.finish()
        await end_tasks(*self._settling)
        await self._afterwards.finish(max(LAST_HOOKS, deadline - now()))

    async def _end_handlers(self) -> None:
        """Cancel what still runs, and leave what does not end by that.

        A handler may take its time, or swallow the cancellation. And a transaction ends only when its connection
        answers: one whose packets the network swallows waits for that until its statement times out, and only the
        second cancellation ends the wait of the pool, which shields it from the first.
        """
        left = set(self._handling)
        for limit in CANCEL_LIMITS:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=limit)
            if not left:
                return
        logger.warning(
            "%s: %d handlers did not end when they were cancelled; they are left", self._running.name, len(left)
        )

    def abandon(self) -> None:
        """Do not wait for running handlers any longer."""
        for task in self._handling:
            task.cancel()
        self._afterwards.abandon()

    # ----------------------------------------------------------------------------------------------------- waking

    def wake(self, lanes: Iterable[int] = ()) -> None:
        """Claim: there may be work, in these lanes of an ordered listener if they are named."""
        self.claimer.wake(lanes)

    def look_at_everything(self) -> None:
        """Claim without the floors: an operator may have put old events back."""
        self.claimer.look_at_everything()

    # ------------------------------------------------------------------------------------------------------ state

    @property
    def tokens(self) -> set[UUID]:
        """The tokens of the claims in flight, and of those that may be under way."""
        return self.claimer.tokens_under_way | self._in_flight.tokens

    @property
    def held_claims(self) -> list[HeldClaim]:
        """Return the claims that the runner holds now."""
        return self._in_flight.held_claims

    @property
    def is_busy(self) -> bool:
        """Whether it claims, or holds claims, or is to look for some."""
        return self.claimer.is_busy

    @property
    def floor(self) -> int:
        """The position at which scans for fresh runs begin: what lies below has been claimed, or is locked."""
        return self.claimer.floor

    @property
    def calls(self) -> list[HandlerCall]:
        """The calls of its handler that run now."""
        return self._attempts.calls

    # ---------------------------------------------------------------------------------------------------- settled

    def _was_settled(self, held_claims: Sequence[HeldClaim], tally: Tally, delays: Sequence[float] = ()) -> None:
        self._running.telemetry.emit(Settled(self.listener.name, tally.done, tally.retried, tally.dead))
        if self._hooks.after_event_execution:
            self._afterwards.begin(message for held in held_claims for message in held.done_messages)
        if delays:
            self._retries.add(delays)
        # What was released is there to be claimed again, or a lane has become free: no notification says so.
        if any(_gave_back(held) for held in held_claims):
            self.wake()
        elif self.listener.ordered:
            self.claimer.wake_for_settled(held.claim.lane for held in held_claims)


def _gave_back(held: HeldClaim) -> bool:
    return RELEASED in held.endings or ALONE in held.endings
