"""The transaction that a transactional handler writes in, of the kind that its annotation asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import asyncpg

from pgbus.adapters import async_executor, sync_executor
from pgbus.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from pgbus.adapters import AsyncExecutor, SyncExecutor


def is_ended(connection: Any) -> bool:
    """Whether an SQLAlchemy session knows that the transaction it was opened with has ended."""
    in_transaction = getattr(connection, "in_transaction", None)
    return in_transaction is not None and not in_transaction()


class Transactions:
    """Opens transactions with the server's own settings: what a handler commits is its user's, and durable.

    asyncpg's connections come from `pool`; SQLAlchemy's engines are made from the DSN when they are first asked for.
    `behind_pooler`: the DSN leads to a transaction-mode pooler, which knows of no prepared statements.
    """

    def __init__(self, dsn: str | None, *, pool: asyncpg.Pool, size: int, behind_pooler: bool) -> None:
        self._dsn = dsn
        self._pool = pool
        self._size = size
        self._behind_pooler = behind_pooler

    @asynccontextmanager
    async def begin(self, kind: str) -> AsyncIterator[tuple[Any, AsyncExecutor]]:
        """A connection or session of an async kind in a transaction of its own, and what runs statements in that."""
        if kind == "asyncpg":
            async with self._pool.acquire() as connection, connection.transaction():
                yield connection, async_executor(connection)
            return
        from sqlalchemy.ext.asyncio import AsyncSession

        async with AsyncSession(self._async_engine, expire_on_commit=False) as session, session.begin():
            yield session, async_executor(session)

    @contextmanager
    def begin_sync(self) -> Iterator[tuple[Any, SyncExecutor]]:
        """The same as SQLAlchemy's Session, for a thread."""
        from sqlalchemy.orm import Session

        with Session(self._sync_engine, expire_on_commit=False) as session, session.begin():
            yield session, sync_executor(session)

    async def close(self) -> None:
        """Close the engines that were made."""
        if "_async_engine" in self.__dict__:
            await self._async_engine.dispose()
        if "_sync_engine" in self.__dict__:
            self._sync_engine.dispose()

    @cached_property
    def _async_engine(self) -> AsyncEngine:
        from sqlalchemy.ext.asyncio import create_async_engine

        arguments: dict[str, Any] = {"dsn": self._dsn}
        if self._behind_pooler:
            # A statement without a name is prepared and run in one transaction, and leaves nothing behind.
            arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
            arguments["prepared_statement_name_func"] = str
        return create_async_engine(
            "postgresql+asyncpg://", connect_args=arguments, pool_size=self._size, max_overflow=0
        )

    @cached_property
    def _sync_engine(self) -> Engine:
        from sqlalchemy import create_engine

        return create_engine(
            "postgresql+psycopg://",
            creator=_psycopg_connect(self._dsn, prepare_threshold=None if self._behind_pooler else 5),
            pool_size=self._size,
            max_overflow=0,
        )


def _psycopg_connect(dsn: str | None, *, prepare_threshold: int | None) -> Callable[[], Any]:
    try:
        import psycopg
    except ImportError:
        raise ConfigurationError(
            "a handler that takes a SQLAlchemy Session needs psycopg: install pgbus[psycopg]"
        ) from None
    return lambda: psycopg.connect(dsn or "", prepare_threshold=prepare_threshold)
