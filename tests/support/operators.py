"""What operators' tests look for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from pgbus.admin import EventRecord
from tests.support.rows import Rows
from tests.support.waiting import PATIENCE

HOUR = timedelta(hours=1)
NOON = datetime(2025, 1, 31, 12, tzinfo=UTC)


def positions(records: list[EventRecord]) -> list[int | None]:
    return [record.event.position for record in records]


async def told_to_reload(reloads: asyncio.Queue[object]) -> bool:
    return await asyncio.wait_for(reloads.get(), PATIENCE) == "reload"


async def owed(rows: Rows) -> list[tuple[int, str]]:
    found = await rows.connection.fetch("SELECT first_position, state FROM pgbus.pending ORDER BY 1")
    return [tuple(row) for row in found]
