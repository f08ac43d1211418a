"""The verbs that run migrations. Alembic and SQLAlchemy, half a second of imports, are loaded only when one is used."""

from __future__ import annotations

from pgbus.config import Config
from pgbus.database.migrate.sessions import run_blocking
from pgbus.database.migrate.versions import revisions
from pgbus.database.sql import DEFAULT_NAMESPACE
from pgbus.errors import ConfigurationError


def upgrade(dsn: str | None, *, namespace: str = DEFAULT_NAMESPACE, revision: str = "head") -> None:
    """Upgrade the namespace to `revision`, and create it if it is missing, in one transaction.

    Any number of processes may do this at once: one upgrades, and the others wait and find it done. The DSN is what
    asyncpg takes, None means the PG* variables. Raises DatabaseUnreachableError, PrivilegeError, SchemaVersionError if
    the database is newer than this code, and ConfigurationError for a namespace or revision that cannot be.
    """
    from pgbus.database.migrate.scripts import run_upgrade

    check_arguments(namespace, revision, extreme="head")
    run_blocking(run_upgrade(dsn, namespace=namespace, revision=revision))


def downgrade(dsn: str | None, *, namespace: str = DEFAULT_NAMESPACE, revision: str) -> None:
    """Downgrade the namespace to `revision`, in one transaction; tables of later revisions are dropped with their rows.

    The revision "base" leaves the namespace empty. Raises what `upgrade` raises.
    """
    from pgbus.database.migrate.scripts import run_downgrade

    check_arguments(namespace, revision, extreme="base")
    run_blocking(run_downgrade(dsn, namespace=namespace, revision=revision))


def sql(*, namespace: str = DEFAULT_NAMESPACE, start: str | None = None, revision: str = "head") -> str:
    """Return the upgrade from `start` (default: an empty database) to `revision` as one script for psql; it does not
    connect.

    Raises ConfigurationError for a namespace or revision that cannot be.
    """
    from pgbus.database.migrate.scripts import upgrade_script

    check_arguments(namespace, revision, extreme="head")
    if start is not None:
        check_arguments(namespace, start, extreme="head")
    return upgrade_script(namespace=namespace, start=start, revision=revision)


def check_arguments(namespace: str, revision: str, *, extreme: str) -> None:
    """Raise ConfigurationError for a namespace or revision that cannot be; `extreme` is "head" or "base"."""
    Config(namespace=namespace)  # which has the rules for it
    if revision not in (*revisions(), extreme):
        raise ConfigurationError(
            f"revision: there is no {revision!r}; this version of pgbus has {', '.join(revisions())} and {extreme!r}"
        )
