"""Carries out, in the background, the operations that people have confirmed on a page."""

from __future__ import annotations

import asyncio
import logging

from pgbus.admin import Admin
from pgbus.config import Config
from pgbus.database.faults import DATABASE_ERRORS
from pgbus.database.statements.operations import Why
from pgbus.errors import PgbusError

logger = logging.getLogger("pgbus")

AT_ONCE = 2
"""Operations that are carried out at once, each on a connection of its own; more wait for one of them."""


class Carrier:
    """Keeps a task for each operation until it has ended.

    If this process ends before, the operation stays `running`, and its row says how far it is: anyone can continue it.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    def carries(self, operation_id: int) -> bool:
        """Whether this process carries out the operation now."""
        return operation_id in self._tasks

    def start(self, operation_id: int, *, continued: Why | None = None) -> None:
        """Carry out an operation, or what is left of it: `continued` is who continues it, and why."""
        if operation_id not in self._tasks:
            task = asyncio.create_task(self._carry(operation_id, continued), name=f"pgbus operation {operation_id}")
            self._tasks[operation_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(operation_id))

    async def finish(self) -> None:
        """Wait until nothing is carried out."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def close(self) -> None:
        """End all tasks, each after what the server does at this moment."""
        for task in list(self._tasks.values()):
            task.cancel()
        await self.finish()

    async def _carry(self, operation_id: int, continued: Why | None) -> None:
        try:
            async with self._turns, Admin.connect(self._config) as admin:
                if continued is None:
                    await admin.operations.carry_out(operation_id)
                else:
                    await admin.operations.resume(operation_id, **continued)
        except (*DATABASE_ERRORS, PgbusError) as error:
            logger.warning("operation %s was broken off and can be continued: %s", operation_id, error)
