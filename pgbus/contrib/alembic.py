"""Alembic environments of users: pgbus's tables in their migrations, and out of what `autogenerate` compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alembic.operations import AbstractOperations
from sqlalchemy import Connection, text

from pgbus.database.migrate.scripts import downgrade_statements, upgrade_statements
from pgbus.database.migrate.verbs import check_arguments
from pgbus.database.migrate.versions import VERSION_TABLE, migration_lock, revisions, unknown_revision
from pgbus.database.sql import DEFAULT_NAMESPACE, quote_identifier
from pgbus.errors import SchemaVersionError

# ----------------------------------------------------------------------------------------------------------- migrations


def upgrade_pgbus(op: Any, revision: str, *, start: str | None = None, namespace: str = DEFAULT_NAMESPACE) -> None:
    """Bring pgbus's tables up to `revision`, in the transaction of the user's own migration.

    - `op`: Alembic's `op`, as a revision imports it.
    - `revision`: one of `pgbus.migrate.revisions()`, written out, so that the migration stays what it was.
    - `start`: the revision that the user's earlier migrations have left it at; default: there is no bus yet. Only
      `alembic upgrade --sql` needs it: else the database says where it is, and where it is already, nothing is done.

    The namespace is created if it is missing. Raises ConfigurationError for a namespace or revision that cannot be,
    and SchemaVersionError if the database is newer than this code.
    """
    check_arguments(namespace, revision, extreme="head")
    known = revisions()
    goal = known[-1] if revision == "head" else revision
    if op.get_context().as_sql:
        _write(op, upgrade_statements(namespace=namespace, start=start, revision=goal))
        return
    connection = op.get_bind()
    found = _find_revision(connection, namespace=namespace)
    if found is None or known.index(found) < known.index(goal):
        _execute(connection, upgrade_statements(namespace=namespace, start=found, revision=goal))


def downgrade_pgbus(op: Any, revision: str, *, start: str | None = None, namespace: str = DEFAULT_NAMESPACE) -> None:
    """Take pgbus's tables back to `revision`, in the transaction of the user's own migration; their rows are lost.

    - `revision`: one of `pgbus.migrate.revisions()`, or "base", where nothing is left in the namespace.
    - `start`: as for `upgrade_pgbus`; default: the newest revision.

    Raises what `upgrade_pgbus` raises.
    """
    check_arguments(namespace, revision, extreme="base")
    known = revisions()
    if op.get_context().as_sql:
        _write(op, downgrade_statements(namespace=namespace, start=start or known[-1], revision=revision))
        return
    connection = op.get_bind()
    found = _find_revision(connection, namespace=namespace)
    if found and (revision == "base" or known.index(revision) < known.index(found)):
        _execute(connection, downgrade_statements(namespace=namespace, start=found, revision=revision))


def _find_revision(connection: Connection, *, namespace: str) -> str | None:
    """Where the namespace is, and stays until the transaction ends."""
    # The first statement, too, that the driver's own transaction begins with.
    connection.execute(text(migration_lock(namespace)))
    table = f"{quote_identifier(namespace)}.{VERSION_TABLE}"
    if connection.scalar(text("SELECT to_regclass(:name)"), {"name": table}) is None:
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {table}"))  # noqa: S608 - quoted
    if found is not None and found not in revisions():
        raise SchemaVersionError(unknown_revision(found, namespace=namespace))
    return found


def _write(op: AbstractOperations, statements: str) -> None:
    op.get_context().impl.static_output(statements)


def _execute(connection: Connection, statements: str) -> None:
    """Run several statements at once, which drivers do where there are no parameters."""
    raw: Any = connection.connection.dbapi_connection
    if connection.dialect.driver == "asyncpg":
        # SQLAlchemy's own way prepares them, which is for one statement alone.
        raw.run_async(lambda driver: driver.execute(statements))
    else:
        connection.exec_driver_sql(statements, execution_options={"no_parameters": True})


# --------------------------------------------------------------------------------------------------------- autogenerate


def include_name(
    name: str | None, type_: str, parent_names: Mapping[str, str | None], *, namespace: str = DEFAULT_NAMESPACE
) -> bool:
    """For `context.configure(include_name=...)`: everything in the database but what belongs to pgbus.

    Together with a rule of your own: `lambda *names: include_name(*names) and mine(*names)`.
    """
    return (name if type_ == "schema" else parent_names.get("schema_name")) != namespace


def include_object(
    item: Any,
    name: str | None,  # noqa: ARG001 - Alembic passes it
    type_: str,
    reflected: bool,  # noqa: ARG001 - the same
    compare_to: object,  # noqa: ARG001 - the same
    *,
    namespace: str = DEFAULT_NAMESPACE,
) -> bool:
    """For `context.configure(include_object=...)`: the same of what the metadata has, such as OutboxEvent's table."""
    table = item if type_ == "table" else getattr(item, "table", None)
    return getattr(table, "schema", None) != namespace
