"""Frameworks that warn when they are imported, once, before any test is; and a database with a table of users."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from tests.conftest import Connect

collect_ignore_glob: list[str] = []

with warnings.catch_warnings():
    # advanced-alchemy, which Litestar imports, uses a decorator that SQLAlchemy 2.1 deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        importlib.import_module("advanced_alchemy.extensions.litestar")
        importlib.import_module("litestar.testing")
    except ImportError:
        collect_ignore_glob.append("test_litestar*")


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
