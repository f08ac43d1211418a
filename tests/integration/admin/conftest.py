"""An operator, and the channel on which workers are told what an operator did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pgbus.admin import Admin
from pgbus.config import Config
from tests.conftest import Connect


@pytest.fixture
async def admin(database: str) -> AsyncIterator[Admin]:
    async with Admin.connect(Config(dsn=database)) as connected:
        yield connected


@pytest.fixture
async def reloads(database: str, connect: Connect) -> asyncio.Queue[object]:
    """What workers are told on their channel."""
    heard: asyncio.Queue[object] = asyncio.Queue()
    connection = await connect(database)
    await connection.add_listener("pgbus_work", lambda *call: heard.put_nowait(call[-1]))
    return heard
