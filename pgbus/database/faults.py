"""Classifies errors by their class and SQLSTATE; the kind decides whether to retry.

What is known to be a fault of code or schema ends the work that it happened to. Everything else is tried again: the
faults of a database that its operators or time will mend cannot be listed.

Packages that import no driver catch its errors by the names here: `except LockNotAvailable`, or
`suppress(*DATABASE_ERRORS)`.
"""

from __future__ import annotations

import enum

import asyncpg

from pgbus.errors import (
    ConfigurationError,
    ConnectionUnusableError,
    DatabaseUnreachableError,
    PrivilegeError,
    SchemaVersionError,
)

# What the server said to a statement, and what the driver says of itself.
ServerError = asyncpg.PostgresError
ClientError = asyncpg.InterfaceError
# Single answers of the server that someone acts on.
InsufficientPrivilege = asyncpg.InsufficientPrivilegeError
LockNotAvailable = asyncpg.LockNotAvailableError  # `lock_timeout` passed, or NOWAIT found it locked
QueryCancelled = asyncpg.QueryCanceledError  # `statement_timeout` passed, or an administrator cancelled it
ObjectInUse = asyncpg.ObjectInUseError
UndefinedObject = asyncpg.UndefinedObjectError
# SQLSTATE classes, each with one message.
LinkFailed = asyncpg.PostgresConnectionError
DataError = asyncpg.DataError
OperatorIntervention = asyncpg.OperatorInterventionError
SyntaxOrAccess = asyncpg.SyntaxOrAccessError
InternalError = asyncpg.InternalServerError
# Whatever a statement on an asyncpg connection may fail with, other than the faults of our own code. The last is raised
# when a connection was cut while it was idle, and the driver has not noticed yet.
DATABASE_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def hint_of(error: BaseException) -> str | None:
    """Return the advice that the server gives with an error, if any."""
    return getattr(error, "hint", None)


class Fault(enum.Enum):
    """The kinds of faults that `classify` distinguishes."""

    LINK = "link"
    """There is no connection, or it broke, or leads to a server that cannot write: try again on another one."""
    PASSING = "passing"
    """The server refused for now, and did nothing: try again."""
    VALUES = "values"
    """The database refuses these values: others may be fine. Fatal for what has never worked."""
    PRIVILEGE = "privilege"
    """The role may not: fatal at the start, and later a mistake that someone mends."""
    CODE = "code"
    """Code or schema are wrong: no further try can help."""


# By SQLSTATE, or its class, which is its first two characters; the longest that fits decides. Others are PASSING.
_FAULTS = {
    "08": Fault.LINK,  # connection exceptions
    "21": Fault.CODE,  # a subquery with more than one row
    "22": Fault.VALUES,  # data exceptions
    "23": Fault.VALUES,  # constraints
    "25006": Fault.LINK,  # read-only: a standby, or a primary that has just become one
    "25P03": Fault.LINK,  # idle_in_transaction_session_timeout ended the session
    "25P04": Fault.LINK,  # transaction_timeout did
    "26000": Fault.LINK,  # a prepared statement that is not there: a pooler gave us another session
    "28": Fault.LINK,  # logins that are refused
    "3D000": Fault.LINK,  # the database is not there
    "3F000": Fault.CODE,  # the schema is not there
    "42": Fault.CODE,  # syntax, undefined things, wrong types
    "42501": Fault.PRIVILEGE,
    "42P05": Fault.LINK,  # a prepared statement that is there already: a pooler gave us another session
    "53300": Fault.LINK,  # too many connections
    "54": Fault.VALUES,  # limits of the program: rows, arguments or nesting that are too large
    "57P01": Fault.LINK,  # the server shuts down, or an administrator ended the session
    "57P02": Fault.LINK,  # it crashed
    "57P03": Fault.LINK,  # it starts, or recovers
    "57P04": Fault.LINK,  # the database was dropped
    "57P05": Fault.LINK,  # idle_session_timeout ended the session
}

# What drivers raise of themselves when the connection is not there, or is no longer; by name, as not all are installed.
_CLIENT_ERRORS = frozenset(
    {
        "psycopg.OperationalError",
        "psycopg.InterfaceError",
        "psycopg_pool.PoolTimeout",
        "psycopg_pool.PoolClosed",
        "sqlalchemy.exc.TimeoutError",
        "sqlalchemy.exc.ResourceClosedError",
    }
)


def classify(error: BaseException) -> Fault:
    """The kind of fault that an error of asyncpg, psycopg, SQLAlchemy, Django, pgbus or Python is."""
    error = _driver_error(error)
    if isinstance(error, SchemaVersionError | ConfigurationError):
        return Fault.CODE
    if isinstance(error, PrivilegeError):
        return Fault.PRIVILEGE
    if isinstance(error, DatabaseUnreachableError | ConnectionUnusableError | OSError | TimeoutError | EOFError):
        return Fault.LINK
    if isinstance(error, MemoryError):
        return Fault.PASSING
    if getattr(error, "connection_invalidated", False):  # SQLAlchemy has seen that it is gone
        return Fault.LINK
    if sqlstate := sqlstate_of(error):
        return _FAULTS.get(sqlstate) or _FAULTS.get(sqlstate[:2], Fault.PASSING)
    if isinstance(wrapped := getattr(error, "orig", None), BaseException):
        return classify(wrapped.__cause__ or wrapped)
    # InternalClientError: a link that broke in the middle of the driver's own work.
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return Fault.LINK
    if any(f"{cls.__module__}.{cls.__qualname__}" in _CLIENT_ERRORS for cls in type(error).__mro__):
        return Fault.LINK
    return Fault.CODE


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE that the server sent with it, also within one of SQLAlchemy or Django; None if it sent none."""
    error = _driver_error(error)
    found = getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None)
    return found if isinstance(found, str) else None


def _driver_error(error: BaseException) -> BaseException:
    """Return the driver's error if Django has wrapped it in its own."""
    return error.__cause__ if error.__cause__ and type(error).__module__ == "django.db.utils" else error


def is_link_error(error: BaseException) -> bool:
    """Whether it was the connection that failed, so that the same statement may well succeed on another."""
    return classify(error) is Fault.LINK


def is_passing(error: BaseException) -> bool:
    """Whether the same statement may well succeed later."""
    return classify(error) in (Fault.LINK, Fault.PASSING)


def is_fatal(error: BaseException, *, has_worked: bool) -> bool:
    """Whether no further try can help; `has_worked`: the same work has succeeded before."""
    fault = classify(error)
    return fault is Fault.CODE or (fault in (Fault.PRIVILEGE, Fault.VALUES) and not has_worked)
