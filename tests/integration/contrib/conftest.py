"""Frameworks that warn when they are imported, once, before any test is; databases for them; a Django project."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from pgbus.testing.databases import DatabaseServer
from tests.conftest import Connect
from tests.support.django_project import in_database, migrate, setup

collect_ignore_glob: list[str] = []

with warnings.catch_warnings():
    # advanced-alchemy, which Litestar imports, uses a decorator that SQLAlchemy 2.1 deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        importlib.import_module("advanced_alchemy.extensions.litestar")
        importlib.import_module("litestar.testing")
    except ImportError:
        collect_ignore_glob.append("test_litestar*")

setup()  # before the test modules, which import models


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    opened = await connect(database)
    await opened.execute("CREATE TABLE users (name text)")
    return opened


@pytest.fixture
async def sessions(database: str) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    engine = create_async_engine("postgresql+asyncpg://", connect_args={"dsn": database})
    yield async_sessionmaker(engine, expire_on_commit=False)
    await engine.dispose()


@pytest.fixture(scope="session")
def django_template(server: DatabaseServer, upgraded_template: str) -> Iterator[str]:
    """Name of a database with the tables of the Django project and of the bus, to clone others from."""
    name = server.create_database(template=upgraded_template)
    with in_database(server.dsn_of(name)):
        migrate()
    server.seal_database(name)
    yield name
    server.drop_database(name)


@pytest.fixture
def django_database(server: DatabaseServer, django_template: str) -> Iterator[str]:
    """The DSN of the database that the Django project uses, with its tables and the bus's."""
    with server.temporary_database(template=django_template) as dsn, in_database(dsn):
        yield dsn
