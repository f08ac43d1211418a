"""Events that no transaction holds: published at once, by tasks on the application's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from pgbus.aio.backoff import Backoff
from pgbus.aio.threads import is_loop_running
from pgbus.bus import Bus
from pgbus.contrib.litestar.transactions import Emission
from pgbus.errors import DatabaseUnreachableError

logger = logging.getLogger("pgbus")

# Seconds.
_PAUSE = 0.1
_PAUSE_LIMIT = 5.0


class Writer:
    """Publishes in the background; made on the loop that it publishes on.

    While the database cannot be reached, events wait in this process's memory; one whose connection breaks as it is
    published may be published twice. What the database refuses is logged, and lost.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        # What is not published yet: in memory, and nowhere else.
        self._tasks: set[asyncio.Task[None]] = set()
        # Set once: then a database that is away is not waited for any longer.
        self._closing = asyncio.Event()

    def write(self, emission: Emission) -> None:
        """Publish it soon; from any thread."""
        if is_loop_running() and asyncio.get_running_loop() is self._loop:
            self._begin(emission)
        else:
            self._loop.call_soon_threadsafe(self._begin, emission)

    async def flush(self, *, timeout: float) -> None:
        """Wait until the events that were written are published, at most this many seconds."""
        await asyncio.sleep(0)  # what threads have handed over is begun
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    async def close(self, *, timeout: float) -> None:
        """`flush`, without waiting for a database that cannot be reached; events that are left are logged, and lost."""
        self._closing.set()
        await self.flush(timeout=timeout)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            logger.error("%d events were not published within %g seconds, and are lost", len(self._tasks), timeout)
            await asyncio.wait(self._tasks)

    def _begin(self, emission: Emission) -> None:
        task = self._loop.create_task(self._publish(emission), name="pgbus emit")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(self, emission: Emission) -> None:
        backoff = Backoff(_PAUSE, _PAUSE_LIMIT)
        while True:
            try:
                await self._bus.publish(emission.payload, topic=emission.topic)
            except DatabaseUnreachableError as error:
                if self._closing.is_set():
                    logger.error("%s was not published, and is lost: %s", emission.topic, error)
                    return
                if not backoff.tries:
                    logger.warning("%s waits for the database: %s", emission.topic, error)
            except Exception:
                logger.exception("%s was not published, and is lost", emission.topic)
                return
            else:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff.next()):
                    await self._closing.wait()
