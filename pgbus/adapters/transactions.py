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


class Transactions:
    """Opens transactions with the server's own settings: what a handler commits is its user's, and durable.

    `pool` makes the asyncpg pool; SQLAlchemy's engines are made from the DSN when they are first asked for.
    """

    def __init__(self, dsn: str | None, *, pool: asyncpg.Pool, size: int) -> None:
        self._dsn = dsn
        self._pool = pool
        self._size = size

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

        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: asyncpg.connect(self._dsn),
            pool_size=self._size,
            max_overflow=0,
        )

    @cached_property
    def _sync_engine(self) -> Engine:
        from sqlalchemy import create_engine

        return create_engine(
            "postgresql+psycopg://", creator=_psycopg_connect(self._dsn), pool_size=self._size, max_overflow=0
        )


def _psycopg_connect(dsn: str | None) -> Callable[[], Any]:
    try:
        import psycopg
    except ImportError:
        raise ConfigurationError(
            "a handler that takes a SQLAlchemy Session needs psycopg: install pgbus[psycopg]"
        ) from None
    return lambda: psycopg.connect(dsn or "")
