"""The transaction of a test: what is published without `using` joins it, and so do transactional handlers.

Such a handler runs within a savepoint: what it wrote is gone when it fails, and the test's transaction goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Executor as Threads
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from pgbus.database.adapters import AsyncExecutor, SyncExecutor, async_executor, is_djangos, sync_executor
from pgbus.database.adapters.transactions import Transactions
from pgbus.database.adapters.transactions import Wanted as AnyWanted
from pgbus.database.sql import Statement
from pgbus.errors import ConnectionUnusableError
from pgbus.handlers.signatures import Wanted
from pgbus.listeners.listener import Listener

_ASYNC = "an SQLAlchemy AsyncSession or AsyncConnection"
_SYNC = "an SQLAlchemy Session or Connection, with deliver_now_sync"
_WANTED = {
    "asyncpg": f"an asyncpg connection, or {_ASYNC} over asyncpg",
    "psycopg_async": f"a psycopg AsyncConnection, or {_ASYNC} over psycopg",
    "psycopg_sync": f"a psycopg Connection, or {_SYNC}",
    "sqlalchemy_async": _ASYNC,
    "sqlalchemy_async_connection": _ASYNC,
    "sqlalchemy_sync": _SYNC,
    "sqlalchemy_sync_connection": _SYNC,
    "django": "Django's connection, with deliver_now_sync",
}
_SCOPED = ("scoped_session", "async_scoped_session")


@contextmanager
def lent(using: object) -> Iterator[Any]:
    """The connection as the bus's own thread may use it while this one waits: Django's is one thread's otherwise."""
    if not is_djangos(using):
        yield using
        return
    from pgbus.database.adapters import django

    with django.lent(using) as connection:
        yield connection


class AsyncJoin:
    """Runs statements in a test's transaction from any event loop, one after the other."""

    def __init__(self, using: object) -> None:
        self._executor = async_executor(using)
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()

    async def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run a statement in the test's transaction; see AsyncExecutor."""
        if asyncio.get_running_loop() is self._loop:
            return await self._fetch(statement, values)
        # A blocking publish of a handler that runs in a thread comes by way of the bus's own loop.
        work = asyncio.run_coroutine_threadsafe(self._fetch(statement, values), self._loop)
        return await asyncio.wrap_future(work)

    async def _fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        async with self._turn:
            return await self._executor.fetch(statement, values)


class SyncJoin:
    """The same over a connection that blocks, whose own thread is waiting meanwhile."""

    def __init__(self, using: object) -> None:
        self._executor = sync_executor(using)
        self._turn = threading.Lock()

    async def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run a statement in the test's transaction; see AsyncExecutor."""
        # In a thread without an event loop, as Django wants it.
        return await asyncio.to_thread(self._fetch, statement, values)

    def _fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        with self._turn:
            return self._executor.fetch(statement, values)


class JoinedTransactions(Transactions):
    """Gives transactional handlers the connection or session of a test, in place of one from a pool."""

    def __init__(self, using: object) -> None:
        self._using: Any = using() if callable(using) and type(using).__name__ in _SCOPED else using
        self._family = next(
            name
            for base in type(self._using).__mro__
            if (name := base.__module__.partition(".")[0]) in ("asyncpg", "psycopg", "sqlalchemy", "django")
        )

    def check(self, listener: Listener) -> None:
        """Raise ConnectionUnusableError if the handler takes a kind of connection that the test's cannot be."""
        wanted = listener.signature.wanted
        if wanted and not self._fits(wanted):
            raise ConnectionUnusableError(
                f"the handler of {listener.name} writes in its event's transaction; "
                f"{type(self._using).__qualname__} cannot give it the connection that it takes: "
                f"let the test use {_WANTED[wanted.kind]}"
            )

    @contextmanager
    def queries_of_async_code_in(self, threads: Threads) -> Iterator[None]:
        """Have async handlers, too, use the connection of a test of Django: in these threads, which it belongs to."""
        if self._family != "django":
            yield
            return
        from pgbus.database.adapters import django

        with django.queries_of_async_code_in(threads):
            yield

    @asynccontextmanager
    async def begin(self, wanted: AnyWanted) -> AsyncIterator[tuple[Any, AsyncExecutor]]:
        """The test's connection or session, within a savepoint."""
        using = self._using
        if self._family != "sqlalchemy":
            async with using.transaction():
                yield using, async_executor(using)
        elif wanted.kind == "sqlalchemy_async" and not isinstance(using, wanted.cls):
            async with wanted.cls(await self._connection(), **_WITHIN) as session, session.begin():
                yield session, async_executor(session)
        else:
            async with using.begin_nested():
                yield await self._of_kind(wanted.kind), async_executor(using)

    @contextmanager
    def begin_sync(self, wanted: AnyWanted) -> Iterator[tuple[Any, SyncExecutor]]:
        """The same for a thread."""
        using = self._using
        if self._family == "django":
            from pgbus.database.adapters import django

            with django.begin(using) as begun:
                yield begun
        elif self._family != "sqlalchemy":
            with using.transaction():
                yield using, sync_executor(using)
        elif wanted.kind == "sqlalchemy_sync" and not isinstance(using, wanted.cls):
            with wanted.cls(self._connection_sync(), **_WITHIN) as session, session.begin():
                yield session, sync_executor(session)
        else:
            with using.begin_nested():
                yield self._of_kind_sync(wanted.kind), sync_executor(using)

    def _fits(self, wanted: Wanted) -> bool:
        if self._family != "sqlalchemy":
            return wanted.kind == self._family == "asyncpg" or isinstance(self._using, wanted.cls)
        if hasattr(self._using, "run_sync") is wanted.is_blocking:
            return False
        is_drivers = wanted.kind in ("asyncpg", "psycopg_async", "psycopg_sync")
        return not is_drivers or self._driver().partition("_")[0] == wanted.kind.partition("_")[0]

    def _driver(self) -> str:
        bind = self._using.get_bind() if hasattr(self._using, "get_bind") else self._using
        return str(bind.dialect.driver)

    async def _of_kind(self, kind: str) -> Any:
        # Asked for even of a session's savepoint: this is what has a session send its SAVEPOINT.
        connection = await self._connection()
        match kind:
            case "asyncpg" | "psycopg_async":
                return (await connection.get_raw_connection()).driver_connection
            case "sqlalchemy_async_connection":
                return connection
            case _:
                return self._using

    def _of_kind_sync(self, kind: str) -> Any:
        connection = self._connection_sync()
        match kind:
            case "psycopg_sync":
                return connection.connection.driver_connection
            case "sqlalchemy_sync_connection":
                return connection
            case _:
                return self._using

    async def _connection(self) -> Any:
        return await self._using.connection() if hasattr(self._using, "add") else self._using

    def _connection_sync(self) -> Any:
        return self._using.connection() if hasattr(self._using, "add") else self._using


_WITHIN: Any = {"expire_on_commit": False, "join_transaction_mode": "create_savepoint"}
