"""A database with a table that handlers write to."""

from __future__ import annotations

import asyncpg
import pytest

from tests.conftest import Connect


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    """A connection to the bus's database, which has a table `ledger` for handlers to write to."""
    opened = await connect(database)
    await opened.execute("CREATE TABLE ledger (n integer, backend integer DEFAULT pg_backend_pid())")
    return opened
