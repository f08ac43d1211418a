"""Which executor serves what `using` is given: told by the name of its class, so that no driver is imported in vain.

One small module per driver; none is imported before an object of that driver turns up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from pgbus.database.adapters.executors import AsyncExecutor, SyncExecutor
from pgbus.errors import ConnectionUnusableError

# Full names of classes and not the classes, which would have to be imported. A user may have subclassed any of them.
_KINDS = {
    "asyncpg.connection.Connection": "asyncpg",
    "asyncpg.pool.PoolConnectionProxy": "asyncpg",
    "psycopg.AsyncConnection": "psycopg-async",
    "psycopg.Connection": "psycopg-sync",
    "sqlalchemy.ext.asyncio.engine.AsyncConnection": "sqlalchemy-async",
    "sqlalchemy.ext.asyncio.session.AsyncSession": "sqlalchemy-async-session",
    "sqlalchemy.ext.asyncio.scoping.async_scoped_session": "sqlalchemy-async-session",
    "sqlalchemy.engine.base.Connection": "sqlalchemy-sync",
    "sqlalchemy.orm.session.Session": "sqlalchemy-sync-session",
    "sqlalchemy.orm.scoping.scoped_session": "sqlalchemy-sync-session",
    "pgbus.database.adapters.added.AddedTo": "sqlalchemy-added",
    # Django's, by the object, by `django.db.connection`, and by its alias; they serve async code as well.
    "django.db.backends.base.base.BaseDatabaseWrapper": "django",
    "django.utils.connection.ConnectionProxy": "django",
    "builtins.str": "django",
}

_ASYNC_FACES = (
    "an asyncpg connection, a psycopg AsyncConnection, an SQLAlchemy AsyncSession or AsyncConnection, or a Django "
    "connection"
)
_SYNC_FACES = "a psycopg Connection, an SQLAlchemy Session or Connection, or a Django connection"

_POOL = "a pool has no transaction; take a connection out of it and pass that"
_ENGINE = "an engine has no transaction; pass a connection that it gave you, or a session"
_FACTORY = "this makes sessions; call it and pass the session"
_CURSOR = "pass the cursor's connection"
_INSTEAD = {
    "asyncpg.pool.Pool": _POOL,
    "psycopg_pool.pool.ConnectionPool": _POOL,
    "psycopg_pool.pool_async.AsyncConnectionPool": _POOL,
    "sqlalchemy.ext.asyncio.engine.AsyncEngine": _ENGINE,
    "sqlalchemy.engine.base.Engine": _ENGINE,
    "sqlalchemy.ext.asyncio.session.async_sessionmaker": _FACTORY,
    "sqlalchemy.orm.session.sessionmaker": _FACTORY,
    "psycopg.Cursor": _CURSOR,
    "psycopg.AsyncCursor": _CURSOR,
}


def async_executor(using: object, *, require_transaction: bool = False) -> AsyncExecutor:
    """Return an executor of statements in the transaction of an asyncpg, psycopg, SQLAlchemy or Django connection or
    session.

    To publish where no transaction is open is warned of, or refused if one is required. Raises ConnectionUnusableError,
    saying what to pass instead, for anything else.
    """
    cls: type = type(using)
    return _async_factory(cls)(using, require_transaction)


def sync_executor(using: object, *, require_transaction: bool = False) -> SyncExecutor:
    """Return the same for blocking code: psycopg and Django connections, SQLAlchemy sessions and connections."""
    cls: type = type(using)
    return _sync_factory(cls)(using, require_transaction)


def check_using(using: object) -> None:
    """Raise ConnectionUnusableError, saying what to pass instead, unless one of the two above takes it."""
    cls: type = type(using)
    if _lookup(cls, _KINDS) is None:
        raise _unknown(cls, f"{_ASYNC_FACES}; or, for code that blocks, {_SYNC_FACES}")
    if isinstance(using, str):
        _async_factory(cls)(using, False)  # refuses what is not an alias that Django knows


@lru_cache(maxsize=256)
def _async_factory(cls: type) -> Callable[[Any, bool], AsyncExecutor]:
    match _lookup(cls, _KINDS):
        case "asyncpg":
            from pgbus.database.adapters.asyncpg import AsyncpgExecutor

            return AsyncpgExecutor
        case "psycopg-async":
            from pgbus.database.adapters.psycopg import PsycopgAsyncExecutor

            return PsycopgAsyncExecutor
        case "sqlalchemy-async":
            from pgbus.database.adapters.sqlalchemy import AsyncConnectionExecutor

            return AsyncConnectionExecutor
        case "sqlalchemy-async-session":
            from pgbus.database.adapters.sqlalchemy import AsyncSessionExecutor

            return AsyncSessionExecutor
        case "django":
            async_django: Callable[[Any, bool], AsyncExecutor] = _django(cls).DjangoAsyncExecutor
            return async_django
        case None:
            raise _unknown(cls, _ASYNC_FACES)
        case _:
            raise ConnectionUnusableError(
                f"{_name(cls)} blocks, and this call is awaited; pass {_ASYNC_FACES}, or publish with the sync call"
            )


@lru_cache(maxsize=256)
def _sync_factory(cls: type) -> Callable[[Any, bool], SyncExecutor]:
    match _lookup(cls, _KINDS):
        case "psycopg-sync":
            from pgbus.database.adapters.psycopg import PsycopgExecutor

            return PsycopgExecutor
        case "sqlalchemy-sync":
            from pgbus.database.adapters.sqlalchemy import ConnectionExecutor

            return ConnectionExecutor
        case "sqlalchemy-sync-session":
            from pgbus.database.adapters.sqlalchemy import SessionExecutor

            return SessionExecutor
        case "sqlalchemy-added":
            return _as_it_is
        case "django":
            sync_django: Callable[[Any, bool], SyncExecutor] = _django(cls).DjangoExecutor
            return sync_django
        case None:
            raise _unknown(cls, _SYNC_FACES)
        case _:
            raise ConnectionUnusableError(
                f"{_name(cls)} has to be awaited, and this call blocks; pass {_SYNC_FACES}, or await the async call"
            )


def _as_it_is(using: SyncExecutor, _: bool) -> SyncExecutor:
    return using


def is_djangos(using: object) -> bool:
    """Whether it is a connection of Django, or the alias of one."""
    return _lookup(type(using), _KINDS) == "django"


def _django(cls: type) -> Any:
    """Return the module for Django connections; a string, which is an alias, also means Django."""
    try:
        from pgbus.database.adapters import django
    except ImportError as error:
        raise ConnectionUnusableError(
            f"{_name(cls)} cannot be used: only Django's databases have an alias, and Django is not installed"
        ) from error
    return django


def _lookup(cls: type, names: Mapping[str, str]) -> str | None:
    return next((names[name] for base in cls.__mro__ if (name := _name(base)) in names), None)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _unknown(cls: type, accepted: str) -> ConnectionUnusableError:
    return ConnectionUnusableError(f"{_name(cls)} cannot be used: {_lookup(cls, _INSTEAD) or f'pass {accepted}'}")
