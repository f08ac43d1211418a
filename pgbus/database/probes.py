"""Looks at the way to the database: whether a notification comes through, and whether a pooler stands in between."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from uuid import uuid4

from pgbus.config import Config
from pgbus.database.connections import connect
from pgbus.database.migrate.sessions import session
from pgbus.errors import ConfigurationError


async def time_notification(config: Config, *, limit: float) -> float | None:
    """The seconds from a NOTIFY to its arrival in another session, None if it takes longer than `limit`."""
    arrived = asyncio.Event()
    # A channel of this probe alone: of two doctors at once, each hears its own notification.
    channel = f"{config.namespace}_probe_{uuid4().hex[:8]}"

    def note(*_: object) -> None:
        arrived.set()

    async with session(config.session_dsn) as hearing, session(config.session_dsn) as telling:
        await hearing.add_listener(channel, note)
        started = time.perf_counter()
        # The NOTIFY itself may wait, for the lock that all commits with one share.
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await telling.execute(f"NOTIFY {channel}")
                await arrived.wait()
                return time.perf_counter() - started
    return None


async def find_pooler(config: Config) -> str | None:
    """Return the complaint about a pooler that shares sessions among its clients; None if there is none."""
    try:
        connection = await connect(config)
    except ConfigurationError as error:
        return str(error)
    await connection.close()
    return None
