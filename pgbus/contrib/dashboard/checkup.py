"""The newest findings of the doctor, for pages that do not wait for an examination, which takes up to two seconds."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from pgbus.config import Config
from pgbus.doctor import Examination, examine

logger = logging.getLogger("pgbus")

VALID = 60.0
"""Seconds after which the next page that shows the findings has the bus examined again."""


@dataclass(frozen=True, slots=True)
class Report:
    """An examination, and when it was made."""

    examination: Examination
    made_at: datetime


class Checkup:
    """Examines the bus, and keeps the newest report."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._report: Report | None = None
        self._valid_until = float("-inf")
        self._running: asyncio.Task[Report] | None = None

    async def now(self) -> Report:
        """Examine the bus; raises DatabaseUnreachableError and SchemaVersionError."""
        return await asyncio.shield(self._start())

    def latest(self) -> Report | None:
        """The newest report, None before the first; has another one made if it is old."""
        if asyncio.get_running_loop().time() >= self._valid_until:
            self._start().add_done_callback(_note)
        return self._report

    async def close(self) -> None:
        """Give up the examination that is under way."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._running

    def _start(self) -> asyncio.Task[Report]:
        """The examination that is under way, or a new one."""
        if self._running is None or self._running.done():
            # Also after a failure: a database that is away is not asked by each page.
            self._valid_until = asyncio.get_running_loop().time() + VALID
            self._running = asyncio.create_task(self._examine(), name="pgbus dashboard's doctor")
        return self._running

    async def _examine(self) -> Report:
        self._report = Report(await examine(self._config), datetime.now(UTC))
        return self._report


def _note(examination: asyncio.Task[Report]) -> None:
    if not examination.cancelled() and (error := examination.exception()) is not None:
        logger.info("the bus could not be examined for the dashboard: %s", error)
