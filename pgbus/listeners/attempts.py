"""Attempts: the handler is called for claimed events, and what came of each is noted.

Three ways: an event, a batch of them in one call, and either in a transaction that also settles them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from pgbus import errors
from pgbus.aio.backoff import Backoff
from pgbus.aio.clock import now
from pgbus.aio.tasks import is_being_cancelled
from pgbus.database.adapters import AsyncExecutor, SyncExecutor
from pgbus.database.adapters.transactions import TransactionLost
from pgbus.database.store import Store
from pgbus.database.tries import LINK_PAUSE, LINK_PAUSE_LIMIT
from pgbus.errors import HandlerTransactionError, UnhandledEventError
from pgbus.handlers.hooks import Hooks
from pgbus.handlers.outcomes import DONE, Dead, Outcome, Retry, decide
from pgbus.listeners.claims import ClaimsInFlight
from pgbus.listeners.executor import ClaimLost, Executor, ThreadLeft
from pgbus.listeners.hooks import prepare
from pgbus.listeners.known_topics import KnownTopics
from pgbus.listeners.listener import Listener
from pgbus.listeners.settlement import ALONE, RELEASED, Ending, HeldClaim, Left, Tally, settlement
from pgbus.messages import EventMessage, refuse_unreadable

logger = logging.getLogger("pgbus")

# Seconds that a handler which never waits may keep the event loop to itself.
LOOP_SHARE = 0.01
# So often in a row a connection may break under a handler before that counts as its failure: it may be what breaks it.
MAX_LOSSES = 5

WasSettled: TypeAlias = Callable[[Sequence[HeldClaim], Tally], None]


@dataclass(frozen=True, slots=True)
class Decoded:
    """An event of a batch: its place, and what the handler takes for it."""

    held: HeldClaim
    index: int
    body: Any

    @property
    def message(self) -> EventMessage:
        """The event."""
        return self.held.messages[self.index]


class Attempts:
    """Attempts at the events of one listener.

    `was_settled` is called with claims that a transaction has settled; `was_cut_off` says whether this worker's own
    session was lost at that time (of the engine's clock) or later.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        listener_id: int,
        worker: str,
        store: Store,
        executor: Executor,
        hooks: Hooks,
        in_flight: ClaimsInFlight,
        known: KnownTopics,
        was_settled: WasSettled,
        was_cut_off: Callable[[float], bool],
    ) -> None:
        self._listener = listener
        self._listener_id = listener_id
        self._worker = worker
        self._store = store
        self._executor = executor
        self._hooks = hooks
        self._in_flight = in_flight
        self._known = known
        self._was_settled = was_settled
        self._was_cut_off = was_cut_off
        self._yielded_at = 0.0

    # -------------------------------------------------------------------------------------------------- one event

    async def attempt(self, held: HeldClaim, index: int) -> Ending:
        """Try one event, unless it is another worker's to handle."""
        if left := await self._leave(held, index):
            return left
        started = now()
        error: BaseException | None = None
        thread: asyncio.Future[Any] | None = None
        try:
            refuse_unreadable(held.claim.events[index])
            if self._hooks.before_event_execution:
                await self._run_hooks_before(held, index)
            if self._listener.transactional:
                message = held.messages[index]
                await self._transact([held], self._listener.decode(message), [message], started)
            else:
                await self._executor.run(held.messages[index], held.claim.attempt)
        except asyncio.CancelledError as cancelled:
            if is_being_cancelled():
                raise
            error = cancelled
        except ClaimLost:
            self._in_flight.lose(held)
            return RELEASED
        except TransactionLost:
            self._in_flight.end_event(held, index, RELEASED, started=started, duration=0.0)
            return RELEASED
        except ThreadLeft as left_running:
            error, thread = left_running.error, left_running.ended
        except BaseException as raised:  # even a SystemExit is the handler's failure, not the worker's end
            error = raised
        ended = now()
        if self._is_excused(error, started):
            self._in_flight.end_event(held, index, RELEASED, started=started, duration=0.0)
            return RELEASED
        outcome = self._decide(error, held, index)
        if not (self._listener.transactional and outcome is DONE):
            end = partial(self._in_flight.end_event, held, index, outcome, started=started, duration=ended - started)
            _after(thread, end)
        if ended - self._yielded_at > LOOP_SHARE:
            await asyncio.sleep(0)
            self._yielded_at = now()
        return outcome

    def _is_excused(self, error: BaseException | None, started: float) -> bool:
        """Whether the bus itself could not be reached from the handler: no failure of the handler's, which comes again.

        A handler may mean another bus, or say so for ever: that counts, unless this worker was cut off as well.
        """
        return isinstance(error, errors.DatabaseUnreachableError) and self._was_cut_off(started)

    async def _leave(self, held: HeldClaim, index: int) -> Left | None:
        event = held.claim.events[index]
        try:
            refuse_unreadable(event)
        except UnhandledEventError:
            return None  # whoever has it gives it up
        if not await self._known.leaves(event):
            return None
        left = Left(event.topic)
        self._in_flight.end_event(held, index, left, started=now(), duration=0.0)
        return left

    async def _run_hooks_before(self, held: HeldClaim, index: int) -> None:
        event = held.claim.events[index]
        held.replace_message(index, await prepare(self._hooks.before_event_execution, event))

    def _decide(self, error: BaseException | None, held: HeldClaim, index: int) -> Outcome:
        attempt, position = held.claim.attempt, held.claim.events[index].position
        outcome = decide(error, attempt=attempt, policy=self._listener.retry)
        if isinstance(outcome, Dead):
            logger.error(
                "%s gave up on event %s after attempt %d: %s", self._listener.name, position, attempt, outcome.error,
                exc_info=error if not isinstance(error, UnhandledEventError) else None,
            )  # fmt: skip
        elif isinstance(outcome, Retry):
            logger.warning(
                "%s failed on event %s, attempt %d, and tries again in %.1f s: %s",
                self._listener.name, position, attempt, outcome.delay, outcome.error,
                # Where it failed, once: the next attempts mostly fail in the same place.
                exc_info=error if attempt == 1 and not isinstance(error, errors.Retry) else None,
            )  # fmt: skip
        return outcome

    # ---------------------------------------------------------------------------------------------------- batches

    async def attempt_batch(self, held_claims: Sequence[HeldClaim]) -> None:
        """Try all their events in one call; if that fails, each alone, so that one cannot fail all."""
        decoded = await self._decode_all(held_claims)
        if await self._call_batch(decoded):
            return
        for one in decoded:
            if not one.held.may_begin(now()):
                self._in_flight.end_event(one.held, one.index, RELEASED, started=now(), duration=0.0)
            elif self._listener.transactional and len(one.held.claim.events) > 1:
                # A transaction settles a claim as a whole, so first they must come back each in a claim of its own.
                self._in_flight.end_event(one.held, one.index, ALONE, started=now(), duration=0.0)
            else:
                await self._call_batch([one])

    async def _decode_all(self, held_claims: Sequence[HeldClaim]) -> list[Decoded]:
        decoded: list[Decoded] = []
        for held in held_claims:
            for index in range(len(held.claim.events)):
                if await self._leave(held, index):
                    continue
                started = now()
                try:
                    refuse_unreadable(held.claim.events[index])
                    if self._hooks.before_event_execution:
                        await self._run_hooks_before(held, index)
                    decoded.append(Decoded(held, index, self._listener.decode(held.messages[index])))
                except BaseException as error:
                    if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                        raise
                    outcome = self._decide(error, held, index)
                    self._in_flight.end_event(held, index, outcome, started=started, duration=0.0)
        return decoded

    async def _call_batch(self, decoded: Sequence[Decoded]) -> bool:
        """Call the handler; the events' endings are noted. False when that of several failed, and nothing is noted."""
        if not decoded:
            return True
        started = now()
        error: BaseException | None = None
        thread: asyncio.Future[Any] | None = None
        try:
            await self._handle_batch(decoded, started)
        except asyncio.CancelledError as cancelled:
            if is_being_cancelled():
                raise
            error = cancelled
        except ClaimLost:
            for held in _held_claims(decoded):
                self._in_flight.lose(held)
            return True
        except TransactionLost:
            for one in decoded:
                self._in_flight.end_event(one.held, one.index, RELEASED, started=started, duration=0.0)
            return True
        except ThreadLeft as left_running:
            error, thread = left_running.error, left_running.ended
        except BaseException as raised:
            error = raised
        if self._is_excused(error, started):
            for one in decoded:
                self._in_flight.end_event(one.held, one.index, RELEASED, started=started, duration=0.0)
            return True
        if error is not None and len(decoded) > 1:
            if thread:
                await asyncio.wait([thread])  # it holds their rows
            return False
        if error is not None or not self._listener.transactional:
            _after(thread, partial(self._end_batch, decoded, error, started=started))
        return True

    async def _handle_batch(self, decoded: Sequence[Decoded], started: float) -> None:
        bodies = [one.body for one in decoded]
        messages = [one.message for one in decoded]
        held_claims = _held_claims(decoded)
        if self._listener.transactional:
            await self._transact(held_claims, bodies, messages, started)
        else:
            await self._executor.run_batch(bodies, messages, _attempt(held_claims))

    def _end_batch(self, decoded: Sequence[Decoded], error: BaseException | None, *, started: float) -> None:
        duration = (now() - started) / len(decoded)
        for one in decoded:
            outcome = self._decide(error, one.held, one.index)
            self._in_flight.end_event(one.held, one.index, outcome, started=started, duration=duration)

    # ----------------------------------------------------------------------------------------------- transactions

    async def _transact(
        self, held_claims: Sequence[HeldClaim], body: Any, messages: Sequence[EventMessage], started: float
    ) -> None:
        """The handler's writes and the settlement of its events commit together.

        A transaction whose connection broke, or could not be had, is begun again while we hold the claims. Raises
        TransactionLost when we do no longer.
        """
        backoff = Backoff(LINK_PAUSE, LINK_PAUSE_LIMIT)
        losses = 0
        while True:
            try:
                await self._transact_once(held_claims, body, messages, started)
            except TransactionLost as lost:
                losses += lost.was_called
                if losses == MAX_LOSSES:
                    raise lost.error from None
                if not backoff.tries:
                    logger.warning(
                        "%s: the transaction was lost, and is begun again: %s", self._listener.name, lost.error
                    )
                await asyncio.sleep(backoff.next())
                if not all(held.may_begin(now()) for held in held_claims):
                    raise
            else:
                return

    async def _transact_once(
        self, held_claims: Sequence[HeldClaim], body: Any, messages: Sequence[EventMessage], started: float
    ) -> None:
        settling = _Settling(self, held_claims, started=started, events=len(messages))
        try:
            await self._executor.run_in_transaction(
                body,
                messages,
                _attempt(held_claims),
                begin=settling.begin,
                settle=settling.settle,
                begin_sync=settling.begin_sync,
                settle_sync=settling.settle_sync,
            )
        except BaseException:
            # Rolled back, or nobody knows; then the token decides.
            settling.given_up = True
            raise
        for held in settling.settled:
            self._in_flight.note_work(held)
            self._in_flight.remove(held)
        self._was_settled(settling.settled, settling.tally)


class _Settling:
    """The two ends of a handler's transaction, for one that awaits and one that blocks."""

    def __init__(self, attempts: Attempts, held_claims: Sequence[HeldClaim], *, started: float, events: int) -> None:
        store = attempts._store
        self._lock = store.statement("lock_delivery")
        self._settle = store.statement("settle_deliveries")
        self._attempts = attempts
        self._held_claims = held_claims
        self._started = started
        self._events = events
        self.settled: list[HeldClaim] = []
        self.tally = Tally()
        self.given_up = False
        self._xid: int | None = None

    async def begin(self, executor: AsyncExecutor) -> None:
        """Hold the claims."""
        for keys in self._keys():
            self._note_lock(await executor.fetch(self._lock, keys))

    def begin_sync(self, executor: SyncExecutor) -> None:
        """The same."""
        for keys in self._keys():
            self._note_lock(executor.fetch(self._lock, keys))

    def _note_lock(self, rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            raise ClaimLost
        self._xid = int(rows[0][0])  # text, as the connection is the handler's

    async def settle(self, executor: AsyncExecutor) -> None:
        """Settle them as done, but for events that have ended otherwise before."""
        self._check(await executor.fetch(self._settle, self._values()))

    def settle_sync(self, executor: SyncExecutor) -> None:
        """The same."""
        self._check(executor.fetch(self._settle, self._values()))

    def _keys(self) -> list[dict[str, object]]:
        return [{"delivery_id": held.claim.id, "claim_token": held.claim.token} for held in self._held_claims]

    def _values(self) -> dict[str, Any]:
        attempts = self._attempts
        duration = (now() - self._started) / self._events
        self.settled = [held.with_rest_done(started=self._started, duration=duration) for held in self._held_claims]
        values, self.tally, _ = settlement(
            self.settled,
            listener_id=attempts._listener_id,
            worker=attempts._worker,
            blocking=attempts._listener.blocks,
            xid=self._xid,
        )
        # Last: a thread that ran past its timeout is still here, and the held_claims have been ended otherwise by now.
        if self.given_up:
            raise ClaimLost
        return values

    def _check(self, rows: Sequence[object]) -> None:
        if len(rows) < len(self._held_claims):
            raise HandlerTransactionError


def _after(thread: asyncio.Future[Any] | None, note: Callable[[], None]) -> None:
    """Note an ending, but not before the thread has ended whose transaction has locked the delivery.

    Settled before, the delivery would hold up every other settlement of the listener, which are one statement.
    """
    if thread is None:
        note()
    else:
        thread.add_done_callback(lambda _: note())


def _held_claims(decoded: Sequence[Decoded]) -> list[HeldClaim]:
    return list({id(one.held): one.held for one in decoded}.values())


def _attempt(held_claims: Sequence[HeldClaim]) -> int:
    return max(held.claim.attempt for held in held_claims)
