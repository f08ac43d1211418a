"""The migrations themselves, run by Alembic: against a database, or into a string.

Without Alembic's EnvironmentContext and Operations: those put themselves behind the names of the modules
`alembic.context` and `alembic.op`, and take them away at the end, from an Alembic run of the user's around ours, too.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection as SqlalchemyConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from pgbus.database.migrate.sessions import Connection, session
from pgbus.database.migrate.versions import (
    VERSION_TABLE,
    Code,
    find_encoding_fault,
    find_fault,
    migration_lock,
    read_revision,
    read_schema,
    read_script,
    revisions,
    scripts_directory,
    unknown_revision,
)
from pgbus.database.sql import in_namespace, quote_identifier
from pgbus.errors import SchemaVersionError

logger = logging.getLogger("pgbus")

# The current migration, for `execute_script`.
_migration: ContextVar[MigrationContext] = ContextVar("pgbus migration")

# From the heads that the database is at to the steps that Alembic runs.
Plan = Callable[[Any, MigrationContext], Any]

_PREPARATION = """\
-- One at a time. The lock ends with the transaction.
{lock};

-- Not CREATE SCHEMA IF NOT EXISTS, which asks for CREATE on the database even when the schema is there.
DO $$
BEGIN
    IF to_regnamespace('{schema}') IS NULL THEN
        CREATE SCHEMA {schema};
    END IF;
END
$$;
"""

_START = """\
DO $$
BEGIN
    IF (SELECT version_num FROM {schema}.alembic_version) IS DISTINCT FROM '{start}' THEN
        RAISE EXCEPTION 'this script goes on from revision {start}, and the database is not there';
    END IF;
END
$$;"""


async def run_upgrade(dsn: str | None, *, namespace: str, revision: str) -> None:
    """See `pgbus.migrate.upgrade`; the arguments are right."""
    scripts = _scripts()
    async with session(dsn) as connection, connection.transaction():
        await connection.execute(_preparation(namespace))
        if await _is_ahead(connection, namespace=namespace):
            return
        if fault := find_encoding_fault(await connection.fetchval("SHOW server_encoding")):
            logger.warning("%s", fault)
        await _run(connection, lambda heads, _: scripts._upgrade_revs(revision, heads), namespace=namespace)


async def run_downgrade(dsn: str | None, *, namespace: str, revision: str) -> None:
    """See `pgbus.migrate.downgrade`; the arguments are right."""
    scripts = _scripts()
    async with session(dsn) as connection, connection.transaction():
        await connection.execute(migration_lock(namespace))
        if await _read_known_revision(connection, namespace=namespace) is None:
            return
        await _run(connection, lambda heads, _: scripts._downgrade_revs(revision, heads), namespace=namespace)
        if revision == "base":
            await connection.execute(f"DROP TABLE {quote_identifier(namespace)}.{VERSION_TABLE}")


def upgrade_script(*, namespace: str, start: str | None, revision: str) -> str:
    """See `pgbus.migrate.sql`; the arguments are right."""
    body = upgrade_statements(namespace=namespace, start=start, revision=revision)
    return "\n\n".join(["\\set ON_ERROR_STOP on", "BEGIN;", body, "COMMIT;"]) + "\n"


def upgrade_statements(*, namespace: str, start: str | None, revision: str) -> str:
    """Return the statements of an upgrade from `start`, for an open transaction; they fail if the database has another
    revision.
    """
    begin = [_preparation(namespace)]
    if start:
        begin.append(_START.format(start=start, schema=quote_identifier(namespace)))
    scripts = _scripts()
    plan = lambda heads, _: scripts._upgrade_revs(revision, heads)  # noqa: E731 - as Alembic takes it
    return "\n\n".join([*begin, _offline(plan, namespace=namespace, start=start)])


def downgrade_statements(*, namespace: str, start: str, revision: str) -> str:
    """Return the statements of a downgrade from `start`, for an open transaction; they fail if the database has another
    revision.
    """
    begin = [f"{migration_lock(namespace)};", _START.format(start=start, schema=quote_identifier(namespace))]
    scripts = _scripts()
    plan = lambda heads, _: scripts._downgrade_revs(revision, heads)  # noqa: E731 - as Alembic takes it
    end = [f"DROP TABLE {quote_identifier(namespace)}.{VERSION_TABLE};"] if revision == "base" else []
    return "\n\n".join([*begin, _offline(plan, namespace=namespace, start=start), *end])


def _offline(plan: Plan, *, namespace: str, start: str | None) -> str:
    """Return the SQL that Alembic would run."""
    output = io.StringIO()
    options = {**_options(plan, namespace=namespace), "as_sql": True, "output_buffer": output, "starting_rev": start}
    _migrate(MigrationContext.configure(dialect_name="postgresql", opts=options))
    return output.getvalue().rstrip()


def execute_script(name: str) -> None:
    """Run one file of `migrations/sql`, in the namespace of the current migration. For revisions."""
    context = _migration.get()
    namespace = context.version_table_schema
    assert namespace is not None
    text = in_namespace(read_script(name), namespace)
    if context.as_sql:
        context.impl.static_output(text)
        return
    # Several statements at once need the driver's own `execute`: SQLAlchemy's would prepare them as one.
    assert context.connection is not None
    adapted = context.connection.connection.dbapi_connection
    assert adapted is not None
    adapted.run_async(lambda driver: driver.execute(text))


async def _is_ahead(connection: Connection, *, namespace: str) -> bool:
    """Whether newer code has upgraded the database, in a way that lets ours go on; raises SchemaVersionError if not."""
    found = await read_schema(connection, namespace=namespace)
    if found is None or found.revision in revisions():
        return False
    if fault := find_fault(found, code=Code.this(), namespace=namespace):
        raise SchemaVersionError(fault)
    return True


async def _read_known_revision(connection: Connection, *, namespace: str) -> str | None:
    found = await read_revision(connection, namespace=namespace)
    if found is not None and found not in revisions():
        raise SchemaVersionError(unknown_revision(found, namespace=namespace))
    return found


def _preparation(namespace: str) -> str:
    return _PREPARATION.format(lock=migration_lock(namespace), schema=quote_identifier(namespace)).rstrip()


async def _run(connection: Connection, plan: Plan, *, namespace: str) -> None:
    """Run Alembic over the connection, inside the transaction that it is in."""

    async def lend() -> Connection:
        return connection

    def run(borrowed: SqlalchemyConnection) -> None:
        _migrate(MigrationContext.configure(borrowed, opts=_options(plan, namespace=namespace)))

    # As SQLAlchemy believes in AUTOCOMMIT it neither begins nor ends a transaction, and as its pool is static it does
    # not close the connection: both are the caller's.
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lend, poolclass=StaticPool, isolation_level="AUTOCOMMIT"
    )
    try:
        async with engine.connect() as borrowed:
            await borrowed.run_sync(run)
    except DBAPIError as error:
        # What the server said, and not the whole statement with it.
        raise (error.orig and error.orig.__cause__) or error from None


def _migrate(context: MigrationContext) -> None:
    reset = _migration.set(context)
    try:
        context.run_migrations()
    finally:
        _migration.reset(reset)


def _options(plan: Plan, *, namespace: str) -> dict[str, Any]:
    return {"fn": plan, "version_table": VERSION_TABLE, "version_table_schema": namespace}


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(scripts_directory()).replace("%", "%%"))
    return ScriptDirectory.from_config(config)
