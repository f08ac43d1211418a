"""The migrations themselves, run by Alembic: against a database, or into a text."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Mapping

from alembic import command, op
from alembic.config import Config
from sqlalchemy import Connection as SqlalchemyConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from pgbus.errors import SchemaVersionError
from pgbus.migrate.sessions import Connection, session
from pgbus.migrate.versions import (
    VERSION_TABLE,
    find_encoding_fault,
    find_fault,
    migration_lock,
    read_revision,
    read_script,
    revisions,
    scripts_directory,
)
from pgbus.sql import in_namespace, quote_identifier

logger = logging.getLogger("pgbus")

# Alembic keeps the context of the migration at hand in module globals.
_alembic = threading.Lock()

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
        RAISE EXCEPTION 'this script upgrades from revision {start}, and the database is not there';
    END IF;
END
$$;"""


async def run_upgrade(dsn: str | None, *, namespace: str, revision: str) -> None:
    """See `pgbus.migrate.upgrade`; the arguments are right."""
    async with session(dsn) as connection, connection.transaction():
        await connection.execute(_preparation(namespace))
        await _read_known_revision(connection, namespace=namespace)
        if fault := find_encoding_fault(await connection.fetchval("SHOW server_encoding")):
            logger.warning("%s", fault)
        await _run(connection, lambda config: command.upgrade(config, revision), namespace=namespace)


async def run_downgrade(dsn: str | None, *, namespace: str, revision: str) -> None:
    """See `pgbus.migrate.downgrade`; the arguments are right."""
    async with session(dsn) as connection, connection.transaction():
        await connection.execute(migration_lock(namespace))
        if await _read_known_revision(connection, namespace=namespace) is None:
            return
        await _run(connection, lambda config: command.downgrade(config, revision), namespace=namespace)
        if revision == "base":
            await connection.execute(f"DROP TABLE {quote_identifier(namespace)}.{VERSION_TABLE}")


def upgrade_script(*, namespace: str, start: str | None, revision: str) -> str:
    """See `pgbus.migrate.sql`; the arguments are right."""
    output = io.StringIO()
    with _alembic:
        config = _configure({"dialect_name": "postgresql"}, namespace=namespace, output=output)
        command.upgrade(config, f"{start}:{revision}" if start else revision, sql=True)
    begin = ["\\set ON_ERROR_STOP on", "BEGIN;", _preparation(namespace)]
    if start:
        begin.append(_START.format(start=start, schema=quote_identifier(namespace)))
    return "\n\n".join([*begin, output.getvalue().rstrip(), "COMMIT;"]) + "\n"


def execute_script(name: str) -> None:
    """Run one file of `migrations/sql`, in the namespace of the migration at hand. For revisions."""
    context = op.get_context()
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


async def _read_known_revision(connection: Connection, *, namespace: str) -> str | None:
    found = await read_revision(connection, namespace=namespace)
    if found is not None and found not in revisions():
        raise SchemaVersionError(find_fault(found, known=revisions(), namespace=namespace))
    return found


def _preparation(namespace: str) -> str:
    return _PREPARATION.format(lock=migration_lock(namespace), schema=quote_identifier(namespace)).rstrip()


async def _run(connection: Connection, migrate: Callable[[Config], None], *, namespace: str) -> None:
    """Run Alembic over the connection, inside the transaction that it is in."""

    async def lend() -> Connection:
        return connection

    def run(borrowed: SqlalchemyConnection) -> None:
        with _alembic:
            migrate(_configure({"connection": borrowed}, namespace=namespace))

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


def _configure(target: Mapping[str, object], *, namespace: str, output: io.StringIO | None = None) -> Config:
    """Alembic's configuration, without a file; `env.py` takes `options` from it."""
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(scripts_directory()).replace("%", "%%"))
    config.attributes["options"] = {**target, "version_table": VERSION_TABLE, "version_table_schema": namespace}
    return config
