"""The group roles: made when they are missing, and granted what `migrations/sql/roles.sql` says."""

from __future__ import annotations

import re
from collections.abc import Sequence

import asyncpg

from pgbus.config import Config
from pgbus.database.migrate.sessions import Connection, run_blocking, session
from pgbus.database.migrate.versions import VERSION_TABLE, check_async, migration_lock, read_script
from pgbus.database.sql import DEFAULT_NAMESPACE, quote_identifier
from pgbus.errors import PrivilegeError

ROLES = ("publisher", "caller", "worker", "reader", "operator", "admin")

_NAMES = re.compile(rf"\bpgbus(?:_(?:{'|'.join(ROLES)}))?\b")


def grant_roles(dsn: str | None, *, namespace: str = DEFAULT_NAMESPACE) -> None:
    """Create `<namespace>_publisher`, `_caller`, `_worker`, `_reader`, `_operator`, `_admin`, and grant their rights.

    They are group roles, without login: grant them to users, as in `GRANT pgbus_worker TO app`. Connect as the owner of
    the namespace, and run it again after each upgrade; it takes nothing away. As roles belong to the whole server, the
    same namespace in two of its databases means the same roles. Opening and dropping partitions, which only an owner
    may, is done for workers by the functions `open_partition` and `drop_partition`.

    Raises DatabaseUnreachableError, SchemaVersionError, PrivilegeError (it says which roles to have created when this
    user may not), and ConfigurationError for a namespace that cannot be.
    """
    Config(namespace=namespace)  # which has the rules for it
    run_blocking(_grant_roles(dsn, namespace=namespace))


async def _grant_roles(dsn: str | None, *, namespace: str) -> None:
    async with session(dsn) as connection, connection.transaction():
        await connection.execute(migration_lock(namespace))
        await check_async(connection, namespace=namespace)
        await _check_owner(connection, namespace=namespace)
        await _create_roles(connection, await _missing_roles(connection, namespace=namespace))
        await connection.execute(_grants(namespace))


async def _check_owner(connection: Connection, *, namespace: str) -> None:
    # To someone who has privileges but may not pass them on, PostgreSQL's GRANT only warns, and grants nothing.
    somebody_else = await connection.fetchval(
        """
        SELECT pg_get_userbyid(relowner) FROM pg_class
        WHERE oid = $1::text::regclass AND NOT pg_has_role(relowner, 'USAGE')
        """,
        f"{quote_identifier(namespace)}.{VERSION_TABLE}",
    )
    if somebody_else:
        raise PrivilegeError(f"only the owner of namespace {namespace!r} may grant on it: connect as {somebody_else}")


def _grants(namespace: str) -> str:
    return _NAMES.sub(
        lambda found: quote_identifier(namespace + found[0].removeprefix("pgbus")), read_script("roles.sql")
    )


async def _missing_roles(connection: Connection, *, namespace: str) -> list[str]:
    names = [f"{namespace}_{role}" for role in ROLES]
    found = await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY($1)", names)
    existing = {row["rolname"] for row in found}
    return [name for name in names if name not in existing]


async def _create_roles(connection: Connection, names: Sequence[str]) -> None:
    statements = [f"CREATE ROLE {quote_identifier(name)}" for name in names]
    try:
        for statement in statements:
            await _create_role(connection, statement)
    except asyncpg.InsufficientPrivilegeError as error:
        raise PrivilegeError(
            f"{error}; let a user who may create roles run `{'; '.join(statements)}`, then grant again"
        ) from error


async def _create_role(connection: Connection, statement: str) -> None:
    try:
        async with connection.transaction():
            await connection.execute(statement)
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        pass  # made meanwhile, from another database of this server, where our lock does not reach
