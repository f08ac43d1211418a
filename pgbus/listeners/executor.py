"""Calling one listener's handler: on the loop, in a thread, or in a transaction, within middleware and the timeout.

It knows nothing of claims: for a transactional handler, a `Settling` says what to do before and after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor as Threads
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

from pgbus.aio import threads as in_threads
from pgbus.aio.returned import finish, refuse_awaitable
from pgbus.aio.threads import Visit
from pgbus.database.adapters import AsyncExecutor, SyncExecutor
from pgbus.database.adapters.transactions import TransactionLost, Transactions, is_ended
from pgbus.database.faults import is_passing
from pgbus.errors import HandlerTimeoutError, HandlerTransactionError
from pgbus.handlers.contexts import Context, Publishes
from pgbus.handlers.middleware import Middleware
from pgbus.handlers.signatures import Wanted
from pgbus.listeners.listener import Listener
from pgbus.messages import EventMessage
from pgbus.telemetry import Abandoned, Instruments, Process

T = TypeVar("T")

logger = logging.getLogger("pgbus")


class ClaimLost(Abandoned):
    """The claim was taken back before the handler began: someone else has the event now."""


class ThreadLeft(Exception):
    """The handler ran past its timeout, which is `error`; its thread, and so its transaction, goes on until `ended`."""

    def __init__(self, error: HandlerTimeoutError, ended: asyncio.Future[Any]) -> None:
        super().__init__(str(error))
        self.error = error
        self.ended = ended


class Settling(Protocol):
    """The two ends of a handler's transaction, for one that awaits and for one that blocks."""

    async def begin(self, executor: AsyncExecutor) -> None:
        """Runs before the handler; raises ClaimLost when there is nothing to handle any more."""
        ...

    async def settle(self, executor: AsyncExecutor) -> None:
        """Runs after the handler, before the commit."""
        ...

    def begin_sync(self, executor: SyncExecutor) -> None:
        """Do the same as `begin`, in the handler's thread."""
        ...

    def settle_sync(self, executor: SyncExecutor) -> None:
        """Do the same as `settle`, in the handler's thread."""
        ...


class _Call:
    """A call of a handler in a transaction: whether it has begun, and the thread that it is in, if any.

    As a context manager, it tells what a transaction that failed means for the attempt.
    """

    # Set just before the handler is called, in the thread of one that blocks; read on the loop when the attempt has
    # ended. From then on a lost connection may be the handler's doing, and is counted.
    has_begun = False
    # Set when the thread is started. It goes on after a timeout, with the transaction and the row lock.
    thread: asyncio.Future[Any] | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TransactionLost):
            error.was_called = self.has_begun
        if isinstance(error, HandlerTimeoutError):
            if not self.has_begun:  # a connection that hangs while it is opened, or a lock that is waited for
                raise TransactionLost(error) from error
            if self.thread and not self.thread.done():
                raise ThreadLeft(error, self.thread) from error


@contextmanager
def _before_the_handler() -> Iterator[None]:
    """Take what the server refuses for now, such as a lock, for no failure of a handler that was not called yet."""
    try:
        yield
    except Exception as error:
        if is_passing(error):
            raise TransactionLost(error) from error
        raise


class Executor:
    """Calls the handler of one listener with what it takes: a decoded event, or a list of them for a batch."""

    def __init__(
        self,
        listener: Listener,
        *,
        threads: Threads,
        transactions: Transactions,
        middleware: Middleware,
        instruments: Instruments,
        sender: Publishes,
    ) -> None:
        self._listener = listener
        self._threads = threads
        self._transactions = transactions
        self._middleware = middleware
        self._instruments = instruments
        self._sender = sender
        self._call_handler = self._call_async if listener.signature.is_async else self._call_plain
        self._what = f"the handler of {listener.name!r}"

    def run(self, body: Any, events: Sequence[EventMessage], attempt: int) -> Awaitable[object]:
        """Handle it; whatever the handler raises comes through."""
        work = self._call(body, self._context(events, attempt))
        return self._surround(work, events, attempt) if self._instruments.all else work

    def run_in_transaction(
        self, body: Any, events: Sequence[EventMessage], attempt: int, *, settling: Settling
    ) -> Awaitable[None]:
        """Handle it in an open transaction, which begins and ends with `settling`.

        Raises TransactionLost for what was not the handler's failure, and ThreadLeft for a plain function that runs
        past its timeout.
        """
        work = self._transact(body, self._context(events, attempt), settling)
        return self._surround(work, events, attempt) if self._instruments.all else work

    async def _surround(self, work: Awaitable[object], events: Sequence[EventMessage], attempt: int) -> None:
        """Within instruments, and outside of the timeout, so that they see its error and not a cancellation."""
        operation = Process(self._listener.name, events, attempt, in_batch=self._listener.batch)
        left: ThreadLeft | None = None
        try:
            with self._instruments.around(operation):
                try:
                    await work
                except ThreadLeft as error:
                    left = error
                    raise error.error from None
        except HandlerTimeoutError:
            if left is None:
                raise
            raise left from None

    async def _transact(self, body: Any, context: Context, settling: Settling) -> None:
        wanted = self._listener.signature.wanted
        assert wanted is not None  # a transactional listener has one
        call = _Call()
        with call:
            if wanted.is_blocking:
                await self._run_in_threads_transaction(body, context, wanted, settling, call)
                return
            async with self._transactions.begin(wanted) as (connection, executor):
                with _before_the_handler():
                    await settling.begin(executor)
                context.connection = connection
                call.has_begun = True
                await self._call(body, context)
                if is_ended(connection):
                    raise HandlerTransactionError
                await settling.settle(executor)

    async def _run_in_threads_transaction(
        self, body: Any, context: Context, wanted: Wanted, settling: Settling, call: _Call
    ) -> None:
        """The transaction is a thread's, so that only plain middleware is within it; what is async is around it."""
        # Set on the loop once the thread's transaction has committed: no failure of the middleware around it can take
        # that back, so it must not make the event fail.
        has_committed = False

        def transact(handle: Callable[[], object]) -> object:
            try:
                with self._transactions.begin_sync(wanted) as (connection, executor):
                    with _before_the_handler():
                        settling.begin_sync(executor)
                    context.connection = connection
                    call.has_begun = True
                    value = handle()
                    if is_ended(connection):
                        raise HandlerTransactionError
                    settling.settle_sync(executor)
                    return value
            finally:
                # By the thread: one that was left goes on, and what its handler publishes must not leave the
                # transaction. Async middleware, which goes on after it, has no part in that.
                context.connection = None

        def handle() -> object:
            work = partial(self._call_blocking, self._arguments(body, context))
            return self._middleware.around_plain(context, work)()

        async def call_next() -> object:
            nonlocal has_committed
            value = await self._in_thread(lambda _: transact(handle), call)
            has_committed = True
            return value

        try:
            await self._within_timeout(self._middleware.around(context, call_next)())
        except Exception:
            if not has_committed:
                raise
            logger.exception("%s: middleware failed after the handler's transaction", self._listener.name)
        if not has_committed:  # middleware has skipped the handler, or caught its error: settled as done all the same
            await self._within_timeout(self._in_thread(lambda _: transact(lambda: None), call))

    # ------------------------------------------------------------------------------------------------------- calling

    def _call(self, body: Any, context: Context) -> Awaitable[object]:
        # A plain function: a coroutine more would be paid for with each event.
        arguments = self._arguments(body, context)
        work = self._middleware.around(context, partial(self._call_handler, context, arguments))()
        return work if self._listener.timeout is None else self._within_timeout(work)

    def _context(self, events: Sequence[EventMessage], attempt: int) -> Context:
        return Context(events=events, attempt=attempt, listener_name=self._listener.name, sender=self._sender)

    def _arguments(self, body: Any, context: Context) -> dict[str, Any]:
        signature = self._listener.signature
        arguments = {signature.event: body}
        if signature.context:
            arguments[signature.context] = context
        if signature.connection:
            arguments[signature.connection] = context.connection
        return arguments

    async def _within_timeout(self, work: Awaitable[object]) -> None:
        timeout = self._listener.timeout
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                await work
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise HandlerTimeoutError(f"the handler ran past its timeout of {timeout:g} seconds") from error

    async def _call_async(self, context: Context, arguments: dict[str, Any]) -> object:  # noqa: ARG002 - as _call_plain
        value = await self._listener.handler(**arguments)
        return value if value is None else await finish(value, self._what)

    async def _call_plain(self, context: Context, arguments: dict[str, Any]) -> object:
        def call(visit: Visit) -> object:
            work = partial(self._visit, visit, arguments)
            return self._middleware.around_plain(context, work)()

        return await self._in_thread(call)

    def _visit(self, visit: Visit, arguments: dict[str, Any]) -> object:
        return visit.finish(self._listener.handler(**arguments), self._what)

    def _call_blocking(self, arguments: dict[str, Any]) -> object:
        """Call it within a transaction that is its thread's, so that nothing else may work in it."""
        value = self._listener.handler(**arguments)
        return refuse_awaitable(value, self._what, "and its transaction is its thread's: do the work in plain code")

    async def _in_thread(self, work: Callable[[Visit], T], call: _Call | None = None) -> T:
        """Run a plain function in a thread. One that runs past its timeout cannot be stopped, only given up on."""
        visit = Visit()
        thread = in_threads.start(self._threads, lambda: visit.run(work))
        if call:
            call.thread = thread
        try:
            # Shielded, it stays undone for as long as the function runs, also when nobody waits for it any more.
            return (await (asyncio.shield(thread) if call else thread)).result()
        except asyncio.CancelledError:
            visit.leave()
            raise
