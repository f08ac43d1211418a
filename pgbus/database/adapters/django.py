"""Django: its connection to a database, by the object or by its alias.

Statements go through Django's own cursor: `needs_rollback`, `execute_wrappers` and the list of queries, which tests
count, hold for them, too. A connection belongs to one thread; async code reaches it as Django's own async calls do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from asgiref.sync import AsyncToSync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError

from pgbus.database.adapters.executors import connection_closed, transaction_aborted
from pgbus.database.adapters.outside import complain
from pgbus.database.faults import is_link_error, sqlstate_of
from pgbus.database.sql import Statement, as_text, bound_as_text
from pgbus.database.sql.rights import missing_right
from pgbus.errors import ConnectionUnusableError

_ABORTED = "25P02"
_MISSING_RIGHT = "42501"


class DjangoExecutor:
    """Runs statements on one of Django's connections, which need not be open yet: in its `atomic` block."""

    __slots__ = ("_connection", "_required")

    def __init__(self, using: Any, required: bool = False) -> None:
        self._connection = connection_of(using)
        self._required = required

    def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows."""
        connection = self._connection
        if not in_atomic(connection):
            complain(
                statement,
                f"Django's connection {connection.alias!r}",
                begin=f"write both within `with transaction.atomic(using={connection.alias!r})`",
                required=self._required,
            )
        bound = bound_as_text(statement)
        arguments = {name: as_text(values[name]) for name in bound.parameters}
        with _errors_told_apart(statement), connection.cursor() as cursor:
            cursor.execute(bound.psycopg, arguments)
            return cursor.fetchall() if cursor.description is not None else []


class DjangoAsyncExecutor:
    """The same for async code, in the thread that Django's own async calls use."""

    __slots__ = ("_required", "_using")

    def __init__(self, using: Any, required: bool = False) -> None:
        _check_alias(using if isinstance(using, str) else using.alias)
        self._using = using
        self._required = required

    async def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows."""
        # The connection is looked up over there: here, on the event loop's thread, it would be another one.
        return await sync_to_async(lambda: DjangoExecutor(self._using, self._required).fetch(statement, values))()


def connection_of(using: Any) -> Any:
    """The connection that this thread has for an alias, or for what stands for one, such as `django.db.connection`.

    Raises ConnectionUnusableError for an alias that Django does not know, and for a database that is not PostgreSQL.
    """
    alias = using if isinstance(using, str) else using.alias
    _check_alias(alias)
    # `django.db.connection` is replaced by what it stands for, which in another thread would be another connection.
    connection = using if isinstance(using, BaseDatabaseWrapper) else connections[alias]
    if connection.vendor != "postgresql":
        raise ConnectionUnusableError(
            f"the database {alias!r} of Django's settings is {connection.display_name}; pass the alias of the "
            "PostgreSQL database that has the bus"
        )
    return connection


def _check_alias(alias: str) -> None:
    try:
        is_known = alias in connections.settings
    except ImproperlyConfigured:
        is_known = False
    if not is_known:
        name = repr(alias) if alias.isidentifier() else "this text"  # which may be a DSN, with a password
        raise ConnectionUnusableError(
            f"{name} is not the alias of a database in Django's settings; pass one of those, or a connection"
        )


def in_atomic(connection: Any) -> bool:
    """Whether the user's code has begun a transaction; the one that Django's TestCase begins is not the user's."""
    blocks = getattr(connection, "atomic_blocks", ())
    if connection.in_atomic_block:
        return not (blocks and getattr(blocks[-1], "_from_testcase", False))
    # Before it is open, a connection has no mode but the one that it will be opened with.
    return not (connection.get_autocommit() if connection.connection else connection.settings_dict["AUTOCOMMIT"])


# ----------------------------------------------------------------------------------------------- transactional handlers


@contextmanager
def begin(using: Any) -> Iterator[tuple[Any, DjangoExecutor]]:
    """The connection that this thread has, in an `atomic` block, and what runs statements there.

    A connection that broke, or is too old, is opened again before and closed after, as around each of Django's
    requests. An error of Django comes as the driver's own, if it is the connection that failed.
    """
    connection = connection_of(using)
    if not connection.in_atomic_block:
        connection.close_if_unusable_or_obsolete()
    try:
        with transaction.atomic(using=connection.alias):
            yield connection, DjangoExecutor(connection)
    finally:
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


@contextmanager
def queries_of_async_code_in(threads: Executor) -> Iterator[None]:
    """Have what async code on the running event loop asks of Django run in these threads, and their connections."""
    loop = asyncio.get_running_loop()
    executors: Any = AsyncToSync.loop_thread_executors  # where `async_to_sync` notes its caller's thread
    executors[loop] = threads
    try:
        yield
    finally:
        del executors[loop]


@contextmanager
def lent(using: Any) -> Iterator[Any]:
    """The connection that this thread has, for other threads to use as well, while this one waits for them."""
    connection = connection_of(using)
    connection.inc_thread_sharing()
    try:
        yield connection
    finally:
        connection.dec_thread_sharing()


def is_broken(connection: Any) -> bool:
    """Whether the link to the database is gone."""
    return connection.connection is None or bool(connection.connection.closed)


@contextmanager
def _errors_told_apart(statement: Statement) -> Iterator[None]:
    try:
        yield
    except TransactionManagementError as error:  # an inner `atomic` block has failed
        raise transaction_aborted(error) from error
    except Error as error:
        match sqlstate_of(error):
            case state if state == _ABORTED:
                raise transaction_aborted(error) from error
            case state if state == _MISSING_RIGHT:
                raise missing_right(statement, error) from error
        if is_link_error(error):
            raise connection_closed(error) from error
        raise
