"""One listener in one worker: claim -> handler -> settle.

claimer   claims when there is room and someone said that there may be work
slots     `concurrency` loops that each take the next event of the queue and attempt it; no task per event
settler   settles the claims whose events have all ended since the last time, in one statement
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

from pgbus.aio.clock import now
from pgbus.aio.tasks import end_tasks, failure_of
from pgbus.config import Config
from pgbus.database.faults import UniqueViolation
from pgbus.database.statements import deliveries
from pgbus.database.statements.deliveries import Claim
from pgbus.database.store import Store
from pgbus.database.tries import LINK_PAUSE, Tries
from pgbus.handlers.hooks import Hooks
from pgbus.handlers.outcomes import Dead, Retry
from pgbus.listeners.attempts import Attempts
from pgbus.listeners.claims import ClaimsInFlight
from pgbus.listeners.executor import Executor
from pgbus.listeners.hooks import Afterwards
from pgbus.listeners.known_topics import KnownTopics
from pgbus.listeners.listener import Listener
from pgbus.listeners.pace import Pace
from pgbus.listeners.quarantine import Quarantine
from pgbus.listeners.settlement import ALONE, BLOCKED, RELEASED, HeldClaim, Left, Tally
from pgbus.listeners.settler import Settler
from pgbus.listeners.transactions import HandlerTransactions
from pgbus.telemetry import Claimed, ListenerDraining, Settled, Telemetry

logger = logging.getLogger("pgbus")

# Seconds between scans from the bottom: they find what a claim that was rolled back left below the floor.
BOTTOM_INTERVAL = 5.0
# Seconds until the next claim when others have locked what we came for, doubled each time.
LOCKED_PAUSE = 0.01
LOCKED_PAUSE_LIMIT = 1.0
# Claims that the database refuses to settle, from which on a listener claims no more: only memory knows their outcomes.
REFUSED_LIMIT = 100
# Seconds that the hooks of the events settled last have in any case.
LAST_HOOKS = 2.0


def slots_of(listener: Listener, config: Config) -> int:
    """How many events of a listener are handled at once; those of a plain function need a thread each."""
    return listener.concurrency if listener.signature.is_async else min(listener.concurrency, config.listener_threads)


class Runner:
    """Runs one listener; `start` it once it is registered, `stop` it to drain."""

    def __init__(
        self,
        listener: Listener,
        *,
        listener_id: int,
        worker_id: Callable[[], int],
        has_others: Callable[[], bool],
        was_cut_off: Callable[[float], bool],
        store: Store,
        executor: Executor,
        hooks: Hooks,
        config: Config,
        telemetry: Telemetry,
        quarantine: Quarantine,
    ) -> None:
        self.listener = listener
        self.listener_id = listener_id
        self._worker_id = worker_id
        self._has_others = has_others
        self._store = store
        self._hooks = hooks
        self._afterwards = Afterwards(hooks.after_event_execution)
        self._config = config
        self._telemetry = telemetry
        self._quarantine = quarantine
        self._slots = slots_of(listener, config)
        self._pace = Pace(concurrency=self._slots, target=config.batch_target, batch_size=listener.batch_size)
        self._in_flight = ClaimsInFlight(
            listener, pace=self._pace, telemetry=telemetry, quarantine=quarantine, wake=self.wake
        )
        self._known = KnownTopics(listener, listener_id=listener_id, store=store)
        self._attempts = Attempts(
            listener,
            executor=executor,
            transactions=HandlerTransactions(
                listener,
                listener_id=listener_id,
                worker=config.process_name,
                namespace=config.namespace,
                executor=executor,
                in_flight=self._in_flight,
                was_settled=self._was_settled,
            ),
            hooks=hooks,
            in_flight=self._in_flight,
            known=self._known,
            was_cut_off=was_cut_off,
        )
        self._settler = Settler(
            listener,
            listener_id=listener_id,
            worker=config.process_name,
            store=store,
            in_flight=self._in_flight,
            telemetry=telemetry,
            was_settled=self._was_settled,
        )
        self._queue: deque[HeldClaim] = deque()
        self._waiting = 0  # claimed events that no slot has begun
        self._running = 0  # slots that are at work
        self._may_have_work = True
        self._draining = False
        self._room = asyncio.Event()
        self._more = asyncio.Event()
        self._slot_free = asyncio.Event()
        self._floor = 0
        self._due_floor = -math.inf
        self._bottom_at = 0.0
        self._look_for_suspects = True
        self._started_at = 0.0
        self._locked_pause = LOCKED_PAUSE
        self._claiming: UUID | None = None
        self._offered: UUID | None = None
        self._retries: list[float] = []
        self._retry_timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------------------------------------------------ life

    def start(self, *, ended: Callable[[], None]) -> None:
        """Begin to claim; `ended` is called when one of the loops ends."""
        self._started_at = now()
        loops = [self._claim_loop(), self._settler.run(), *(self._slot() for _ in range(self._slots))]
        self._tasks = [asyncio.create_task(loop, name=f"pgbus {self.listener.name}") for loop in loops]
        for task in self._tasks:
            task.add_done_callback(lambda _: ended())

    def wake(self) -> None:
        """Claim: there may be work."""
        self._may_have_work = True
        self._room.set()

    def look_at_everything(self) -> None:
        """Claim without the floors: an operator may have put old events back."""
        self._bottom_at = 0.0
        self.wake()

    def offer(self, token: UUID) -> bool:
        """Whether this listener is idle; then the sequencer may claim its next event for it, under this token."""
        busy = self._may_have_work or self._in_flight or self._claiming or self._draining or self.listener.ordered
        self._offered = None if busy else token
        return not busy

    def hand_over(self, claim: Claim | None, *, sent_at: float) -> None:
        """What came of the offer. Once we drain it is left alone, and returned with other forgotten claims."""
        self._offered = None
        if claim and not self._draining:
            self._telemetry.emit(Claimed(self.listener.name, 1))
            self._pace.saw_claim(events=1, rows=1)
            self._enqueue([claim], 1, sent_at=sent_at)

    @property
    def tokens(self) -> set[UUID]:
        """The tokens of the claims in flight, and of those that may be under way."""
        under_way = {token for token in (self._claiming, self._offered) if token}
        return under_way | self._in_flight.tokens

    @property
    def held_claims(self) -> list[HeldClaim]:
        """The claims in flight."""
        return self._in_flight.held_claims

    @property
    def floor(self) -> int:
        """The position at which scans for fresh runs begin: what lies below has been claimed, or is locked."""
        return self._floor

    @property
    def is_busy(self) -> bool:
        """Whether a handler of it runs."""
        return self._running > 0

    @property
    def age(self) -> float:
        """Seconds since the start."""
        return now() - self._started_at

    def failure(self) -> BaseException | None:
        """What ended one of the loops, which should never end by themselves."""
        return failure_of(self._tasks)

    async def break_off(self) -> None:
        """End at once; what is in flight is neither settled nor given back."""
        self._draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=LAST_HOOKS)
        for held in self.held_claims:
            self._in_flight.remove(held)
        self._afterwards.abandon()
        if self._retry_timer:
            self._retry_timer.cancel()

    async def stop(self, *, grace: float) -> None:
        """Claim no more, let running handlers finish for `grace` seconds, settle, and give back the rest."""
        deadline = now() + grace
        self._draining = True
        self._telemetry.emit(ListenerDraining(self.listener.name))
        await end_tasks(self._tasks[0])
        self._release_queue()
        await self._wait_for_slots(grace)
        for task in self._tasks[2:]:
            task.cancel()
        await asyncio.wait(self._tasks[2:])
        for held in self.held_claims:
            if held.left:
                held.release_running()
                self._in_flight.mark_ended(held)
        await self._settler.finish()
        await end_tasks(self._tasks[1])
        await self._afterwards.finish(max(LAST_HOOKS, deadline - now()))
        if self._retry_timer:
            self._retry_timer.cancel()

    def abandon(self) -> None:
        """Do not wait for running handlers any longer."""
        for task in self._tasks[2:]:
            task.cancel()
        self._afterwards.abandon()

    def _release_queue(self) -> None:
        while self._queue:
            self._give_back(self._queue.popleft())

    def _give_back(self, held: HeldClaim) -> None:
        """Begin no more of it: what was not begun is released when it is settled, if it is still ours then."""
        # Nothing was left to release: it has ended by itself, and may be settled already.
        if released := held.release_rest():
            self._waiting -= released
            if not held.left:
                self._in_flight.mark_ended(held)

    async def _wait_for_slots(self, grace: float) -> None:
        try:
            async with asyncio.timeout(grace):
                while self._running:
                    self._slot_free.clear()
                    await self._slot_free.wait()
        except TimeoutError:
            logger.warning(
                "%s: handlers still ran after the grace period; their events are released", self.listener.name
            )

    # -------------------------------------------------------------------------------------------------- claiming

    async def _claim_loop(self) -> None:
        tries = Tries(f"claim events for {self.listener.name}")
        while True:
            wanted = self._wanted() if self._may_have_work else 0
            if not wanted:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                await self._claim(wanted)
                tries.worked()
            except UniqueViolation:
                # Another worker has just claimed in one of our lanes, behind what an operator put back before it.
                self._may_have_work = True
                await asyncio.sleep(LINK_PAUSE)
            except Exception as error:
                self._may_have_work = True
                await asyncio.sleep(tries.pause_after(error))

    def _wanted(self) -> int:
        if not self._worker_id() or self._in_flight.refused >= REFUSED_LIMIT:
            return 0
        if self.listener.batch:
            # A batch fills one slot.
            size = self._pace.batch
            return size if self._running + len(self._queue) < self._slots else 0
        self._pace.shared = self._has_others()
        return self._pace.wanted(free_slots=self._slots - self._running, waiting=self._waiting)

    async def _claim(self, wanted: int) -> None:
        self._may_have_work = False
        self._lower_floors()
        rows = self._pace.rows(wanted)
        self._claiming = token = uuid4()
        suspects = self._look_for_suspects and self._quarantine.enter(self.wake)
        claims: list[Claim] = []
        try:
            sent_at = now()
            claims = await self._send_claim(wanted, token=token, rows=rows, suspects=suspects)
            claims = await self._skip_missing(claims)
        finally:
            self._claiming = None
            if suspects and not any(claim.suspect for claim in claims):
                self._look_for_suspects = False
                self._quarantine.leave()
        if not claims:
            await self._look_again_if_locked()
            return
        self._locked_pause = LOCKED_PAUSE
        events = sum(len(claim.events) for claim in claims)
        more = events >= wanted or len(claims) >= rows or any(claim.suspect for claim in claims)
        self._may_have_work = self._may_have_work or more
        self._pace.saw_claim(events=events, rows=len(claims))
        self._raise_floor(claims)
        self._telemetry.emit(Claimed(self.listener.name, events))
        self._enqueue(claims, events, sent_at=sent_at)

    async def _send_claim(self, wanted: int, *, token: UUID, rows: int, suspects: bool) -> list[Claim]:
        return await deliveries.claim_deliveries(
            self._store,
            token=token,
            listener_id=self.listener_id,
            worker_id=self._worker_id(),
            lanes=self.listener.lanes,
            floor=self._floor,
            due_floor=self._due_floor,
            rows=rows,
            limit=wanted,
            piece=1 if self.listener.transactional and not self.listener.batch else self._pace.piece,
            lease=self._config.lease,
            suspects=suspects,
            blocking=self.listener.blocks,
            left_topics=list(self._known.left),
        )

    async def _look_again_if_locked(self) -> None:
        """A run that many workers were woken for is locked by the first of them, which leaves the rest of it to us."""
        if self.listener.ordered:
            return
        if await deliveries.is_work_left(
            self._store, listener_id=self.listener_id, floor=self._floor, due_floor=self._due_floor
        ):
            asyncio.get_running_loop().call_later(self._locked_pause, self.wake)
            self._locked_pause = min(LOCKED_PAUSE_LIMIT, self._locked_pause * 2)
        else:
            self._locked_pause = LOCKED_PAUSE

    async def _skip_missing(self, claims: Sequence[Claim]) -> list[Claim]:
        """The claims without what someone has deleted from the log: it can be handled by nobody, ever."""
        lacking = [claim for claim in claims if len(claim.events) < claim.size]
        if lacking:
            positions = await deliveries.skip_missing_events(
                self._store, lacking, listener_id=self.listener_id, worker=self._config.process_name
            )
            if positions:
                logger.warning(
                    "%s skips %d events that are no longer in the log: positions %s to %s",
                    self.listener.name, len(positions), positions[0], positions[-1],
                )  # fmt: skip
            self.wake()
        return [claim for claim in claims if claim.events]

    def _enqueue(self, claims: Sequence[Claim], events: int, *, sent_at: float) -> None:
        # Kept for longer, by the time that it took the database to begin; never for less.
        kept_until = sent_at + self._config.lease
        for claim in claims:
            held = HeldClaim(claim, now=sent_at, kept_until=kept_until)
            self._in_flight.add(held)
            self._queue.append(held)
        self._waiting += events
        self._more.set()

    def _lower_floors(self) -> None:
        if (at := now()) >= self._bottom_at:
            self._bottom_at = at + BOTTOM_INTERVAL
            self._look_for_suspects = True
            self._floor, self._due_floor = 0, -math.inf
            self._known.left.clear()  # they may be nobody's by now

    def _raise_floor(self, claims: Sequence[Claim]) -> None:
        """Fresh runs come in the order of the log: what we took of them lies behind us.

        What another worker has locked, and gives up, stays below until the next scan from the bottom. An ordered
        listener has no use for this: a lane's head may well lie lower.
        """
        if not self.listener.ordered:
            last = max((claim.events[-1].position or 0 for claim in claims if claim.fresh), default=-1)
            self._floor = max(self._floor, last + 1)

    # --------------------------------------------------------------------------------------------------- handling

    async def _slot(self) -> None:
        work = self._choose_work()
        while True:
            if not self._queue:
                self._more.clear()
                await self._more.wait()
                continue
            if self._afterwards.is_full:
                await self._afterwards.wait_for_room()
                continue
            self._running += 1
            try:
                await work()
            finally:
                self._running -= 1
                self._slot_free.set()
            self._room.set()

    def _choose_work(self) -> Callable[[], Any]:
        if self.listener.batch:
            return self._handle_batch
        return self._handle_lane if self.listener.ordered else self._handle_next

    async def _handle_next(self) -> None:
        held = self._queue[0]
        if not self._may_begin(held):
            self._give_back(self._queue.popleft())
            return
        index = held.next
        held.next += 1
        if held.next == len(held.claim.events):
            self._queue.popleft()
        self._waiting -= 1
        await self._attempts.attempt(held, index)

    async def _handle_lane(self) -> None:
        """One run of a lane, event after event; a failed one sends the rest back behind it."""
        held = self._queue.popleft()
        claim = held.claim
        barred: set[str] = set()
        for index, event in enumerate(claim.events):
            if not self._may_begin(held):
                self._give_back(held)
                break
            held.next = index + 1
            self._waiting -= 1
            if event.key in barred or (claim.blocked and claim.blocked[index]):
                self._in_flight.end_event(held, index, BLOCKED, started=now(), duration=0.0)
                continue
            ending = await self._attempts.attempt(held, index)
            if isinstance(ending, Dead) and self.listener.blocks and event.key is not None:
                barred.add(event.key)
            if isinstance(ending, Retry | Left) or self._draining:
                self._give_back(held)
                break

    async def _handle_batch(self) -> None:
        held_claims: list[HeldClaim] = []
        size = 0
        while self._queue and (not held_claims or size + len(self._queue[0].claim.events) <= self._pace.batch):
            held = self._queue.popleft()
            if not self._may_begin(held):
                self._give_back(held)
                continue
            held.next = len(held.claim.events)
            size += held.next
            held_claims.append(held)
        self._waiting -= size
        if held_claims:
            await self._attempts.attempt_batch(held_claims)

    def _may_begin(self, held: HeldClaim) -> bool:
        """Whether the claim is ours for certain. Without a session it may not be: with that goes the lock by which the
        leader sees that we live.
        """
        return self._worker_id() != 0 and held.may_begin(now())

    # --------------------------------------------------------------------------------------------------- settled

    def _was_settled(self, held_claims: Sequence[HeldClaim], tally: Tally, delays: Sequence[float] = ()) -> None:
        self._telemetry.emit(Settled(self.listener.name, tally.done, tally.retried, tally.dead))
        if self._hooks.after_event_execution:
            self._afterwards.begin(message for held in held_claims for message in held.done_messages)
        self._schedule_retries(delays)
        if self.listener.ordered or any(_gave_back(held) for held in held_claims):
            self.wake()  # a lane has become free

    def _schedule_retries(self, delays: Sequence[float]) -> None:
        """Claim again when the first retry is due; other workers find it by their poll."""
        if not delays or self._draining:
            return
        loop = asyncio.get_running_loop()
        for delay in delays:
            heapq.heappush(self._retries, loop.time() + delay)
        self._set_retry_timer()

    def _set_retry_timer(self) -> None:
        if self._retry_timer:
            self._retry_timer.cancel()
            self._retry_timer = None
        if self._retries:
            self._retry_timer = asyncio.get_running_loop().call_at(self._retries[0], self._retry_due)

    def _retry_due(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._retries and self._retries[0] <= now:
            heapq.heappop(self._retries)
        self._due_floor = -math.inf
        self._set_retry_timer()
        self.wake()


def _gave_back(held: HeldClaim) -> bool:
    return RELEASED in held.endings or ALONE in held.endings
