"""Publishers in the test's own process, which keep a bit ahead of a listener."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import asyncpg

from tests.chaos.stage import Stage

# Events that are published and not yet handled, at the most: else a slow machine may take minutes for the rest.
AHEAD = 300


class Load:
    """Concurrent publishers that go on when the server is away, and remember what they were told is published.

    They stay a bit ahead of what is told in the table.
    """

    def __init__(self, stage: Stage, topic: str, table: str, *, publishers: int) -> None:
        self._stage = stage
        self._topic = topic
        self._numbers = itertools.count()
        self._stopping = asyncio.Event()
        self._told = 0
        self.published: set[int] = set()
        self.errors: list[Exception] = []
        """What publishers failed with: they do not know what became of the event."""
        publishing = [self._publish() for _ in range(publishers)]
        self._tasks = [asyncio.create_task(one) for one in (self._count(table), *publishing)]

    async def _count(self, table: str) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(Exception):  # the server is away: again
                connection = await asyncpg.connect(self._stage.dsn)
                try:
                    while not self._stopping.is_set():
                        self._told = await connection.fetchval(f"SELECT count(*) FROM {table}")
                        await asyncio.sleep(0.02)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.02)

    async def _publish(self) -> None:
        while not self._stopping.is_set():
            if len(self.published) > self._told + AHEAD:
                await asyncio.sleep(0.01)
                continue
            number = next(self._numbers)
            try:
                await self._stage.bus.publish({"n": number}, topic=self._topic)
            except Exception as error:  # whatever it is: it goes on with another event
                self.errors.append(error)
                await asyncio.sleep(0.02)
            else:
                self.published.add(number)

    async def stop(self) -> None:
        """End once the events that are under way are published."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
