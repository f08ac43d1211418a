"""Schedules of a test, and their runs."""

import asyncpg

import pgbus
from tests.support.workers import running


async def runs(connection: asyncpg.Connection, name: str = "task") -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await connection.fetch(
        "SELECT * FROM pgbus.schedule_history WHERE schedule_name = $1 ORDER BY started_at", name
    )
    return rows


async def begun(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """The runs whose task was called: what is claimed at the moment that its worker begins to stop is given back."""
    return [row for row in await runs(connection) if row["outcome"] != "cancelled"]


async def declare(bus: pgbus.Bus) -> None:
    """Register the bus's schedules, and go."""
    async with running(bus):
        pass
