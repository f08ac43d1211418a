"""A database with a table that handlers write to."""

from __future__ import annotations

import asyncpg
import pytest

from tests.conftest import Connect


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    opened = await connect(database)
    await opened.execute("CREATE TABLE ledger (n text)")
    return opened
