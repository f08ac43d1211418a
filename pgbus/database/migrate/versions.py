"""Which revisions there are, at which one a database is, and whether that fits this code. Needs no Alembic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import asyncpg

from pgbus.database.migrate.sessions import Connection, run_blocking, session
from pgbus.database.sql import DEFAULT_NAMESPACE, quote_identifier
from pgbus.errors import PrivilegeError, SchemaVersionError

VERSION_TABLE = "alembic_version"


@cache
def scripts_directory() -> Path:
    """Return the directory of the migrations: in the package if it is installed from a wheel, next to it in a source
    tree.
    """
    package = Path(__file__).parents[2]
    places = (package / "migrations", package.parent / "migrations")
    return next(place for place in places if (place / "env.py").is_file())


def read_script(name: str) -> str:
    """The text of one file of `migrations/sql`."""
    return (scripts_directory() / "sql" / name).read_text(encoding="utf-8")


def migration_lock(namespace: str) -> str:
    """The statement that lets one transaction at a time change the namespace's schema or its grants."""
    return f"SELECT pg_advisory_xact_lock(hashtext('{namespace}.migrate'), 1)"


@cache
def revisions() -> tuple[str, ...]:
    """Return every revision of this version of pgbus, the oldest first. They are numbered: `versions/0001_spine.py` is
    0001.
    """
    return tuple(sorted(path.name.split("_", 1)[0] for path in (scripts_directory() / "versions").glob("[0-9]*.py")))


def head() -> str:
    """Return the revision that this code needs."""
    return revisions()[-1]


def current(dsn: str | None, *, namespace: str = DEFAULT_NAMESPACE) -> str | None:
    """Return the database's revision; None before its first upgrade."""

    async def read() -> str | None:
        async with session(dsn) as connection:
            return await read_revision(connection, namespace=namespace)

    return run_blocking(read())


def check(dsn: str | None, *, namespace: str = DEFAULT_NAMESPACE) -> None:
    """Raise SchemaVersionError unless the database is at exactly the revision that this code needs."""

    async def check_once() -> None:
        async with session(dsn) as connection:
            await check_async(connection, namespace=namespace)

    run_blocking(check_once())


async def check_async(connection: Connection, *, namespace: str = DEFAULT_NAMESPACE) -> None:
    """Check the same over an open asyncpg connection."""
    try:
        found = await read_revision(connection, namespace=namespace)
    except asyncpg.InsufficientPrivilegeError as error:
        roles = ", ".join(f"{namespace}_{role}" for role in ("publisher", "caller", "worker", "reader"))
        raise PrivilegeError(
            f"{error}: this user may not use the bus of namespace {namespace!r}; grant it one of the roles {roles}, "
            "after `pgbus db roles` if they are not there yet"
        ) from error
    if fault := find_fault(found, known=revisions(), namespace=namespace):
        raise SchemaVersionError(fault)


def find_encoding_fault(encoding: str) -> str | None:
    """Return a warning about a database in this encoding; None for UTF8, which can store every event."""
    if encoding == "UTF8":
        return None
    if encoding == "SQL_ASCII":
        limit = "which stores bytes without knowing what they mean"
    else:
        limit = f"not UTF8: events with characters that {encoding} does not have cannot be published"
    advice = "only a database created with ENCODING 'UTF8' can store every event"
    return f"the database's encoding is {encoding}, {limit}; {advice}"


async def read_revision(connection: Connection, *, namespace: str) -> str | None:
    """The revision in the namespace's version table; None without a table or a row."""
    table = f"{quote_identifier(namespace)}.{VERSION_TABLE}"
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return None
    revision: str | None = await connection.fetchval(f"SELECT version_num FROM {table}")  # noqa: S608 - quoted
    return revision


def find_fault(found: str | None, *, known: Sequence[str], namespace: str) -> str | None:
    """Return one line about the fault of a database at revision `found`; None if it fits."""
    place, needed = f"namespace {namespace!r}", known[-1]
    if found == needed:
        return None
    if found is None:
        return f"the database holds no bus in {place} yet: run `pgbus db upgrade`"
    if found in known:
        return f"{place} is at revision {found}, older than the {needed} that this code needs: run `pgbus db upgrade`"
    return f"{place} is at revision {found}, newer than this code, which ends at {needed}: deploy a newer pgbus"
