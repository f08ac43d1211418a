"""`deliver_now`: run the listeners of what a test has published, and return when they are through."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Threads
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from pgbus.api.life import refuse_to_block
from pgbus.bus import Bus
from pgbus.database.adapters import is_djangos
from pgbus.errors import ConfigurationError, ConnectionUnusableError
from pgbus.testing.attempts import Attempt
from pgbus.testing.committed import deliver_committed
from pgbus.testing.rehearsal import rehearse
from pgbus.testing.transactions import AsyncJoin, JoinedTransactions, SyncJoin, lent

T = TypeVar("T")

PATIENCE = 30.0


async def deliver_now(
    bus: Bus, *others: Bus, using: object = None, raise_errors: bool = True, timeout: float = PATIENCE
) -> list[Attempt]:
    """Run the listeners of buses for published events, and for the events that they publish, until none is left.

    - `others`: buses of other services, in the same database and namespace.
    - `using`: an open connection or session (asyncpg, psycopg's or SQLAlchemy's async ones): what its transaction has
      published is delivered in it, though it is not committed. Whatever the bus publishes meanwhile joins it, and
      transactional handlers write in it. Rolled back, nothing is left of it all. Default: a worker delivers what was
      committed.
    - `raise_errors`: what a handler raises comes through at once; if false, failed events are tried again as the
      listener's policy says, without its delays, and the returned attempts contain it.
    - `timeout`: seconds that a worker gets.

    Events that are scheduled for later stay where they are. Returns every attempt, in order. Raises
    ConnectionUnusableError where `using` is in no transaction, or cannot give a handler the connection that it takes;
    and TimeoutError.
    """
    buses = _distinct(bus, *others)
    if using is None:
        return await deliver_committed(buses, raise_errors=raise_errors, timeout=timeout)
    if is_djangos(using):
        raise ConnectionUnusableError(
            "Django's connection belongs to one thread, on which plain handlers must run: call deliver_now_sync"
        )
    threads = ThreadPoolExecutor(bus.config.listener_threads, thread_name_prefix="pgbus test")
    try:
        return await rehearse(
            buses,
            join=AsyncJoin(using),
            transactions=JoinedTransactions(using),
            threads=threads,
            raise_errors=raise_errors,
        )
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def deliver_now_sync(
    bus: Bus, *others: Bus, using: object = None, raise_errors: bool = True, timeout: float = PATIENCE
) -> list[Attempt]:
    """`deliver_now` for code that blocks; `using` is a connection of psycopg or Django, or SQLAlchemy's or its Session.

    With `using`, plain handlers run on the calling thread, where the connections that belong to it can be had; async
    ones on the bus's own event loop. `timeout`: seconds that a worker gets. Raises CannotBlockHere on the thread of a
    running event loop.
    """
    refuse_to_block(blocking="deliver_now_sync", awaitable="deliver_now")
    buses = _distinct(bus, *others)
    if using is None:
        return bus.client.blocking.block(
            lambda: deliver_committed(buses, raise_errors=raise_errors, timeout=timeout), "deliver_now"
        )
    desk = ThisThread()
    with lent(using) as connection:
        join = SyncJoin(connection)

        async def rehearsal() -> list[Attempt]:
            transactions = JoinedTransactions(connection)
            with transactions.queries_of_async_code_in(desk):
                return await rehearse(
                    buses, join=join, transactions=transactions, threads=desk, raise_errors=raise_errors
                )

        return desk.serve(lambda: bus.client.blocking.block(rehearsal, "deliver_now"))


def _distinct(bus: Bus, *others: Bus) -> Sequence[Bus]:
    """The buses; raises ConfigurationError for some that cannot hear each other."""
    for other in others:
        if other.config.namespace != bus.config.namespace or other.config.dsn != bus.config.dsn:
            raise ConfigurationError(
                "events are delivered at once to buses of one database and namespace; deliver others separately"
            )
    return list(dict.fromkeys([bus, *others]))


class ThisThread(Threads):
    """Runs what is submitted to it on the thread that serves."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have it run by `serve`."""
        future: Future[Any] = Future()
        self._work.put((future, partial(fn, *args, **kwargs)))
        return future

    def serve(self, blocking: Callable[[], T]) -> T:
        """Run what is submitted, until `blocking`, in a thread of its own, is through; its result."""
        with ThreadPoolExecutor(1, thread_name_prefix="pgbus test") as waiting:
            result = waiting.submit(blocking)
            result.add_done_callback(lambda _: self._work.put(None))
            while item := self._work.get():
                future, work = item
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(work())
                    except BaseException as error:
                        future.set_exception(error)
            return result.result()
