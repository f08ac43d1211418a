"""The transaction of a test: what is published without `using` joins it, and so do transactional handlers.

Such a handler runs within a savepoint: what it wrote is gone when it fails, and the test's transaction goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from pgbus.database.adapters import AsyncExecutor, SyncExecutor, async_executor, sync_executor
from pgbus.database.adapters.transactions import Transactions
from pgbus.database.sql import Statement
from pgbus.errors import ConnectionUnusableError
from pgbus.listeners.listener import Listener

_WANTED = {
    "asyncpg": "an asyncpg connection, or an SQLAlchemy AsyncSession or AsyncConnection over asyncpg",
    "sqlalchemy_async": "an SQLAlchemy AsyncSession or AsyncConnection",
    "sqlalchemy_sync": "an SQLAlchemy Session or Connection, with deliver_now_sync",
}
_SCOPED = ("scoped_session", "async_scoped_session")


class AsyncJoin:
    """Runs statements in a test's transaction from any event loop, one after the other."""

    def __init__(self, using: object) -> None:
        self._executor = async_executor(using)
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()

    async def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """As AsyncExecutor's."""
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
        """As AsyncExecutor's."""
        with self._turn:
            return self._executor.fetch(statement, values)


class JoinedTransactions(Transactions):
    """Gives transactional handlers the connection or session of a test, in place of one from a pool."""

    def __init__(self, using: object) -> None:
        self._using: Any = using() if callable(using) and type(using).__name__ in _SCOPED else using
        self._family = next(
            name
            for base in type(self._using).__mro__
            if (name := base.__module__.partition(".")[0]) in ("asyncpg", "psycopg", "sqlalchemy")
        )

    def check(self, listener: Listener) -> None:
        """Raise ConnectionUnusableError if the handler takes a kind of connection that the test's cannot be."""
        kind = listener.signature.connection_kind
        if kind and not self._fits(kind):
            raise ConnectionUnusableError(
                f"the handler of {listener.name} writes in its event's transaction; "
                f"{type(self._using).__qualname__} cannot give it the connection that it takes: "
                f"let the test use {_WANTED[kind]}"
            )

    @asynccontextmanager
    async def begin(self, kind: str) -> AsyncIterator[tuple[Any, AsyncExecutor]]:
        """The test's connection or session, within a savepoint."""
        if self._family == "asyncpg":
            async with self._using.transaction():
                yield self._using, async_executor(self._using)
        elif kind == "asyncpg":
            async with self._using.begin_nested():
                yield await self._driver_connection(), async_executor(self._using)
        elif hasattr(self._using, "add"):
            async with self._using.begin_nested():
                yield self._using, async_executor(self._using)
        else:
            from sqlalchemy.ext.asyncio import AsyncSession

            async with AsyncSession(self._using, **_WITHIN) as session, session.begin():
                yield session, async_executor(session)

    @contextmanager
    def begin_sync(self) -> Iterator[tuple[Any, SyncExecutor]]:
        """The same for a thread."""
        if hasattr(self._using, "add"):
            with self._using.begin_nested():
                yield self._using, sync_executor(self._using)
        else:
            from sqlalchemy.orm import Session

            with Session(self._using, **_WITHIN) as session, session.begin():
                yield session, sync_executor(session)

    def _fits(self, kind: str) -> bool:
        match kind:
            case "asyncpg":
                return self._family == "asyncpg" or (self._is_async_sqlalchemy() and self._driver() == "asyncpg")
            case "sqlalchemy_async":
                return self._is_async_sqlalchemy()
            case _:
                return self._family == "sqlalchemy" and not self._is_async_sqlalchemy()

    def _is_async_sqlalchemy(self) -> bool:
        return self._family == "sqlalchemy" and hasattr(self._using, "run_sync")

    def _driver(self) -> str:
        bind = self._using.get_bind() if hasattr(self._using, "get_bind") else self._using
        return str(bind.dialect.driver)

    async def _driver_connection(self) -> Any:
        # Asked for even of a connection's savepoint: this is what has a session send its SAVEPOINT.
        connection = await self._using.connection() if hasattr(self._using, "add") else self._using
        return (await connection.get_raw_connection()).driver_connection


_WITHIN: Any = {"expire_on_commit": False, "join_transaction_mode": "create_savepoint"}
