"""A worker in the application's process: started with it, and drained before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from pgbus.bus import Bus
from pgbus.database.connections import connect
from pgbus.database.statements import deliveries
from pgbus.database.store import Store
from pgbus.errors import PgbusError

logger = logging.getLogger("pgbus")

# Seconds between looks, for what another process does.
_LOOK_INTERVAL = 0.1


class AppWorker:
    """The worker of an application. `drain_timeout`: seconds to wait at the end for what is yet to be tried."""

    def __init__(self, bus: Bus, *, drain_timeout: float) -> None:
        self._bus = bus
        self._drain_timeout = drain_timeout
        self._end: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it; raises what `bus.client.start_worker` does."""
        await self._bus.client.start_worker()
        self._end = asyncio.create_task(self._bus.client.raise_errors(), name="pgbus worker's end")

    async def stop(self, *, drains: bool) -> None:
        """End it, once each event that was published by now was tried, if it `drains`.

        Retries are not waited for, nor what others publish meanwhile; it all stays in the database. Running handlers
        get the grace period. Raises what had ended the worker before, if it was an error.
        """
        if self._end is None:
            return
        end, self._end = self._end, None
        try:
            if drains and not end.done():
                await self._drain()
        finally:
            end.cancel()
            await asyncio.wait([end])
            await self._bus.client.stop_worker()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._drain_timeout):
                await self._wait_until_tried()
        except TimeoutError:
            logger.warning("stopping with events that no listener has tried yet; they stay in the database")
        except PgbusError as error:
            logger.warning("stopping without checking for remaining events: %s", error)

    async def _wait_until_tried(self) -> None:
        happened = asyncio.Event()
        unobserve = self._bus.telemetry.observe(lambda _: happened.set())
        connection = await connect(self._bus.config)
        try:
            store = Store(connection, namespace=self._bus.config.namespace)
            until = None
            while True:
                names = [listener.name for listener in self._bus.listeners]
                found = await deliveries.count_untried(store, listener_names=names, until=until)
                until = until or found.looked_at
                if not found.untried:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_INTERVAL):
                        await happened.wait()
                happened.clear()
        finally:
            unobserve()
            connection.terminate()
