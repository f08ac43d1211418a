"""One listener in one worker: claim -> handler -> settle.

claimer   claims when there is room and someone said that there may be work
slots     `concurrency` loops that each take the next event of the queue; no task per event
settler   settles whatever has landed since the last time, in one statement
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID, uuid4

from pgbus.adapters import AsyncExecutor, SyncExecutor
from pgbus.config import Config
from pgbus.errors import UnhandledEventError
from pgbus.executor import ClaimLost, Executor
from pgbus.flights import ALONE, BLOCKED, RELEASED, Ending, Flight, settlement
from pgbus.hooked import Afterwards, prepare
from pgbus.hooks import Hooks
from pgbus.outcomes import DONE, Dead, Done, Outcome, Retry, decide
from pgbus.pace import Pace
from pgbus.quarantine import Quarantine
from pgbus.registry import Listener
from pgbus.store import Claim, Store, is_link_error
from pgbus.telemetry import Claimed, ClaimsLost, Settled, Telemetry

logger = logging.getLogger("pgbus")

# Seconds that a handler which never waits may keep the event loop to itself.
LOOP_SHARE = 0.01
# Seconds between scans from the bottom: they find what a claim that was rolled back left below the floor.
BOTTOM_INTERVAL = 5.0
# Seconds between tries when the database does not answer.
LINK_PAUSE = 0.2
LINK_PAUSE_LIMIT = 5.0
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
        self._store = store
        self._executor = executor
        self._hooks = hooks
        self._afterwards = Afterwards(hooks.after_event_execution)
        self._config = config
        self._telemetry = telemetry
        self._quarantine = quarantine
        self._slots = slots_of(listener, config)
        self._pace = Pace(concurrency=self._slots, target=config.batch_target, batch_size=listener.batch_size)
        self._queue: deque[Flight] = deque()
        self._airborne: dict[int, Flight] = {}
        self._landed: list[Flight] = []
        self._waiting = 0  # claimed events that no slot has begun
        self._running = 0  # slots that are at work
        self._may_have_work = True
        self._draining = False
        self._room = asyncio.Event()
        self._more = asyncio.Event()
        self._landing = asyncio.Event()
        self._settled = asyncio.Event()
        self._floor = 0
        self._due_floor = -math.inf
        self._bottom_at = 0.0
        self._look_for_suspects = True
        self._claiming: UUID | None = None
        self._offered: UUID | None = None
        self._retries: list[float] = []
        self._retry_timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._yielded_at = 0.0

    # ------------------------------------------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin to claim."""
        loops = [self._claim_loop(), self._settle_loop(), *(self._slot() for _ in range(self._slots))]
        self._tasks = [asyncio.create_task(loop, name=f"pgbus {self.listener.name}") for loop in loops]

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
        busy = self._may_have_work or self._airborne or self._claiming or self._draining or self.listener.ordered
        self._offered = None if busy else token
        return not busy

    def hand_over(self, claim: Claim | None, *, sent_at: float) -> None:
        """What came of the offer. Once we drain it is left alone, and returned with other forgotten claims."""
        self._offered = None
        if claim and not self._draining:
            self._telemetry.emit(Claimed(self.listener.name, 1))
            self._pace.saw_claim(events=1, rows=1)
            self._take_off([claim], 1, now=sent_at)

    @property
    def tokens(self) -> set[UUID]:
        """The tokens of the claims in hand, and of those that may be under way."""
        under_way = {token for token in (self._claiming, self._offered) if token}
        return under_way | {flight.claim.token for flight in self._airborne.values()}

    @property
    def flights(self) -> list[Flight]:
        """The claims in hand."""
        return list(self._airborne.values())

    def failure(self) -> BaseException | None:
        """What ended one of the loops, which should never end by themselves."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                return error
        return None

    async def stop(self, *, grace: float) -> None:
        """Claim no more, let running handlers finish for `grace` seconds, settle, and give back the rest."""
        deadline = time.monotonic() + grace
        self._draining = True
        self._tasks[0].cancel()
        await asyncio.wait([self._tasks[0]])
        self._release_queue()
        await self._wait_for_slots(grace)
        for task in self._tasks[2:]:
            task.cancel()
        await asyncio.wait(self._tasks[2:])
        for flight in self.flights:
            if flight.left:
                flight.release_running()
                self._land(flight)
        await self._settle_last()
        self._tasks[1].cancel()
        await asyncio.wait(self._tasks)
        await self._afterwards.finish(max(LAST_HOOKS, deadline - time.monotonic()))
        if self._retry_timer:
            self._retry_timer.cancel()

    def abandon(self) -> None:
        """Do not wait for running handlers any longer."""
        for task in self._tasks[2:]:
            task.cancel()
        self._afterwards.abandon()

    def _release_queue(self) -> None:
        while self._queue:
            flight = self._queue.popleft()
            self._waiting -= flight.release_rest()
            if not flight.left:
                self._land(flight)

    async def _wait_for_slots(self, grace: float) -> None:
        try:
            async with asyncio.timeout(grace):
                while self._running:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            logger.warning(
                "%s: handlers still ran after the grace period; their events are released", self.listener.name
            )

    async def _settle_last(self) -> None:
        try:
            async with asyncio.timeout(LINK_PAUSE_LIMIT):
                while self._airborne:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            logger.warning("%s: the last claims could not be settled; they are delivered again", self.listener.name)

    # -------------------------------------------------------------------------------------------------- claiming

    async def _claim_loop(self) -> None:
        pause = LINK_PAUSE
        while True:
            wanted = self._wanted() if self._may_have_work else 0
            if not wanted:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                await self._claim(wanted)
                pause = LINK_PAUSE
            except Exception as error:
                if not is_link_error(error):
                    raise
                # The session says once that the database is away; here it is enough to try again.
                self._may_have_work = True
                await asyncio.sleep(pause)
                pause = min(LINK_PAUSE_LIMIT, pause * 2)

    def _wanted(self) -> int:
        if not self._worker_id():
            return 0
        if self.listener.batch:
            # A batch fills one slot.
            size = self._pace.reserve
            return size if self._running + len(self._queue) < self._slots else 0
        return self._pace.wanted(free_slots=self._slots - self._running, waiting=self._waiting)

    async def _claim(self, wanted: int) -> None:
        self._may_have_work = False
        self._lower_floors()
        rows = self._pace.rows(wanted)
        self._claiming = token = uuid4()
        suspects = self._look_for_suspects and self._quarantine.enter(self.wake)
        claims: list[Claim] = []
        try:
            sent_at = time.monotonic()
            claims = await self._send_claim(wanted, token=token, rows=rows, suspects=suspects)
        finally:
            self._claiming = None
            if suspects and not any(claim.suspect for claim in claims):
                self._look_for_suspects = False
                self._quarantine.leave()
        if not claims:
            return
        events = sum(len(claim.events) for claim in claims)
        more = events >= wanted or len(claims) >= rows or any(claim.suspect for claim in claims)
        self._may_have_work = self._may_have_work or more
        self._pace.saw_claim(events=events, rows=len(claims))
        self._raise_floor(claims)
        self._telemetry.emit(Claimed(self.listener.name, events))
        self._take_off(claims, events, now=sent_at)

    async def _send_claim(self, wanted: int, *, token: UUID, rows: int, suspects: bool) -> list[Claim]:
        return await self._store.claim_deliveries(
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
        )

    def _take_off(self, claims: Sequence[Claim], events: int, *, now: float) -> None:
        for claim in claims:
            flight = Flight(claim, now=now)
            self._airborne[claim.id] = flight
            self._queue.append(flight)
        self._waiting += events
        self._more.set()

    def _lower_floors(self) -> None:
        if (now := time.monotonic()) >= self._bottom_at:
            self._bottom_at = now + BOTTOM_INTERVAL
            self._look_for_suspects = True
            self._floor, self._due_floor = 0, -math.inf

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
                self._settled.set()
            self._room.set()

    def _choose_work(self) -> Callable[[], Any]:
        if self.listener.batch:
            return self._handle_batch
        return self._handle_lane if self.listener.ordered else self._handle_next

    async def _handle_next(self) -> None:
        flight = self._queue[0]
        index = flight.next
        flight.next += 1
        if flight.next == len(flight.claim.events):
            self._queue.popleft()
        self._waiting -= 1
        await self._attempt(flight, index)

    async def _handle_lane(self) -> None:
        """One run of a lane, event after event; a failed one sends the rest back behind it."""
        flight = self._queue.popleft()
        claim = flight.claim
        barred: set[str] = set()
        for index, event in enumerate(claim.events):
            flight.next = index + 1
            self._waiting -= 1
            if event.key in barred or (claim.blocked and claim.blocked[index]):
                self._end(flight, index, BLOCKED, started=time.monotonic(), duration=0.0)
                continue
            ending = await self._attempt(flight, index)
            if isinstance(ending, Dead) and self.listener.blocks and event.key is not None:
                barred.add(event.key)
            if isinstance(ending, Retry) or self._draining:
                # Nothing was left to release: it has landed by itself, and may be settled already.
                if released := flight.release_rest():
                    self._waiting -= released
                    self._land(flight)
                break

    async def _attempt(self, flight: Flight, index: int) -> Ending:
        claim = flight.claim
        started = time.monotonic()
        error: BaseException | None = None
        try:
            if self._hooks.before_event_execution:
                await self._run_hooks_before(flight, index)
            if self.listener.transactional:
                await self._attempt_in_transaction(flight, index, started)
            else:
                await self._executor.run(flight.messages[index], claim.attempt)
        except asyncio.CancelledError as cancelled:
            if _is_ours(cancelled):
                raise
            error = cancelled
        except ClaimLost:
            self._drop(flight)
            return RELEASED
        except BaseException as raised:  # even a SystemExit is the handler's failure, not the worker's end
            error = raised
        now = time.monotonic()
        outcome = self._decide(error, claim.attempt, claim.events[index].position)
        if not (self.listener.transactional and outcome is DONE):
            self._end(flight, index, outcome, started=started, duration=now - started)
        if now - self._yielded_at > LOOP_SHARE:
            await asyncio.sleep(0)
            self._yielded_at = time.monotonic()
        return outcome

    async def _run_hooks_before(self, flight: Flight, index: int) -> None:
        event = flight.claim.events[index]
        flight.replace_message(index, await prepare(self._hooks.before_event_execution, event))

    def _run_hooks_after(self, flights: Iterable[Flight]) -> None:
        self._afterwards.begin(message for flight in flights for message in flight.done_messages)

    def _decide(self, error: BaseException | None, attempt: int, position: int | None) -> Outcome:
        outcome = decide(error, attempt=attempt, policy=self.listener.retry)
        if isinstance(outcome, Dead):
            logger.error(
                "%s gave up on event %s after attempt %d: %s", self.listener.name, position, attempt, outcome.error,
                exc_info=error if not isinstance(error, UnhandledEventError) else None,
            )  # fmt: skip
        elif isinstance(outcome, Retry):
            logger.warning(
                "%s failed on event %s, attempt %d, and tries again in %.1f s: %s",
                self.listener.name, position, attempt, outcome.delay, outcome.error,
            )  # fmt: skip
        return outcome

    def _end(self, flight: Flight, index: int, ending: Ending, *, started: float, duration: float) -> None:
        if flight.endings[index] is None and flight.end(index, ending, started=started, duration=duration):
            self._land(flight)

    def _land(self, flight: Flight) -> None:
        self._landed.append(flight)
        self._pace.saw_work(events=len(flight.durations), seconds=sum(flight.durations))
        self._landing.set()

    def _drop(self, flight: Flight) -> None:
        """Forget a claim that is no longer ours."""
        self._let_go(flight)
        self._telemetry.emit(ClaimsLost(self.listener.name, 1))
        logger.warning("%s lost the claim of event %s", self.listener.name, flight.claim.events[0].position)

    def _let_go(self, flight: Flight) -> None:
        if self._airborne.pop(flight.claim.id, None) and flight.claim.suspect:
            self._quarantine.leave()
            self.wake()  # the next suspect

    # ---------------------------------------------------------------------------------------------------- batches

    async def _handle_batch(self) -> None:
        """Up to a batch of events in one call; if that fails, each alone, so that one cannot fail all."""
        flights: list[Flight] = []
        size = 0
        while self._queue and (not flights or size + len(self._queue[0].claim.events) <= self._pace.reserve):
            flight = self._queue.popleft()
            flight.next = len(flight.claim.events)
            size += flight.next
            flights.append(flight)
        self._waiting -= size
        decoded = await self._decode_all(flights)
        error = await self._call_batch(decoded)
        if error is None:
            return
        for flight, index, body in decoded:
            if self.listener.transactional and len(flight.claim.events) > 1:
                # A transaction settles a claim as a whole, so first they must come back each in a claim of its own.
                self._end(flight, index, ALONE, started=time.monotonic(), duration=0.0)
            else:
                await self._call_batch([(flight, index, body)])

    async def _decode_all(self, flights: Sequence[Flight]) -> list[tuple[Flight, int, Any]]:
        decoded: list[tuple[Flight, int, Any]] = []
        for flight in flights:
            for index, event in enumerate(flight.claim.events):
                started = time.monotonic()
                try:
                    if self._hooks.before_event_execution:
                        await self._run_hooks_before(flight, index)
                    decoded.append((flight, index, self.listener.decode(flight.messages[index])))
                except BaseException as error:
                    if isinstance(error, asyncio.CancelledError) and _is_ours(error):
                        raise
                    outcome = self._decide(error, flight.claim.attempt, event.position)
                    self._end(flight, index, outcome, started=started, duration=0.0)
        return decoded

    async def _call_batch(self, decoded: Sequence[tuple[Flight, int, Any]]) -> BaseException | None:
        """Call the handler; the events' endings are noted unless a batch of several failed."""
        if not decoded:
            return None
        started = time.monotonic()
        error: BaseException | None = None
        events = [flight.messages[index] for flight, index, _ in decoded]
        attempt = max(flight.claim.attempt for flight, _, _ in decoded)
        try:
            if self.listener.transactional:
                await self._batch_in_transaction(decoded, started)
                return None
            await self._executor.run_batch([body for _, _, body in decoded], events, attempt)
        except asyncio.CancelledError as cancelled:
            if _is_ours(cancelled):
                raise
            error = cancelled
        except ClaimLost:
            for flight in {id(flight): flight for flight, _, _ in decoded}.values():
                self._drop(flight)
            return None
        except BaseException as raised:
            error = raised
        if error is None or len(decoded) == 1:
            self._end_batch(decoded, error, started=started)
            return None
        return error

    def _end_batch(
        self, decoded: Sequence[tuple[Flight, int, Any]], error: BaseException | None, *, started: float
    ) -> None:
        duration = (time.monotonic() - started) / max(1, len(decoded))
        for flight, index, _ in decoded:
            claim = flight.claim
            outcome = self._decide(error, claim.attempt, claim.events[index].position)
            self._end(flight, index, outcome, started=started, duration=duration)

    # ----------------------------------------------------------------------------------------------- transactions

    async def _attempt_in_transaction(self, flight: Flight, index: int, started: float) -> None:
        """The handler's writes and the settlement of its event commit together."""
        event = flight.messages[index]
        await self._transact([flight], self.listener.decode(event), [event], flight.claim.attempt, started)

    async def _batch_in_transaction(self, decoded: Sequence[tuple[Flight, int, Any]], started: float) -> None:
        flights = list({id(flight): flight for flight, _, _ in decoded}.values())
        bodies = [body for _, _, body in decoded]
        events = [flight.messages[index] for flight, index, _ in decoded]
        attempt = max(flight.claim.attempt for flight in flights)
        await self._transact(flights, bodies, events, attempt, started)

    async def _transact(
        self, flights: Sequence[Flight], body: Any, events: Sequence[Any], attempt: int, started: float
    ) -> None:
        lock = self._store.statement("lock_delivery")
        settle = self._store.statement("settle_deliveries")

        def keys(flight: Flight) -> dict[str, object]:
            return {"delivery_id": flight.claim.id, "claim_token": flight.claim.token}

        settled: list[Flight] = []
        given_up = False

        def values() -> dict[str, Any]:
            duration = (time.monotonic() - started) / len(events)
            settled[:] = [flight.with_rest_done(started=started, duration=duration) for flight in flights]
            found, _, _ = settlement(
                settled, listener_id=self.listener_id, worker=self._config.process_name, blocking=self.listener.blocks
            )
            # Last: a thread that ran past its timeout is still here, and the flights have been ended otherwise by now.
            if given_up:
                raise ClaimLost
            return found

        async def begin(executor: AsyncExecutor) -> None:
            for flight in flights:
                if not await executor.fetch(lock, keys(flight)):
                    raise ClaimLost

        def begin_sync(executor: SyncExecutor) -> None:
            for flight in flights:
                if not executor.fetch(lock, keys(flight)):
                    raise ClaimLost

        async def settle_async(executor: AsyncExecutor) -> None:
            if len(await executor.fetch(settle, values())) < len(flights):
                raise ClaimLost  # the handler has ended the transaction that held the claim

        def settle_sync(executor: SyncExecutor) -> None:
            if len(executor.fetch(settle, values())) < len(flights):
                raise ClaimLost

        try:
            await self._executor.run_in_transaction(
                body,
                events,
                attempt,
                begin=begin,
                settle=settle_async,
                begin_sync=begin_sync,
                settle_sync=settle_sync,
            )
        except BaseException:
            # Rolled back, or nobody knows; then the token decides.
            given_up = True
            raise
        for flight in settled:
            self._pace.saw_work(events=len(flight.durations), seconds=sum(flight.durations))
            self._let_go(flight)
        self._tell(_tally(settled))
        if self._hooks.after_event_execution:
            self._run_hooks_after(settled)
        if self.listener.ordered:
            self.wake()  # the lane has become free

    # --------------------------------------------------------------------------------------------------- settling

    async def _settle_loop(self) -> None:
        pause = LINK_PAUSE
        while True:
            if not self._landed:
                self._landing.clear()
                await self._landing.wait()
            flights, self._landed = self._landed, []
            try:
                await self._settle(flights)
                pause = LINK_PAUSE
            except Exception as error:
                if not is_link_error(error):
                    await self._settle_one_by_one(flights, error)
                    continue
                self._landed = flights + self._landed
                await asyncio.sleep(pause)
                pause = min(LINK_PAUSE_LIMIT, pause * 2)

    async def _settle(self, flights: list[Flight]) -> None:
        values, tally, delays = settlement(
            flights, listener_id=self.listener_id, worker=self._config.process_name, blocking=self.listener.blocks
        )
        settled = await self._store.fetch("settle_deliveries", **values)
        for flight in flights:
            self._let_go(flight)
        if lost := len(flights) - len(settled):
            self._telemetry.emit(ClaimsLost(self.listener.name, lost))
            logger.warning("%s lost %d claims before it settled them", self.listener.name, lost)
        self._settled.set()
        self._tell((tally.done, tally.retried, tally.dead))
        if self._hooks.after_event_execution:
            ids = {row["id"] for row in settled}
            self._run_hooks_after(flight for flight in flights if flight.claim.id in ids)
        self._schedule_retries(delays)
        if self.listener.ordered or any(_gave_back(flight) for flight in flights):
            self.wake()  # a lane has become free

    async def _settle_one_by_one(self, flights: list[Flight], error: Exception) -> None:
        """One claim's outcome that the database refuses must not keep the others from being settled."""
        if len(flights) > 1:
            for flight in flights:
                try:
                    await self._settle([flight])
                except Exception as again:
                    if is_link_error(again):
                        self._landed.append(flight)
                    else:
                        self._give_up(flight, again)
        else:
            self._give_up(flights[0], error)

    def _give_up(self, flight: Flight, error: Exception) -> None:
        logger.error(
            "%s could not settle delivery %d; it is freed when its lease runs out",
            self.listener.name, flight.claim.id, exc_info=error,
        )  # fmt: skip
        self._let_go(flight)
        self._settled.set()

    def _tell(self, tally: tuple[int, int, int]) -> None:
        self._telemetry.emit(Settled(self.listener.name, *tally))

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


def _is_ours(error: asyncio.CancelledError) -> bool:  # noqa: ARG001 - says what is asked about
    """Whether the slot itself is being cancelled, and not something within the handler."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _gave_back(flight: Flight) -> bool:
    return RELEASED in flight.endings or ALONE in flight.endings


def _tally(flights: Sequence[Flight]) -> tuple[int, int, int]:
    endings = [ending for flight in flights for ending in flight.endings]
    return (
        sum(isinstance(ending, Done) for ending in endings),
        sum(isinstance(ending, Retry) for ending in endings),
        sum(isinstance(ending, Dead) for ending in endings),
    )
