"""Which revisions there are, at which one a database is, and whether that fits this code. Needs no Alembic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import asyncpg

from pgbus.database.migrate.sessions import Connection, run_blocking, session
from pgbus.database.sql import DEFAULT_NAMESPACE, quote_identifier
from pgbus.errors import PrivilegeError, SchemaVersionError

VERSION_TABLE = "alembic_version"
# The oldest revision of a database on which this code runs: until the upgrade, where the code is deployed first.
OLDEST_SCHEMA = "0004"


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
    """Return the revision that this code was made for."""
    return revisions()[-1]


def current(dsn: str | None, *, namespace: str = DEFAULT_NAMESPACE) -> str | None:
    """Return the database's revision; None before its first upgrade."""

    async def read() -> str | None:
        async with session(dsn) as connection:
            return await read_revision(connection, namespace=namespace)

    return run_blocking(read())


def check(dsn: str | None, *, namespace: str = DEFAULT_NAMESPACE) -> None:
    """Raise SchemaVersionError unless this code runs on the database's revision."""

    async def check_once() -> None:
        async with session(dsn) as connection:
            await check_async(connection, namespace=namespace)

    run_blocking(check_once())


async def check_async(connection: Connection, *, namespace: str = DEFAULT_NAMESPACE) -> None:
    """Check the same over an open asyncpg connection.

    Raises SchemaVersionError for another version than this code's, and PrivilegeError for a user without a right to it.
    """
    try:
        found = await read_schema(connection, namespace=namespace)
    except asyncpg.InsufficientPrivilegeError as error:
        roles = ", ".join(f"{namespace}_{role}" for role in ("publisher", "caller", "worker", "reader"))
        raise PrivilegeError(
            f"{error}: this user may not use the bus of namespace {namespace!r}; grant it one of the roles {roles}, "
            "after `pgbus db roles` if they are not there yet"
        ) from error
    if fault := find_fault(found, code=Code.this(), namespace=namespace):
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


@dataclass(frozen=True, slots=True)
class Schema:
    """The revision of a database, and that of the oldest code that may run on it.

    None for the latter: not asked for, as the code knows the revision, or not said.
    """

    revision: str
    oldest_code: str | None = None


@dataclass(frozen=True, slots=True)
class Code:
    """The revisions that code has, the oldest first, and the oldest one of a database on which it runs."""

    revisions: tuple[str, ...]
    oldest_schema: str

    @classmethod
    def this(cls) -> Code:
        """The code of this package."""
        return cls(revisions(), OLDEST_SCHEMA)


async def read_schema(connection: Connection, *, namespace: str) -> Schema | None:
    """The schema of a database, as it says itself; None without a bus in this namespace."""
    revision = await read_revision(connection, namespace=namespace)
    if revision is None or revision in revisions():
        return Schema(revision) if revision else None
    function = f"{quote_identifier(namespace)}.oldest_code()"
    if await connection.fetchval("SELECT to_regprocedure($1)", function) is None:
        return Schema(revision)
    return Schema(revision, await connection.fetchval(f"SELECT {function}"))


def find_fault(found: Schema | None, *, code: Code, namespace: str) -> str | None:
    """Return one line about what keeps the code from running on a database; None if nothing does."""
    place = f"namespace {namespace!r}"
    if found is None:
        return f"the database holds no bus in {place} yet: run `pgbus db upgrade`"
    if found.revision in code.revisions:
        if code.revisions.index(found.revision) >= code.revisions.index(code.oldest_schema):
            return None
        needed = f"the {code.oldest_schema} that this code needs"
        return f"{place} is at revision {found.revision}, older than {needed}: run `pgbus db upgrade`"
    if found.oldest_code in code.revisions:
        return None
    return unknown_revision(found.revision, namespace=namespace, made_for=code.revisions[-1])


def unknown_revision(found: str, *, namespace: str, made_for: str | None = None) -> str:
    """Return one line about a database at a revision that code made for `made_for`, by default this, does not have."""
    newer = f"newer than this code, which ends at {made_for or head()}"
    return f"namespace {namespace!r} is at revision {found}, {newer}: deploy a newer pgbus"
