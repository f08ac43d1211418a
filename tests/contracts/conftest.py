import asyncpg
import pytest

from tests.conftest import Connect


@pytest.fixture
async def observer(database: str, connect: Connect) -> asyncpg.Connection:
    """A second connection, which sees what was committed."""
    return await connect(database)
