"""Running one handler on one event (or batch): decode, call, and say what came of it.

It knows nothing of claims: for a transactional handler, the caller says what to do before and after it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor as Threads
from contextlib import contextmanager
from typing import Any, TypeVar

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

T = TypeVar("T")

logger = logging.getLogger("pgbus")


class ClaimLost(Exception):
    """The claim was taken back before the handler began: someone else has the event now."""


class ThreadLeft(Exception):
    """The handler ran past its timeout, which is `error`; its thread, and so its transaction, goes on until `ended`."""

    def __init__(self, error: HandlerTimeoutError, ended: asyncio.Future[Any]) -> None:
        super().__init__(str(error))
        self.error = error
        self.ended = ended


class _Call:
    """A call of a handler in a transaction: whether it has begun, and the thread that it is in, if any."""

    has_begun = False
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
    """Calls the handler of one listener."""

    def __init__(
        self,
        listener: Listener,
        *,
        threads: Threads,
        transactions: Transactions,
        middleware: Middleware,
        sender: Publishes,
    ) -> None:
        self._listener = listener
        self._threads = threads
        self._transactions = transactions
        self._middleware = middleware
        self._sender = sender
        self._what = f"the handler of {listener.name!r}"
        signature = listener.signature
        self._only_event = not (signature.context or signature.connection)

    async def run(self, event: EventMessage, attempt: int) -> None:
        """Handle one event; whatever the handler raises comes through."""
        await self._call(self._listener.decode(event), [event], attempt, None)

    async def run_batch(self, bodies: list[Any], events: Sequence[EventMessage], attempt: int) -> None:
        """Handle decoded events in one call."""
        await self._call(bodies, events, attempt, None)

    async def run_in_transaction(
        self,
        body: Any,
        events: Sequence[EventMessage],
        attempt: int,
        *,
        begin: Callable[[AsyncExecutor], Awaitable[None]],
        settle: Callable[[AsyncExecutor], Awaitable[None]],
        begin_sync: Callable[[SyncExecutor], None],
        settle_sync: Callable[[SyncExecutor], None],
    ) -> None:
        """Handle with an open transaction, in which `begin` ran before the handler and `settle` after it.

        Raises TransactionLost for what was not the handler's failure, and ThreadLeft for a plain function that runs
        past its timeout.
        """
        wanted = self._listener.signature.wanted
        assert wanted is not None  # a transactional listener has one
        call = _Call()
        with call:
            if wanted.is_blocking:
                await self._run_in_threads_transaction(
                    body, events, attempt, wanted=wanted, call=call, begin=begin_sync, settle=settle_sync
                )
                return
            async with self._transactions.begin(wanted) as (connection, executor):
                with _before_the_handler():
                    await begin(executor)
                call.has_begun = True
                await self._call(body, events, attempt, connection)
                if is_ended(connection):
                    raise HandlerTransactionError
                await settle(executor)

    async def _run_in_threads_transaction(
        self,
        body: Any,
        events: Sequence[EventMessage],
        attempt: int,
        *,
        wanted: Wanted,
        call: _Call,
        begin: Callable[[SyncExecutor], None],
        settle: Callable[[SyncExecutor], None],
    ) -> None:
        def transact(handle: Callable[[Any], T]) -> T:
            with self._transactions.begin_sync(wanted) as (session, executor):
                with _before_the_handler():
                    begin(executor)
                call.has_begun = True
                value = handle(session)
                if is_ended(session):
                    raise HandlerTransactionError
                settle(executor)
                return value

        if self._middleware.is_used:
            await self._transact_wrapped(body, events, attempt, transact, call=call)
        else:
            context = self._context(events, attempt)

            def handle(session: Any) -> object:
                return self._call_blocking(self._arguments(body, context, session))

            await self._within_timeout(self._in_thread(lambda _: transact(handle), call))

    async def _call(self, body: Any, events: Sequence[EventMessage], attempt: int, connection: Any) -> None:
        listener = self._listener
        if self._middleware.is_used:
            await self._call_wrapped(body, events, attempt, connection)
        elif listener.signature.is_async and self._only_event and listener.timeout is None:
            value = await listener.handler(**{listener.signature.event: body})
            if value is not None:
                await finish(value, self._what)
        else:
            arguments = self._arguments(body, self._context(events, attempt, connection), connection)
            if listener.signature.is_async:
                await self._within_timeout(self._call_async(arguments))
            else:
                await self._within_timeout(self._in_thread(lambda visit: self._call_plain(visit, arguments)))

    # ---------------------------------------------------------------------------------------------------- middleware

    async def _call_wrapped(self, body: Any, events: Sequence[EventMessage], attempt: int, connection: Any) -> None:
        context = self._context(events, attempt, connection)
        arguments = self._arguments(body, context, connection)

        def call_plain(visit: Visit) -> Any:
            return self._middleware.around_plain(context, lambda: self._call_plain(visit, arguments))()

        handle = (
            functools.partial(self._call_async, arguments)
            if self._listener.signature.is_async
            else functools.partial(self._in_thread, call_plain)
        )
        await self._within_timeout(self._middleware.around(context, handle)())

    async def _transact_wrapped(
        self,
        body: Any,
        events: Sequence[EventMessage],
        attempt: int,
        transact: Callable[[Callable[[Any], Any]], Any],
        *,
        call: _Call,
    ) -> None:
        """The transaction is a thread's, so that only plain middleware is within it; what is async is around it."""
        context = self._context(events, attempt)
        committed = False

        def handle(session: Any) -> Any:
            context.connection = session
            work = functools.partial(self._call_blocking, self._arguments(body, context, session))
            return self._middleware.around_plain(context, work)()

        async def call_next() -> Any:
            nonlocal committed
            try:
                value = await self._in_thread(lambda _: transact(handle), call)
            finally:
                context.connection = None
            committed = True
            return value

        try:
            await self._within_timeout(self._middleware.around(context, call_next)())
        except Exception:
            if not committed:
                raise
            logger.exception("%s: middleware failed after the handler's transaction", self._listener.name)
        if not committed:  # the handler was skipped, or its error was taken for none
            await self._within_timeout(self._in_thread(lambda _: transact(lambda _: None), call))

    # ------------------------------------------------------------------------------------------------------- calling

    def _context(self, events: Sequence[EventMessage], attempt: int, connection: Any = None) -> Context:
        return Context(
            events=events,
            attempt=attempt,
            listener_name=self._listener.name,
            connection=connection,
            sender=self._sender,
        )

    def _arguments(self, body: Any, context: Context, connection: Any) -> dict[str, Any]:
        signature = self._listener.signature
        arguments = {signature.event: body}
        if signature.context:
            arguments[signature.context] = context
        if signature.connection:
            arguments[signature.connection] = connection
        return arguments

    async def _within_timeout(self, work: Awaitable[object]) -> None:
        timeout = self._listener.timeout
        if timeout is None:
            await work
            return
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                await work
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise HandlerTimeoutError(f"the handler ran past its timeout of {timeout:g} seconds") from error

    async def _call_async(self, arguments: dict[str, Any]) -> Any:
        return await finish(self._listener.handler(**arguments), self._what)

    def _call_plain(self, visit: Visit, arguments: dict[str, Any]) -> Any:
        return visit.finish(self._listener.handler(**arguments), self._what)

    def _call_blocking(self, arguments: dict[str, Any]) -> Any:
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
