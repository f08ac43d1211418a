"""The setting `PGBUS` of a Django project, and the DSN of the database that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import connections

from pgbus.config.dsn import read_dsn
from pgbus.errors import ConfigurationError

_OWN = ("database", "direct_database")
# What Django passes to psycopg besides what libpq understands.
_OF_PSYCOPG = frozenset({"autocommit", "context", "cursor_factory", "pool", "prepare_threshold", "row_factory"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectSettings:
    """The values of the setting `PGBUS`.

    - `database`: the alias of the database that has the bus; default "default".
    - `direct_database`: the alias of the same database past a transaction-mode pooler, for LISTEN and locks; default:
      none.
    - `config`: every other key, in lower case: settings of `Config`.
    """

    database: str = "default"
    direct_database: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def dsns(self) -> dict[str, str]:
        """The databases, as settings of `Config`; in a test run, the test's."""
        found = {"dsn": dsn_of(self.database)}
        return found if self.direct_database is None else {**found, "direct_dsn": dsn_of(self.direct_database)}


def read_settings() -> ProjectSettings:
    """The setting PGBUS as it is now; raises ConfigurationError for an invalid value."""
    given = getattr(settings, "PGBUS", {})
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"PGBUS in Django's settings must be a dict, not {type(given).__name__}")
    config = {str(name).lower(): value for name, value in given.items()}
    for name, instead in (("dsn", "DATABASE"), ("direct_dsn", "DIRECT_DATABASE")):
        if name in config:
            raise ConfigurationError(
                f"PGBUS[{name.upper()!r}] in Django's settings: name one of DATABASES as {instead}; the bus is in the "
                "database that Django writes to, also in a test run"
            )
    own = {name: config.pop(name) for name in _OWN if name in config}
    for name in ("database", "direct_database"):
        if (own.get(name) or "default") not in connections.settings:
            raise ConfigurationError(
                f"PGBUS[{name.upper()!r}] in Django's settings is {own[name]!r}, which is not an alias of DATABASES: "
                f"{', '.join(connections.settings)}"
            )
    return ProjectSettings(**own, config=config)


def dsn_of(alias: str) -> str:
    """The DSN of one of DATABASES, with those of its OPTIONS that are libpq's.

    Raises ConfigurationError for a database that is not PostgreSQL.
    """
    connection = connections.create_connection(alias)  # not opened, and not this thread's
    if connection.vendor != "postgresql":
        raise ConfigurationError(
            f"the database {alias!r} of Django's settings is {connection.display_name}: name one with PostgreSQL in "
            "PGBUS['DATABASE']"
        )
    parameters = {
        name: value
        for name, value in connection.get_connection_params().items()
        if name not in _OF_PSYCOPG and value not in (None, "")
    }
    return read_dsn(" ".join(f"{name}={_quoted(value)}" for name, value in parameters.items()))


def _quoted(value: object) -> str:
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
