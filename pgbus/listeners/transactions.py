"""A transactional handler's transaction, which settles its claims as well: either all of it commits, or nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pgbus.aio.backoff import Backoff
from pgbus.aio.clock import now
from pgbus.database.adapters import AsyncExecutor, SyncExecutor
from pgbus.database.adapters.transactions import TransactionLost
from pgbus.database.statements import deliveries
from pgbus.database.statements.bound import Bound
from pgbus.database.tries import LINK_PAUSE, LINK_PAUSE_LIMIT
from pgbus.errors import HandlerTransactionError
from pgbus.listeners.claims import ClaimsInFlight
from pgbus.listeners.executor import ClaimLost, Executor
from pgbus.listeners.handler_call import HandlerCall
from pgbus.listeners.running import RunningListener
from pgbus.listeners.settlement import HeldClaim, Tally, settlement

logger = logging.getLogger("pgbus")

# So often in a row a connection may break under a handler before that counts as its failure: it may be what breaks it.
MAX_LOSSES = 5

WasSettled: TypeAlias = Callable[[Sequence[HeldClaim], Tally], None]


class HandlerTransactions:
    """Runs one listener's handler in transactions; `was_settled` gets the claims that one has settled, and a tally."""

    def __init__(
        self,
        running: RunningListener,
        *,
        executor: Executor,
        in_flight: ClaimsInFlight,
        was_settled: WasSettled,
    ) -> None:
        self._running = running
        self._executor = executor
        self._in_flight = in_flight
        self._was_settled = was_settled

    async def run(self, held_claims: Sequence[HeldClaim], body: Any, call: HandlerCall) -> None:
        """Have the handler's writes and the settlement of its events commit together.

        A transaction whose connection broke, or could not be had, is begun again while we hold the claims. Raises
        TransactionLost when we do no longer.
        """
        backoff = Backoff(LINK_PAUSE, LINK_PAUSE_LIMIT)
        losses = 0
        while True:
            try:
                await self._run_once(held_claims, body, call)
            except TransactionLost as lost:
                losses += lost.was_called
                if losses == MAX_LOSSES:
                    raise lost.error from None
                if not backoff.tries:
                    logger.warning(
                        "%s: the transaction was lost, and is started again: %s", self._running.name, lost.error
                    )
                await asyncio.sleep(backoff.next())
                # The upkeep extends the leases meanwhile. Where it cannot, they end, and another worker has the events.
                if not all(held.may_begin(now()) for held in held_claims):
                    raise
            else:
                return

    async def _run_once(self, held_claims: Sequence[HeldClaim], body: Any, call: HandlerCall) -> None:
        ends = _Ends(held_claims, call, running=self._running)
        try:
            await self._executor.run_in_transaction(body, call.events, call.attempt, settling=ends)
        except BaseException:
            # Rolled back, or nobody knows; then the token decides.
            ends.is_given_up = True
            raise
        # It has committed, and the deliveries are gone. A process that dies before these lines has nothing to make up
        # for.
        for held in ends.settled:
            self._in_flight.note_work(held)
            self._in_flight.remove(held)
        self._was_settled(ends.settled, ends.tally)


class _Ends:
    """The two ends of one transaction: it holds the claims, and settles them.

    A thread that runs past its timeout goes on after the attempt has failed: `is_given_up` then keeps it from settling.
    It is written on the loop and read in the thread; the token decides when that is too late.
    """

    def __init__(self, held_claims: Sequence[HeldClaim], call: HandlerCall, *, running: RunningListener) -> None:
        self._held_claims = held_claims
        self._call = call
        self._running = running
        self._namespace = running.config.namespace
        # Of the transaction that has locked the claims: set by `begin`, for `settle`.
        self._xid: int | None = None
        # What `settle` has written, for after the commit; it means nothing unless that succeeds.
        self.settled: list[HeldClaim] = []
        self.tally = Tally()
        self.is_given_up = False

    async def begin(self, executor: AsyncExecutor) -> None:
        """Hold the claims: nobody can free them while their rows are locked."""
        for lock in self._locks():
            self._note_lock(await executor.fetch(*lock))

    def begin_sync(self, executor: SyncExecutor) -> None:
        """Do the same as `begin`, in the handler's thread."""
        for lock in self._locks():
            self._note_lock(executor.fetch(*lock))

    async def settle(self, executor: AsyncExecutor) -> None:
        """Settle them as done, but for events that have ended otherwise before."""
        self._check(await executor.fetch(*self._settlement()))

    def settle_sync(self, executor: SyncExecutor) -> None:
        """Do the same as `settle`, in the handler's thread."""
        self._check(executor.fetch(*self._settlement()))

    def _locks(self) -> list[Bound]:
        return [deliveries.lock_claim(held.claim, namespace=self._namespace) for held in self._held_claims]

    def _note_lock(self, rows: Sequence[Sequence[Any]]) -> None:
        self._xid = deliveries.read_lock(rows)
        if self._xid is None:
            raise ClaimLost

    def _settlement(self) -> Bound:
        started = self._call.started
        duration = (now() - started) / len(self._call.events)
        self.settled = [held.with_rest_done(started=started, duration=duration) for held in self._held_claims]
        values, self.tally, _ = settlement(
            self.settled,
            listener_id=self._running.id,
            worker=self._running.worker,
            blocking=self._running.listener.blocks,
            # Only in the transaction that has locked them: a handler may have ended it, and be in the next one.
            xid=self._xid,
        )
        # Last: a thread that ran past its timeout is still here, and the claims have been ended otherwise by now.
        if self.is_given_up:
            raise ClaimLost
        return deliveries.settle_claims(values, namespace=self._namespace)

    def _check(self, rows: Sequence[object]) -> None:
        if len(rows) < len(self._held_claims):
            raise HandlerTransactionError
