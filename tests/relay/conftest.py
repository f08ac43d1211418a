"""One broker of each kind for all tests of a process, with names of their own in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import psycopg
import pytest

from pgbus.testing.databases import DatabaseServer
from tests.relay.brokers import BROKERS, Broker

_NUMBERS = count(1)


@pytest.fixture(scope="session", params=sorted(BROKERS))
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that runs; skips where it is not installed."""
    found = BROKERS[request.param](tmp_path_factory.mktemp(request.param))
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def place() -> str:
    """A name that no other test has."""
    return f"orders-{next(_NUMBERS)}"


@pytest.fixture
def other_bus(server: DatabaseServer, upgraded_template: str) -> Iterator[str]:
    """DSN of another bus, with an identity of its own: a copy of a database has that of its original."""
    with server.temporary_database(template=upgraded_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("UPDATE pgbus.identity SET bus_id = gen_random_uuid()")
        yield dsn
