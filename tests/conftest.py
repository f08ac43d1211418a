"""Fixtures: one server for a test run (one for each xdist worker), and a fresh database for every test."""

import compileall
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from pgbus.embedded import EmbeddedPostgres, find_binaries
from pgbus.errors import EmbeddedPostgresError
from pgbus.testing.databases import DatabaseServer, find_server, upgraded
from tests.support import ROOT
from tests.support.rows import Rows
from tests.support.services import Services

# A busy machine makes single examples slow, or the drawing of them; pytest's own timeout catches what hangs. The same
# examples at each run, so that no change is blamed for a fault that was there: PGBUS_SOAK=1 looks for new ones.
settings.register_profile(
    "pgbus",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="PGBUS_SOAK" not in os.environ,
)
settings.load_profile("pgbus")

CHECKS = [Path(__file__).parent / f"support/{table}.sql" for table in ("deliveries", "history", "causes", "calls")]

Connect = Callable[[str], Awaitable[asyncpg.Connection]]


def pytest_configure(config: pytest.Config) -> None:
    """Keep what was compiled, also where the environment says otherwise (`PYTHONDONTWRITEBYTECODE`, as in containers).

    Tests start many hundreds of processes, each of which would compile pgbus for itself, as xdist's workers all tests.
    """
    sys.dont_write_bytecode = False
    if not hasattr(config, "workerinput"):  # the workers begin later
        compileall.compile_dir(ROOT / "pgbus", quiet=2)


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """Levels belong to the process: commands and Alembic set them, and the next test would inherit them."""
    before = [
        (logger, logger.level, logger.disabled)
        for logger in (logging.root, *logging.root.manager.loggerDict.values())
        if isinstance(logger, logging.Logger)
    ]
    yield
    for logger, level, disabled in before:
        logger.disabled = disabled
        if logger.level != level:
            logger.setLevel(level)


@pytest.fixture(scope="session")
def server() -> Iterator[DatabaseServer]:
    """The server for tests that leave it alone: do not stop it, and change nothing beyond your own database."""
    with find_server() as found:
        yield found


@pytest.fixture
def empty_database(server: DatabaseServer) -> Iterator[str]:
    """DSN of a database with nothing in it."""
    with server.temporary_database() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def upgraded_template(server: DatabaseServer) -> Iterator[str]:
    """Name of a database that was upgraded once, to clone others from; nobody may connect to it."""
    with upgraded(server, prepare=check_rows) as name:
        yield name


async def check_rows(dsn: str) -> None:
    """Have the database refuse what no delivery, call or row of history may be, which production leaves to us."""
    connection = await asyncpg.connect(dsn)
    try:
        for checks in CHECKS:
            await connection.execute(checks.read_text())
    finally:
        await connection.close()


@pytest.fixture
def database(server: DatabaseServer, upgraded_template: str) -> Iterator[str]:
    """DSN of a fresh database with pgbus's schema."""
    with server.temporary_database(template=upgraded_template) as dsn:
        yield dsn


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """`await connect(dsn)` opens an asyncpg connection; all of them are closed after the test."""
    opened: list[asyncpg.Connection] = []

    async def open_connection(dsn: str) -> asyncpg.Connection:
        connection: asyncpg.Connection = await asyncpg.connect(dsn)
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.terminate()


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    """The test's own connection to its database."""
    return await connect(database)


@pytest.fixture
async def rows(database: str, connect: Connect) -> Rows:
    """Rows in that database, as the engine would leave them, over a session of their own."""
    return Rows(await connect(database))


@pytest.fixture
async def services(tmp_path: Path, database: str, connect: Connect) -> Services:
    """Services that run as processes, on a fresh database."""
    return Services(tmp_path, database, await connect(database))


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A durable server (fsync on) of the test's own, to stop, crash and restart; skips where there are no binaries."""
    try:
        find_binaries()
    except EmbeddedPostgresError as error:
        pytest.skip(f"needs PostgreSQL's programs: {error}")
    with EmbeddedPostgres() as private:
        yield private
