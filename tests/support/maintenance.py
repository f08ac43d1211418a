"""The leader's maintenance on a connection of a test, step by step."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

import asyncpg

from pgbus.config import Config
from pgbus.database.store import Store
from pgbus.leader.maintenance import Maintenance
from pgbus.telemetry import Telemetry


def make_maintenance(
    connection: asyncpg.Connection,
    *,
    config: Config,
    pool: asyncpg.Connection | None = None,
    partition: int = 0,
    wake_listeners: Callable[[Iterable[int]], None] = lambda _: None,
) -> Maintenance:
    """Maintenance that is the caller's to run; the next event goes to this partition of the log."""
    return Maintenance(
        Store(connection, namespace="pgbus"),
        pool=Store(pool or connection, namespace="pgbus"),
        config=config,
        telemetry=Telemetry(),
        worker_id=0,
        returned_at=-math.inf,
        wake_listeners=wake_listeners,
        partition=lambda: partition,
        begin_period=lambda: None,
        turn=asyncio.Lock(),
    )
