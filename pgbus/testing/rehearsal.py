"""Delivery inside a transaction that is still open: what it has published goes to the listeners, and nowhere else.

Nothing is written but what handlers write. Routing, decoding, calling and judging are the engine's own; claims, leases
and delays are not needed, as nobody else sees these events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor as Threads
from contextlib import ExitStack

from pgbus.aio.tasks import is_being_cancelled
from pgbus.bus import Bus
from pgbus.causality import caused_by
from pgbus.database.adapters import AsyncExecutor, SyncExecutor
from pgbus.database.statements import testing
from pgbus.errors import ConnectionUnusableError, UnhandledEventError
from pgbus.handlers.outcomes import Dead, Retry, decide
from pgbus.listeners.executor import Executor
from pgbus.listeners.hooks import prepare
from pgbus.listeners.listener import Listener
from pgbus.messages import EventMessage
from pgbus.testing.attempts import Attempt
from pgbus.testing.transactions import JoinedTransactions

BATCH_SIZE = 500


async def rehearse(
    buses: Sequence[Bus],
    *,
    join: AsyncExecutor,
    transactions: JoinedTransactions,
    threads: Threads,
    raise_errors: bool,
) -> list[Attempt]:
    """Deliver to the buses, of one namespace, until nothing is left, while what they publish joins the transaction.

    `join` runs statements in the transaction; plain handlers run in `threads`.
    """
    namespace = buses[0].config.namespace
    await _check_transaction(join, namespace)
    attempts: list[Attempt] = []
    parts = [
        Rehearsal(bus, transactions=transactions, threads=threads, raise_errors=raise_errors, attempts=attempts)
        for bus in buses
    ]
    with ExitStack() as stack:
        for bus in buses:
            stack.enter_context(bus.client.sender.joining(join))
        for bus in buses:
            # They may declare listeners; those of plugins are for a worker, and its end.
            await bus.registry.hooks.before_worker_start.run_once(plugins=False)
        while events := await testing.take_own_events(join, namespace=namespace):
            for part in parts:
                await part.deliver(events)
    return attempts


async def _check_transaction(join: AsyncExecutor, namespace: str) -> None:
    ids = [await testing.find_transaction(join, namespace=namespace) for _ in range(2)]
    if ids[0] != ids[1]:
        raise ConnectionUnusableError(
            "the connection is in no transaction, so what it publishes is committed at once; begin one, or deliver "
            "without `using`"
        )


class Rehearsal:
    """The part of one bus: its listeners, whose attempts are added to `attempts`."""

    def __init__(
        self,
        bus: Bus,
        *,
        transactions: JoinedTransactions,
        threads: Threads,
        raise_errors: bool,
        attempts: list[Attempt],
    ) -> None:
        self._bus = bus
        self._hooks = bus.registry.hooks
        self._transactions = transactions
        self._threads = threads
        self._raise_errors = raise_errors
        self._attempts = attempts
        self._barred: set[tuple[str, str]] = set()

    async def deliver(self, events: Sequence[EventMessage]) -> None:
        """Deliver events to the listeners that hear them, one listener after the other."""
        for listener in self._bus.registry.work().listeners:
            await self._deliver(listener, [event for event in events if listener.hears(event)])

    # ------------------------------------------------------------------------------------------------------ attempts

    async def _deliver(self, listener: Listener, events: Sequence[EventMessage]) -> None:
        if not events:
            return
        self._transactions.check(listener)
        if not listener.batch:
            for event in events:
                await self._deliver_alone(listener, event)
            return
        fit = [event for event in events if await self._fits(listener, event)]
        size = listener.batch_size or BATCH_SIZE
        for start in range(0, len(fit), size):
            await self._deliver_together(listener, fit[start : start + size])

    async def _deliver_together(self, listener: Listener, events: Sequence[EventMessage]) -> None:
        """All in one call; if that fails, each alone, so that one cannot fail all."""
        if len(events) > 1 and await self._try(listener, events, 1) is None:
            for event in events:
                self._judge(listener, event, 1, None)
            return
        for event in events:
            await self._deliver_alone(listener, event)

    async def _deliver_alone(self, listener: Listener, event: EventMessage) -> None:
        """Attempt after attempt, as often as the listener's policy has it, without its delays."""
        if event.key is not None and (listener.name, event.key) in self._barred:
            self._attempts.append(Attempt(listener.name, event, 1, "blocked"))
            return
        attempt = 1
        while self._judge(listener, event, attempt, await self._try(listener, [event], attempt)):
            attempt += 1

    async def _fits(self, listener: Listener, event: EventMessage) -> bool:
        """Whether the event is one for a batch; one that cannot be decoded would fail all the others."""
        if self._hooks.before_event_execution:
            return True  # or not, by what the hooks make of it: that is seen when it is tried
        try:
            listener.decode(event)
        except UnhandledEventError as error:
            if self._raise_errors:
                raise
            self._judge(listener, event, 1, error)
            return False
        return True

    async def _try(self, listener: Listener, events: Sequence[EventMessage], attempt: int) -> BaseException | None:
        """Call the handler; what it raised is returned, or raised if the test wants that."""
        try:
            with caused_by(events[0]):
                if self._hooks.before_event_execution:
                    events = [await prepare(self._hooks.before_event_execution, event) for event in events]
                await self._call(listener, events, attempt)
                for event in events:
                    await self._hooks.after_event_execution.run_all(event_message=event)
        except asyncio.CancelledError as cancelled:
            if self._raise_errors or is_being_cancelled():
                raise
            return cancelled
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # even a SystemExit is the handler's failure
            if self._raise_errors:
                raise
            return error
        return None

    async def _call(self, listener: Listener, events: Sequence[EventMessage], attempt: int) -> None:
        executor = Executor(
            listener,
            threads=self._threads,
            transactions=self._transactions,
            instruments=self._hooks.instruments,
            middleware=self._bus.registry.middleware,
            sender=self._bus,
        )
        bodies = [listener.decode(event) for event in events]
        body = bodies if listener.batch else bodies[0]
        if listener.transactional:
            await executor.run_in_transaction(body, events, attempt, settling=_NothingToSettle())
        else:
            await executor.run(body, events, attempt)

    def _judge(self, listener: Listener, event: EventMessage, attempt: int, error: BaseException | None) -> bool:
        """Note what follows from an attempt; whether there is to be another one."""
        match decide(error, attempt=attempt, policy=listener.retry):
            case Retry(error=text):
                self._attempts.append(Attempt(listener.name, event, attempt, "retry", text))
                return True
            case Dead(error=text):
                self._attempts.append(Attempt(listener.name, event, attempt, "dead", text))
                if listener.blocks and event.key is not None:
                    self._barred.add((listener.name, event.key))
            case _:
                self._attempts.append(Attempt(listener.name, event, attempt, "done"))
        return False


class _NothingToSettle:
    """The ends of a handler's transaction where there is no claim to lock or to settle."""

    async def begin(self, executor: AsyncExecutor) -> None: ...

    async def settle(self, executor: AsyncExecutor) -> None: ...

    def begin_sync(self, executor: SyncExecutor) -> None: ...

    def settle_sync(self, executor: SyncExecutor) -> None: ...
