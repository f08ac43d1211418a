"""A durable server of the doctor's own, as its checks look at the whole server, and a bus on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from pgbus import migrate
from pgbus.doctor import examination, notifications
from pgbus.embedded import EmbeddedPostgres, find_binaries
from pgbus.errors import EmbeddedPostgresError
from pgbus.testing.databases import DatabaseServer, upgraded
from tests.integration.doctor.ward import Ward
from tests.support.waiting import PATIENCE

SETTINGS: dict[str, str | int] = {"max_prepared_transactions": 5, "max_connections": 40, "wal_level": "logical"}


@pytest.fixture(autouse=True)
def the_machine_may_be_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for each answer: what takes a second on a busy machine is no fault, and is not to be skipped."""
    monkeypatch.setattr(examination, "PATIENCE", PATIENCE)
    monkeypatch.setattr(notifications, "LIMIT", PATIENCE)


@pytest.fixture(scope="module")
def ward_server() -> Iterator[DatabaseServer]:
    try:
        find_binaries()
    except EmbeddedPostgresError as error:
        pytest.skip(f"needs PostgreSQL's programs: {error}")
    with EmbeddedPostgres(settings=SETTINGS) as private:
        server = DatabaseServer(private.dsn())
        yield server
        server.close()


@pytest.fixture(scope="module")
def ward_template(ward_server: DatabaseServer) -> Iterator[str]:
    with upgraded(ward_server, prepare=migrate.grant_roles) as name:
        yield name


@pytest.fixture
async def ward(ward_server: DatabaseServer, ward_template: str) -> AsyncIterator[Ward]:
    """A healthy bus: the locks of a worker that leads and runs the listener "mailer" are held."""
    with ward_server.temporary_database(template=ward_template) as dsn:
        connection = await asyncpg.connect(dsn)
        ward = Ward(dsn, connection)
        await ward.settle_in()
        yield ward
        await connection.close()
