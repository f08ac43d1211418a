"""SQLAlchemy: sessions and connections, async and blocking, over asyncpg or psycopg.

Statements go through SQLAlchemy's connection and not around it to the driver's: it opens its transaction lazily, and an
INSERT before that would be committed by itself, or never be committed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect, TwoPhaseTransaction, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from pgbus.database.adapters.executors import connection_closed, transaction_aborted
from pgbus.database.adapters.outside import complain, publishes
from pgbus.database.adapters.sessions import watch
from pgbus.database.sql import Statement, as_text, bound_as_text
from pgbus.database.sql.rights import missing_right
from pgbus.errors import ConnectionUnusableError


class AsyncConnectionExecutor:
    """Runs statements on an AsyncConnection."""

    __slots__ = ("_connection", "_required")

    def __init__(self, connection: AsyncConnection, required: bool = False) -> None:
        self._connection = connection
        self._required = required

    async def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows."""
        with _errors_told_apart(statement):
            query = _query(self._connection.dialect, statement, values)
            _check_transaction(statement, self._connection.sync_connection, required=self._required)
            rows = _rows(await self._connection.exec_driver_sql(*query))
        _watch(statement, self._connection.sync_connection)
        return rows


class AsyncSessionExecutor:
    """Runs statements in the transaction of an AsyncSession, or of the one that a scoped session stands for."""

    __slots__ = ("_required", "_session")

    def __init__(self, session: AsyncSession | async_scoped_session[Any], required: bool = False) -> None:
        self._session = session
        self._required = required

    async def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows."""
        session = self._session() if isinstance(self._session, async_scoped_session) else self._session
        _check_begun(statement, session, required=self._required)
        with _errors_told_apart(statement):
            # Asked for each time: this is what makes a session begin, and begin_nested() send its SAVEPOINT.
            connection = await session.connection()
        return await AsyncConnectionExecutor(connection, self._required).fetch(statement, values)


class ConnectionExecutor:
    """Runs statements on a Connection."""

    __slots__ = ("_connection", "_required")

    def __init__(self, connection: Connection, required: bool = False) -> None:
        self._connection = connection
        self._required = required

    def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows."""
        with _errors_told_apart(statement):
            query = _query(self._connection.dialect, statement, values)
            _check_transaction(statement, self._connection, required=self._required)
            rows = _rows(self._connection.exec_driver_sql(*query))
        _watch(statement, self._connection)
        return rows


class SessionExecutor:
    """Runs statements in the transaction of a Session, or of the one that a scoped session stands for."""

    __slots__ = ("_required", "_session")

    def __init__(self, session: Session | scoped_session[Any], required: bool = False) -> None:
        self._session = session
        self._required = required

    def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows."""
        session = self._session() if isinstance(self._session, scoped_session) else self._session
        _check_begun(statement, session, required=self._required)
        with _errors_told_apart(statement):
            connection = session.connection()
        return ConnectionExecutor(connection, self._required).fetch(statement, values)


def _query(dialect: Dialect, statement: Statement, values: Mapping[str, object]) -> tuple[str, Any]:
    """The text and parameters as the driver takes them. Through `text()`, SQLAlchemy would guess types from values."""
    match dialect.name, dialect.driver:
        case "postgresql", "asyncpg":
            statement = bound_as_text(statement)
            return statement.asyncpg, tuple(map(as_text, statement.arguments(values)))
        case "postgresql", "psycopg" | "psycopg_async":
            from pgbus.database.adapters.psycopg import as_psycopg_takes_it

            return as_psycopg_takes_it(statement, values)
        case name, driver:
            raise ConnectionUnusableError(
                f"SQLAlchemy's {name}+{driver} cannot be used; "
                "make the engine with postgresql+psycopg:// or, for async code, postgresql+asyncpg://"
            )


def _check_begun(statement: Statement, session: Session | AsyncSession, *, required: bool) -> None:
    """Where a transaction is required, refuse a session that would only begin one for the event."""
    if required and not session.in_transaction():
        complain(
            statement, "the SQLAlchemy session", begin="write both within `with session.begin():`", required=required
        )


def _check_transaction(statement: Statement, connection: Connection | None, *, required: bool) -> None:
    """Warn about a connection whose statements commit by themselves, although SQLAlchemy reports a transaction."""
    if connection is None or connection.closed or connection.invalidated:
        return
    if isinstance(connection.get_transaction(), TwoPhaseTransaction) and publishes(statement):
        raise ConnectionUnusableError(
            "a transaction that publishes cannot be prepared, as PostgreSQL prepares none that notifies: publish in a "
            "session without twophase=True"
        )
    if _is_autocommitting(connection):
        what, begin = "SQLAlchemy's connection (AUTOCOMMIT)", "take the isolation_level AUTOCOMMIT away from it"
        complain(statement, what, begin=begin, required=required)
    elif required and not connection.in_transaction():
        what, begin = "the SQLAlchemy connection", "write both within `with connection.begin():`"
        complain(statement, what, begin=begin, required=required)


def _watch(statement: Statement, connection: Connection | None) -> None:
    if connection is not None and publishes(statement) and not _is_autocommitting(connection):
        watch(connection)


def _is_autocommitting(connection: Connection) -> bool:
    return getattr(connection.connection.dbapi_connection, "autocommit", False) is True


def _rows(result: CursorResult[Any]) -> Sequence[Sequence[Any]]:
    return result.all() if result.returns_rows else []


@contextmanager
def _errors_told_apart(statement: Statement) -> Iterator[None]:
    try:
        yield
    except exc.PendingRollbackError as error:
        raise transaction_aborted(error) from error
    except exc.ResourceClosedError as error:
        raise connection_closed(error) from error
    except exc.UnboundExecutionError as error:
        raise ConnectionUnusableError(
            f"the session does not say which database events go to; pass its connection to that one ({error})"
        ) from error
    except exc.DBAPIError as error:
        if error.connection_invalidated:
            raise connection_closed(error.orig or error) from error
        match getattr(error.orig, "sqlstate", None):
            case "25P02":
                raise transaction_aborted(error.orig or error) from error
            case "42501":
                raise missing_right(statement, error.orig or error) from error
            case _:
                raise
