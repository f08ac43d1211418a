"""What runs statements on a connection or session of someone else, and what that may be."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from pgbus.database.sql import Statement
from pgbus.errors import ConnectionUnusableError, TransactionAbortedError


class SqlalchemyTransaction(Protocol):
    """An SQLAlchemy session or connection, or a scoped session."""

    def begin_nested(self) -> Any:
        """Begin a savepoint."""
        ...


class AwaitedCommit(SqlalchemyTransaction, Protocol):
    """One that is awaited."""

    def commit(self) -> Awaitable[None]:
        """Commit."""
        ...


class BlockingCommit(SqlalchemyTransaction, Protocol):
    """One that blocks."""

    def commit(self) -> None:
        """Commit."""
        ...


class AsyncpgTransaction(Protocol):
    """An asyncpg connection."""

    def is_in_transaction(self) -> bool:
        """Whether one has begun."""
        ...


class PsycopgAwaited(Protocol):
    """A psycopg AsyncConnection."""

    pgconn: Any

    def commit(self) -> Awaitable[None]:
        """Commit."""
        ...


class PsycopgBlocking(Protocol):
    """A psycopg Connection."""

    pgconn: Any

    def commit(self) -> None:
        """Commit."""
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
        """As AsyncExecutor's, but blocks."""
        ...


def transaction_aborted(reason: object) -> TransactionAbortedError:
    """What to raise when the driver says that the transaction has failed already."""
    return TransactionAbortedError(
        f"a statement before this one failed in the transaction; roll it back and run it again ({reason})"
    )


def connection_closed(reason: object) -> ConnectionUnusableError:
    """What to raise when the driver says that the connection is closed, or was given back to its pool."""
    return ConnectionUnusableError(f"the connection is closed; pass one that is open ({reason})")
