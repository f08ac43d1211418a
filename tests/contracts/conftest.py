from collections.abc import Awaitable, Callable

import asyncpg
import pytest

Connect = Callable[[str], Awaitable[asyncpg.Connection]]


@pytest.fixture
async def observer(database: str, connect: Connect) -> asyncpg.Connection:
    """A second connection, which sees what was committed."""
    return await connect(database)
