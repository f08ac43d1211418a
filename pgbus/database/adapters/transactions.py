"""The transaction that a transactional handler writes in, of the kind that its annotation asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg

from pgbus.config import for_asyncpg, for_libpq
from pgbus.database.adapters.choosing import async_executor, sync_executor
from pgbus.database.faults import is_link_error
from pgbus.errors import ConfigurationError, Dead, HandlerTransactionError, Retry
from pgbus.telemetry import Abandoned

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from pgbus.database.adapters.executors import AsyncExecutor, SyncExecutor


def is_ended(connection: Any) -> bool:
    """Whether an SQLAlchemy session knows that the transaction it was opened with has ended."""
    in_transaction = getattr(connection, "in_transaction", None)
    return in_transaction is not None and not in_transaction()


class TransactionLost(Abandoned):
    """The transaction's own connection could not be had, or broke; `error` says how. It is not the handler's failure.

    It was rolled back, unless the commit was under way: then only the claim's token can tell.
    """

    def __init__(self, error: BaseException, *, was_called: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.was_called = was_called
        """Whether the handler had been called."""


class Wanted(Protocol):
    """The connection that a handler takes: its kind, its class, and the user's sessionmaker, if any."""

    @property
    def kind(self) -> str:
        """`asyncpg` or `django`; or `psycopg`, `sqlalchemy` or `sqlalchemy...connection`, each `_async` or `_sync`."""
        ...

    @property
    def cls(self) -> type:
        """The class in its annotation: sessions are made of it."""
        ...

    @property
    def maker(self) -> Callable[[], Any] | None:
        """The user's sessionmaker, on an engine of theirs; or what gives Django's connection."""
        ...


class Transactions:
    """Opens transactions with the server's own settings: what a handler commits is its user's, and durable.

    asyncpg's connections come from `pool`; SQLAlchemy's engines are made from the DSN when they are first asked for,
    and lend psycopg's connections.
    `behind_pooler`: the DSN leads to a transaction-mode pooler, which knows of no prepared statements.
    """

    def __init__(self, dsn: str | None, *, pool: asyncpg.Pool, size: int, behind_pooler: bool) -> None:
        self._dsn = dsn
        self._pool = pool
        self._size = size
        self._behind_pooler = behind_pooler

    @asynccontextmanager
    async def begin(self, wanted: Wanted) -> AsyncIterator[tuple[Any, AsyncExecutor]]:
        """A connection or session to await, in a transaction of its own, and what runs statements in that.

        Raises TransactionLost for what befell the connection, and not for what else the block may raise, such as an
        error of a connection of its own.
        """
        block = _Block()
        match wanted.kind:
            case "asyncpg":
                begun = self._begin_asyncpg(block)
            case "sqlalchemy_async":
                begun = self._begin_session(block, wanted)
            case _:
                begun = self._begin_connection(block, wanted)
        try:
            async with begun as transaction:
                yield transaction
        except BaseException as error:
            raise block.verdict(error) from error.__cause__

    @asynccontextmanager
    async def _begin_asyncpg(self, block: _Block) -> AsyncIterator[tuple[Any, AsyncExecutor]]:
        async with self._pool.acquire() as connection:
            # The order of the two blocks decides: `_Block` sees what the handler raised, and `try` what the rollback or
            # the commit made of it.
            try:
                async with connection.transaction():
                    with block:
                        yield connection, async_executor(connection)
            except BaseException as error:
                if isinstance(block.verdict(error), TransactionLost):
                    with suppress(asyncpg.InterfaceError):  # the pool has noticed, too
                        connection.terminate()
                raise

    @asynccontextmanager
    async def _begin_session(self, block: _Block, wanted: Wanted) -> AsyncIterator[tuple[Any, AsyncExecutor]]:
        made = wanted.maker() if wanted.maker else wanted.cls(self._async_engine, expire_on_commit=False)
        async with made as session:
            try:
                async with session.begin():
                    connection = await session.connection()
                    with block:
                        block.is_broken = lambda: bool(connection.invalidated)
                        yield session, async_executor(session)
            except BaseException as error:
                if isinstance(block.verdict(error), TransactionLost):
                    await session.invalidate()  # else the pool would lend the dead connection to the next handler
                raise

    @asynccontextmanager
    async def _begin_connection(self, block: _Block, wanted: Wanted) -> AsyncIterator[tuple[Any, AsyncExecutor]]:
        is_drivers = wanted.kind == "psycopg_async"
        engine = self._psycopg_engine if is_drivers else self._async_engine
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            used: Any = driver if is_drivers else connection
            try:
                async with connection.begin():
                    with block, _ways_kept(used):
                        block.is_broken = lambda: connection.invalidated or _is_closed(used)
                        yield used, async_executor(used)
            except BaseException as error:
                if isinstance(block.verdict(error), TransactionLost):
                    await connection.invalidate()
                    await engine.dispose()  # those in the pool are as old
                raise

    @contextmanager
    def begin_sync(self, wanted: Wanted) -> Iterator[tuple[Any, SyncExecutor]]:
        """The same of a kind that blocks, for a thread."""
        block = _Block()
        match wanted.kind:
            case "sqlalchemy_sync":
                begun = self._begin_session_sync(block, wanted)
            case "django":
                begun = _begin_django(block, wanted)
            case _:
                begun = self._begin_connection_sync(block, wanted)
        try:
            with begun as transaction:
                yield transaction
        except BaseException as error:
            raise block.verdict(error) from error.__cause__

    @contextmanager
    def _begin_session_sync(self, block: _Block, wanted: Wanted) -> Iterator[tuple[Any, SyncExecutor]]:
        made = wanted.maker() if wanted.maker else wanted.cls(self._sync_engine, expire_on_commit=False)
        with made as session:
            try:
                with session.begin():
                    connection = session.connection()
                    with block:
                        block.is_broken = lambda: connection.invalidated
                        yield session, sync_executor(session)
            except BaseException as error:
                if isinstance(block.verdict(error), TransactionLost):
                    session.invalidate()
                raise

    @contextmanager
    def _begin_connection_sync(self, block: _Block, wanted: Wanted) -> Iterator[tuple[Any, SyncExecutor]]:
        engine = self._sync_engine
        with engine.connect() as connection:
            used: Any = connection.connection.driver_connection if wanted.kind == "psycopg_sync" else connection
            try:
                with connection.begin(), block, _ways_kept(used):
                    block.is_broken = lambda: connection.invalidated or _is_closed(used)
                    yield used, sync_executor(used)
            except BaseException as error:
                if isinstance(block.verdict(error), TransactionLost):
                    connection.invalidate()
                    engine.dispose()
                raise

    async def close(self) -> None:
        """Close the engines that were made."""
        for name in ("_async_engine", "_psycopg_engine"):
            if name in self.__dict__:
                await getattr(self, name).dispose()
        if "_sync_engine" in self.__dict__:
            self._sync_engine.dispose()

    @cached_property
    def _async_engine(self) -> AsyncEngine:
        from sqlalchemy.ext.asyncio import create_async_engine

        arguments: dict[str, Any] = {"dsn": for_asyncpg(self._dsn)}
        if self._behind_pooler:
            # A statement without a name is prepared and run in one transaction, and leaves nothing behind.
            arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
            arguments["prepared_statement_name_func"] = str
        return create_async_engine(
            "postgresql+asyncpg://", connect_args=arguments, pool_size=self._size, max_overflow=0
        )

    @cached_property
    def _psycopg_engine(self) -> AsyncEngine:
        from sqlalchemy.ext.asyncio import create_async_engine

        connect = _psycopg().AsyncConnection.connect
        return create_async_engine(
            "postgresql+psycopg://",
            async_creator=lambda: connect(for_libpq(self._dsn), **self._psycopg_options),
            pool_size=self._size,
            max_overflow=0,
        )

    @cached_property
    def _sync_engine(self) -> Engine:
        from sqlalchemy import create_engine

        connect = _psycopg().connect
        return create_engine(
            "postgresql+psycopg://",
            creator=lambda: connect(for_libpq(self._dsn), **self._psycopg_options),
            pool_size=self._size,
            max_overflow=0,
        )

    @property
    def _psycopg_options(self) -> dict[str, Any]:
        return {"prepare_threshold": None if self._behind_pooler else 5}


@contextmanager
def _begin_django(block: _Block, wanted: Wanted) -> Iterator[tuple[Any, SyncExecutor]]:
    from pgbus.database.adapters import django

    with django.begin(wanted.maker() if wanted.maker else "default") as (connection, executor), block:
        block.is_broken = lambda: django.is_broken(connection)
        yield connection, executor
        if connection.needs_rollback:  # the handler has said so: what it wrote is undone at the end, and the settlement
            raise HandlerTransactionError


class _Block:
    """Records the error of the block within a transaction, to distinguish a failed handler from a failed connection.

    Where the connection is broken, the rollback fails, and its error comes instead of the block's. SQLAlchemy rolls
    back in silence what it knows to be broken: `is_broken` says so.
    """

    def __init__(self) -> None:
        # Set when the block ends. Any other error is the transaction's own: of its begin, its rollback or its commit.
        self.error: BaseException | None = None
        # Replaced once there is a connection to ask, which is done when the block ends and before the rollback.
        self.is_broken: Callable[[], bool] = lambda: False
        self._was_broken = False

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.error = error
        self._was_broken = error is not None and self.is_broken()

    def verdict(self, error: BaseException) -> BaseException:
        """Return the error to raise for an error of the transaction."""
        # A cancellation is someone's order, and so is what the handler decided about its event.
        if isinstance(self.error, asyncio.CancelledError | TransactionLost | Dead | Retry):
            return self.error
        # The block's own error says nothing about this connection: a link error may be of another one that the handler
        # uses. An error that is not the block's came from the begin, the rollback or the commit, on this one.
        is_lost = self._was_broken if error is self.error else is_link_error(error)
        return TransactionLost(error) if is_lost else error


@contextmanager
def _ways_kept(used: Any) -> Iterator[None]:
    """Give a psycopg connection its kinds of rows and cursors back: another handler has it next."""
    if not hasattr(used, "row_factory"):
        yield
        return
    ways = used.row_factory, used.cursor_factory
    try:
        yield
    finally:
        used.row_factory, used.cursor_factory = ways


def _is_closed(used: Any) -> bool:
    return bool(getattr(used, "closed", False))


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError:
        raise ConfigurationError(
            "the handler takes a connection that goes through psycopg: install pgbus[psycopg]"
        ) from None
    return psycopg
