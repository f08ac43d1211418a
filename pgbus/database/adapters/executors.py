"""Executors of statements on a user's connection or session, and the connections that they accept."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from pgbus.database.sql import Statement
from pgbus.errors import ConnectionUnusableError, TransactionAbortedError


class SqlalchemyTransaction(Protocol):
    """An SQLAlchemy session or connection, or a scoped session."""

    def begin_nested(self) -> Any:
        """Begin a savepoint within the transaction."""
        ...


class AwaitedCommit(SqlalchemyTransaction, Protocol):
    """A connection or session whose `commit` is awaited."""

    def commit(self) -> Awaitable[None]:
        """Commit the transaction that is open."""
        ...


class BlockingCommit(SqlalchemyTransaction, Protocol):
    """A connection or session whose `commit` blocks."""

    def commit(self) -> None:
        """Commit the transaction that is open."""
        ...


class AsyncpgTransaction(Protocol):
    """The methods of an asyncpg connection that are used here."""

    def is_in_transaction(self) -> bool:
        """Return whether a transaction is open."""
        ...


class PsycopgAwaited(Protocol):
    """The methods of a psycopg AsyncConnection that are used here."""

    pgconn: Any

    def commit(self) -> Awaitable[None]:
        """Commit the transaction that is open."""
        ...


class PsycopgBlocking(Protocol):
    """The methods of a psycopg Connection that are used here."""

    pgconn: Any

    def commit(self) -> None:
        """Commit the transaction that is open."""
        ...


class DjangoConnection(Protocol):
    """One of Django's connections, or `django.db.connection`; the alias of a database, too, stands for one."""

    def ensure_connection(self) -> None:
        """Open it, unless it is open."""
        ...


# What `using` may be, as a type checker sees it: by methods, as not all drivers have to be installed, or have types.
AsyncUsing: TypeAlias = AsyncpgTransaction | PsycopgAwaited | AwaitedCommit | DjangoConnection | str
SyncUsing: TypeAlias = "PsycopgBlocking | BlockingCommit | DjangoConnection | SyncExecutor | str"


class AsyncExecutor(Protocol):
    """Runs statements in the transaction of an async connection or session."""

    async def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows; none for a statement that returns nothing.

        Raises TransactionAbortedError when an earlier statement has failed in the transaction,
        ConnectionUnusableError when the connection is closed, and PrivilegeError for what its user may not do; other
        errors of the driver come as they are.
        """
        ...


class SyncExecutor(Protocol):
    """Runs statements in the transaction of a blocking connection or session."""

    def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run a statement and return its rows; blocks."""
        ...


def transaction_aborted(reason: object) -> TransactionAbortedError:
    """Return the error to raise if the driver reports that the transaction is aborted."""
    return TransactionAbortedError(
        f"a statement before this one failed in the transaction; roll it back and run it again ({reason})"
    )


def connection_closed(reason: object) -> ConnectionUnusableError:
    """Return the error to raise if the driver reports that the connection is closed, or was returned to its pool."""
    return ConnectionUnusableError(f"the connection is closed; pass one that is open ({reason})")
