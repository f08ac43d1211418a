"""Connections of a test, of somebody else, and a bus for code that blocks."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
import psycopg
import pytest

import pgbus
from tests.conftest import Connect


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    opened = await connect(database)
    await opened.execute("CREATE TABLE notes (note text)")
    return opened


@pytest.fixture
async def outside(database: str, connect: Connect) -> asyncpg.Connection:
    """Someone else's connection."""
    return await connect(database)


@pytest.fixture
def sync_bus(database: str) -> Iterator[pgbus.Bus]:
    made = pgbus.create(database)
    yield made
    made.close_sync()


@pytest.fixture
def notes(database: str) -> None:
    with psycopg.connect(database) as opened:
        opened.execute("CREATE TABLE notes (note text)")
