"""The server that tests use, whichever it is, and fresh databases on it."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from pgbus.embedded import EmbeddedPostgres, find_binaries
from pgbus.errors import EmbeddedPostgresError

# Durability costs time and means nothing for a server that is thrown away; tests about it start an `own_server`.
FAST_SETTINGS: dict[str, str | int] = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": 200,
    "max_locks_per_transaction": 256,
    "autovacuum_naptime": "5s",
}

_MEMORY = Path("/dev/shm")
_ROOM = 1 << 30  # bytes


class DatabaseServer:
    """A server on which tests may create databases; `dsn` names its maintenance database."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._connection = psycopg.connect(dsn, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def dsn_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{quote(database, safe='')}"))

    def create_database(self, *, template: str = "template1") -> str:
        """Create a database under a name of its own and return the name."""
        name = f"pgbus_test_{uuid.uuid4().hex[:12]}"
        self._execute("CREATE DATABASE {} TEMPLATE {}", name, template)
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, under the connections that a test may have left behind."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    @contextmanager
    def temporary_database(self, *, template: str = "template1") -> Iterator[str]:
        """A database that is dropped afterwards; yields its DSN."""
        name = self.create_database(template=template)
        try:
            yield self.dsn_of(name)
        finally:
            self.drop_database(name)

    def _execute(self, statement: LiteralString, *names: str) -> None:
        self._connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def find_server() -> Iterator[DatabaseServer]:
    """PGBUS_TEST_DSN if it is set; or an embedded server; or one in Docker, where there are no binaries for it."""
    with _find_dsn() as dsn:
        server = DatabaseServer(dsn)
        try:
            yield server
        finally:
            server.close()


@contextmanager
def _find_dsn() -> Iterator[str]:
    if given := os.environ.get("PGBUS_TEST_DSN"):
        yield given
        return
    try:
        find_binaries()
    except EmbeddedPostgresError as error:
        with _container(reason=str(error)) as dsn:
            yield dsn
        return
    with _temporary_files_in_memory():
        server = EmbeddedPostgres(settings=FAST_SETTINGS).start()
    try:
        yield server.dsn()
    finally:
        server.close()


@contextmanager
def _temporary_files_in_memory() -> Iterator[None]:
    """Where Linux has room for it: a database is hundreds of files, and cloning one takes 15 ms there, not 200."""
    kept = tempfile.tempdir
    if _MEMORY.is_dir():
        info = os.statvfs(_MEMORY)
        # A copy of the server's programs may have to run from there, which containers tend to forbid.
        if info.f_bavail * info.f_frsize >= _ROOM and not info.f_flag & os.ST_NOEXEC:
            tempfile.tempdir = str(_MEMORY)
    try:
        yield
    finally:
        tempfile.tempdir = kept


@contextmanager
def _container(*, reason: str) -> Iterator[str]:
    import docker
    from docker.errors import DockerException
    from testcontainers.community.postgres import PostgresContainer

    try:
        docker.from_env().ping()
    except DockerException as error:
        raise RuntimeError(
            f"tests need a PostgreSQL server: set PGBUS_TEST_DSN, start Docker ({error}), or install one. {reason}"
        ) from error
    options = " ".join(f"-c {name}={value}" for name, value in FAST_SETTINGS.items())
    with PostgresContainer("postgres:18", driver=None).with_command(f"postgres {options}") as container:
        yield container.get_connection_url()
