"""Attempts: the handler is called for claimed events, and what came of each is noted.

Three ways: an event, a batch of them in one call, and either in a transaction that also settles them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from pgbus import errors
from pgbus.aio.clock import now
from pgbus.aio.tasks import is_being_cancelled
from pgbus.causality import begin
from pgbus.database.adapters.transactions import TransactionLost
from pgbus.errors import UnhandledEventError
from pgbus.handlers.failures import Failures
from pgbus.handlers.hooks import Hooks
from pgbus.handlers.outcomes import DONE, Dead, Done, Outcome, Retry, decide
from pgbus.listeners.claims import ClaimsInFlight
from pgbus.listeners.executor import ClaimLost, Executor, ThreadLeft
from pgbus.listeners.handler_call import HandlerCall
from pgbus.listeners.hooks import prepare
from pgbus.listeners.known_topics import KnownTopics
from pgbus.listeners.running import RunningListener
from pgbus.listeners.settlement import ALONE, RELEASED, Ending, HeldClaim, Left
from pgbus.listeners.transactions import HandlerTransactions
from pgbus.messages import EventMessage, refuse_unreadable
from pgbus.telemetry.figures import duration

# Seconds that a handler which never waits may keep the event loop to itself. Without a turn for others, neither the
# settler nor the leases nor a leader's beat would run until all that was claimed is handled.
LOOP_SHARE = 0.01


class Decoded(msgspec.Struct, frozen=True):
    """An event of a batch: its place, and what the handler takes for it."""

    held: HeldClaim
    index: int
    body: Any

    @property
    def message(self) -> EventMessage:
        """The event of this attempt, as its handler gets it."""
        return self.held.messages[self.index]


class LeftToOthers(Exception):
    """The event is left to other workers, and its ending is noted."""

    def __init__(self, left: Left) -> None:
        super().__init__(left.reason)
        self.left = left


class Attempts:
    """Attempts at the events of one listener; `transactions` run the handler of a transactional one."""

    def __init__(
        self,
        running: RunningListener,
        *,
        executor: Executor,
        transactions: HandlerTransactions,
        hooks: Hooks,
        in_flight: ClaimsInFlight,
        known: KnownTopics,
    ) -> None:
        self._running = running
        self._listener = running.listener
        self._executor = executor
        self._transactions = transactions
        self._hooks = hooks
        self._in_flight = in_flight
        self._known = known
        self._failures = Failures()
        self._calls: set[HandlerCall] = set()
        # When the loop's other tasks last had a turn because of us.
        self._yielded_at = 0.0

    @property
    def calls(self) -> list[HandlerCall]:
        """The calls of the handler that run now."""
        return list(self._calls)

    # -------------------------------------------------------------------------------------------------- one event

    async def attempt(self, held: HeldClaim, index: int) -> Ending:
        """Try one event, unless it is another worker's to handle."""
        if not self._known.is_ours(held.claim.events[index]) and (left := await self._leave(held, index)):
            return left
        started = now()
        error: BaseException | None = None
        thread: asyncio.Future[Any] | None = None
        begin(held.claim.events[index])
        try:
            if self._hooks.before_event_execution:
                await self._run_hooks_before(held, index)
            body = await self._decode(held, index)
            await self._handle([held], body, HandlerCall([held.messages[index]], held.claim.attempt, started))
        except LeftToOthers as left_to_others:
            return left_to_others.left
        except asyncio.CancelledError as cancelled:
            if is_being_cancelled():
                raise
            error = cancelled
        except ClaimLost:  # only a transactional handler's claim is locked, and found to be lost, before it begins
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
        # A transaction that has committed has settled its claim as well.
        if not (self._listener.transactional and outcome is DONE):
            end = partial(self._in_flight.end_event, held, index, outcome, started=started, duration=ended - started)
            _after(thread, end)
        if ended - self._yielded_at > LOOP_SHARE:
            await asyncio.sleep(0)
            self._yielded_at = now()
        return outcome

    def _is_excused(self, error: BaseException | None, started: float) -> bool:
        """Whether the bus itself could not be reached from the handler: no failure of the handler's, which comes again.

        A handler may raise this for another bus, or raise it each time: that counts as a failure, unless this worker
        was disconnected as well.
        """
        return isinstance(error, errors.DatabaseUnreachableError) and self._running.standing.was_cut_off(started)

    async def _leave(self, held: HeldClaim, index: int) -> Left | None:
        event = held.claim.events[index]
        try:
            refuse_unreadable(event)
        except UnhandledEventError:
            return None  # the worker that has claimed it makes it a dead letter
        return self._end_left(held, index, await self._known.why_left(event))

    def _end_left(self, held: HeldClaim, index: int, reason: str | None) -> Left | None:
        if reason is None:
            return None
        left = Left(held.claim.events[index].topic, reason)
        self._in_flight.end_event(held, index, left, started=now(), duration=0.0)
        return left

    async def _decode(self, held: HeldClaim, index: int) -> Any:
        """Decode the event for the handler; raises UnhandledEventError for an event that no handler can get.

        Raises LeftToOthers for one that another version of the listener may be able to get.
        """
        event = held.claim.events[index]
        refuse_unreadable(event)
        try:
            return self._listener.decode(held.messages[index])
        except UnhandledEventError:
            if left := self._end_left(held, index, await self._known.why_unread(event)):
                raise LeftToOthers(left) from None
            raise

    async def _run_hooks_before(self, held: HeldClaim, index: int) -> None:
        event = held.claim.events[index]
        refuse_unreadable(event)
        held.replace_message(index, await prepare(self._hooks.before_event_execution, event))

    async def _handle(self, held_claims: Sequence[HeldClaim], body: Any, call: HandlerCall) -> None:
        self._calls.add(call)
        try:
            if self._listener.transactional:
                await self._transactions.run(held_claims, body, call)
            else:
                await self._executor.run(body, call.events, call.attempt)
        finally:
            self._calls.discard(call)

    def _decide(self, error: BaseException | None, held: HeldClaim, index: int) -> Outcome:
        outcome = decide(error, attempt=held.claim.attempt, policy=self._listener.retry)
        if error is not None and not isinstance(outcome, Done):
            self._log_failure(error, outcome, held, index)
        return outcome

    def _log_failure(self, error: BaseException, outcome: Retry | Dead, held: HeldClaim, index: int) -> None:
        name, event, attempt = self._listener.name, held.claim.events[index], held.claim.attempt
        match outcome:
            case Dead():
                level, ending = logging.ERROR, f"gave up on event {event.position} after attempt {attempt}"
            case Retry(delay=delay):
                level = logging.WARNING
                ending = f"failed on event {event.position}, attempt {attempt}, and tries again in {duration(delay)}"
        self._failures.log(
            level,
            name,
            f"{ending}: {outcome.error}",
            # Handlers raise the first two on purpose, and the third is raised before the handler is called.
            error=None if isinstance(error, errors.Retry | errors.Dead | UnhandledEventError) else error,
            fields={
                "listener_name": name,
                "event_id": str(event.event_id),
                "topic": event.topic,
                "key": event.key,
                "attempt": attempt,
                "correlation_id": event.correlation_id,
            },
        )

    # ---------------------------------------------------------------------------------------------------- batches

    async def attempt_batch(self, held_claims: Sequence[HeldClaim]) -> None:
        """Try all their events in one call; if that fails, each alone, so that one cannot fail all."""
        decoded = await self._decode_all(held_claims)
        if await self._call_batch(decoded):
            return
        for one in decoded:
            # Asked for each: the calls before it took their time, and the claim may have ended meanwhile.
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
                    if self._hooks.before_event_execution:
                        await self._run_hooks_before(held, index)
                    decoded.append(Decoded(held, index, await self._decode(held, index)))
                except LeftToOthers:
                    continue
                except BaseException as error:  # of this event alone: the others of the batch go on to the call
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
            begin(decoded[0].held.claim.events[decoded[0].index])
            bodies, messages = [one.body for one in decoded], [one.message for one in decoded]
            attempt = max(one.held.claim.attempt for one in decoded)
            await self._handle(_held_claims(decoded), bodies, HandlerCall(messages, attempt, started))
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

    def _end_batch(self, decoded: Sequence[Decoded], error: BaseException | None, *, started: float) -> None:
        duration = (now() - started) / len(decoded)
        for one in decoded:
            outcome = self._decide(error, one.held, one.index)
            self._in_flight.end_event(one.held, one.index, outcome, started=started, duration=duration)


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
