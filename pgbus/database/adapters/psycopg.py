"""psycopg 3: blocking and async connections."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pgbus.database.adapters.executors import connection_closed, transaction_aborted
from pgbus.database.adapters.outside import complain
from pgbus.database.sql import Statement, as_text, bound_as_text
from pgbus.database.sql.rights import missing_right

_ARRAY = re.compile(r"%\((\w+)\)s AS ([a-z ]+\[\])")


class PsycopgExecutor:
    """Runs statements on a Connection: in its transaction, or in one that psycopg opens for the user to commit."""

    __slots__ = ("_connection", "_required")

    def __init__(self, connection: psycopg.Connection[Any], required: bool = False) -> None:
        self._connection = connection
        self._required = required

    def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows."""
        # Not `connection.cursor()`, which makes whatever kind the user has chosen.
        cursor = psycopg.Cursor(self._connection, row_factory=tuple_row)
        with _errors_told_apart(self._connection, statement, self._required):
            cursor.execute(*_query(statement, values))
            return cursor.fetchall() if _has_rows(cursor, statement) else []


class PsycopgAsyncExecutor:
    """The same on an AsyncConnection."""

    __slots__ = ("_connection", "_required")

    def __init__(self, connection: psycopg.AsyncConnection[Any], required: bool = False) -> None:
        self._connection = connection
        self._required = required

    async def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows."""
        cursor = psycopg.AsyncCursor(self._connection, row_factory=tuple_row)
        with _errors_told_apart(self._connection, statement, self._required):
            await cursor.execute(*_query(statement, values))
            return await cursor.fetchall() if _has_rows(cursor, statement) else []


def _query(statement: Statement, values: Mapping[str, object]) -> tuple[bytes, dict[str, Any]]:
    text, arguments = as_psycopg_takes_it(statement, values)
    return text.encode(), arguments


def as_psycopg_takes_it(statement: Statement, values: Mapping[str, object]) -> tuple[str, dict[str, Any]]:
    """The text of a statement, and its values."""
    statement = bound_as_text(statement)
    return binary_arrays(statement.psycopg), {name: as_text(values[name]) for name in statement.parameters}


@lru_cache(maxsize=256)
def binary_arrays(text: str) -> str:
    """The statement with its arrays bound in binary (`%(name)b`): as text, psycopg quotes each element in Python."""
    return _ARRAY.sub(r"%(\1)b AS \2", text)


def _has_rows(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any], statement: Statement) -> bool:
    if cursor.pgresult is not None:
        return cursor.description is not None
    # In a pipeline the result is not here yet, and asking for one would make the user's pipeline wait for it.
    return not statement.text.startswith("INSERT") or "RETURNING" in statement.text


@contextmanager
def _errors_told_apart(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], statement: Statement, required: bool
) -> Iterator[None]:
    # Known here already, and in a pipeline it would come to light only when the user's pipeline is read.
    if connection.info.transaction_status is TransactionStatus.INERROR:
        raise transaction_aborted("the connection waits for a rollback")
    if connection.info.transaction_status is TransactionStatus.IDLE and (connection.autocommit or required):
        complain(
            statement,
            "the psycopg connection (autocommit)" if connection.autocommit else "the psycopg connection",
            begin="write both within `with connection.transaction():`",
            required=required,
        )
    try:
        yield
    except (psycopg.errors.InFailedSqlTransaction, psycopg.errors.PipelineAborted) as error:
        raise transaction_aborted(error) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise missing_right(statement, error) from error
    except psycopg.Error as error:
        if connection.closed:
            raise connection_closed(error) from error
        raise
