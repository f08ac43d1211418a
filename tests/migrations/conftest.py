"""These tests run on every PostgreSQL whose programs PGBUS_PG_BINDIRS names (directories, `:` between them)."""

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg
import pytest

from pgbus.embedded import EmbeddedPostgres, find_binaries
from pgbus.errors import EmbeddedPostgresError
from pgbus.testing.databases import FAST_SETTINGS
from tests.migrations.golden import dump_schema, major_version
from tests.support import DatabaseServer

Dump = Callable[[str], str]

PASSWORD = "x"

BINDIRS = [Path(directory) for directory in os.environ.get("PGBUS_PG_BINDIRS", "").split(os.pathsep) if directory]

if BINDIRS:

    @pytest.fixture(scope="session", params=BINDIRS, ids=lambda bindir: f"pg{major_version(bindir / 'postgres')}")
    def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
        with EmbeddedPostgres(bindir=request.param, settings=FAST_SETTINGS) as embedded:
            found = DatabaseServer(embedded.dsn())
            try:
                yield found
            finally:
                found.close()


@pytest.fixture(scope="session")
def major(server: DatabaseServer) -> int:
    """The server's major version."""
    with psycopg.connect(server.dsn) as connection:
        return connection.info.server_version // 10_000


@pytest.fixture(scope="session")
def programs(major: int) -> Path:
    """Directory of `psql` and `pg_dump` of the server's own version."""
    try:
        directories = [*BINDIRS, find_binaries().directory]
    except EmbeddedPostgresError:
        directories = BINDIRS
    for directory in directories:
        if (directory / "pg_dump").exists() and major_version(directory / "pg_dump") == major:
            return directory
    pytest.skip(f"needs pg_dump and psql of version {major}: name their directory in PGBUS_PG_BINDIRS")


@pytest.fixture(scope="session")
def dump(programs: Path) -> Dump:
    """`dump(dsn)` is the normalised schema of a database."""
    return partial(dump_schema, pg_dump=programs / "pg_dump")


def dsn_of_user(dsn: str, user: str) -> str:
    """The same database for another user, whose password is PASSWORD."""
    parts = urlsplit(dsn)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{PASSWORD}@{address}"))


@pytest.fixture
def namespace(server: DatabaseServer) -> Iterator[str]:
    """A namespace of the test's own, because its roles belong to the whole server; they are dropped afterwards."""
    name = f"t{uuid.uuid4().hex[:12]}"
    yield name
    asyncio.run(drop_roles(server.dsn, name))


async def drop_roles(dsn: str, namespace: str) -> None:
    """Drop the group roles of a namespace, and users that are named after it."""
    connection = await asyncpg.connect(dsn)
    for row in await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE $1", f"{namespace}\\_%"):
        await connection.execute(f"DROP ROLE {row['rolname']}")
    await connection.close()


# Asks for `namespace` first, so that the database, and with it all that the roles were granted, is gone before them.
@pytest.fixture
def home(namespace: str, server: DatabaseServer) -> Iterator[str]:
    """DSN of an empty database."""
    with server.temporary_database() as dsn:
        yield dsn
